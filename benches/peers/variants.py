"""The ways to the server that are compared: a direct connection, two peers, respgate. Two threads each."""

import http.client
import shutil
from dataclasses import dataclass, field
from pathlib import Path

from .fleet import Child, Fleet, SetupError, accepts, free_port

THREADS = 2
NAMES = ["direct", "haproxy", "twemproxy", "respgate"]
BUILD = "cargo build --release --bin respgate"

NOTES = {
    "direct": "no proxy",
    "haproxy": f"TCP mode, nbthread {THREADS}, one server connection per client",
    "twemproxy": "one thread (it has no such setting), one server connection",
    "respgate": f"--workers {THREADS}",
}

HAPROXY = """\
global
    nbthread {threads}
    maxconn 8000
defaults
    mode tcp
    timeout connect 5s
    timeout client 10m
    timeout server 10m
listen valkey
    bind 127.0.0.1:{port}
    server primary 127.0.0.1:{server}
"""

TWEMPROXY = """\
valkey:
  listen: 127.0.0.1:{port}
  redis: true
  hash: fnv1a_64
  distribution: ketama
  preconnect: true
  auto_eject_hosts: false
  backlog: 1024
  servers:
    - 127.0.0.1:{server}:1 primary
"""


@dataclass
class Variant:
    """One way to the server. `proxy` is None for the direct connection; `options` are the load generator's."""

    name: str
    port: int
    proxy: Child | None
    options: list = field(default_factory=list)


def program(*names: str) -> str:
    """The path of the first of `names` that is installed. Raises SetupError with the packages to install."""
    for name in names:
        if path := shutil.which(name, path="/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin"):
            return path
        if path := shutil.which(name):
            return path
    raise SetupError(
        f"{' or '.join(names)} is not installed: "
        "apt-get install valkey-server valkey-tools (or redis-server redis-tools), and of the peers haproxy nutcracker "
        "stunnel4 nginx libnginx-mod-stream, or leave a variant out with --only"
    )


def start_server(fleet: Fleet) -> tuple[Child, int]:
    """A server without persistence. Returns it with its port."""
    port = free_port()
    argv = [program("valkey-server", "redis-server"), "--bind", "127.0.0.1", "--port", port]
    child = fleet.start("server", [*argv, "--save", "", "--appendonly", "no", "--maxclients", 10000])
    child.await_ready(lambda: accepts(port))
    return child, port


def start(name: str, fleet: Fleet, server_port: int, respgate: Path, wrapper: list = (), keys: str = "") -> Variant:
    """Starts the proxy of variant `name` in front of the server; `wrapper` goes before its command line. `keys` are lines of
    respgate's configuration file."""
    if name == "direct":
        return Variant(name, server_port, None)
    port = free_port()
    starter = {"haproxy": _haproxy, "twemproxy": _twemproxy, "respgate": _respgate}[name]
    argv, ready = starter(fleet, port, server_port, respgate)
    if keys and name == "respgate":
        config = fleet.folder / "respgate.toml"
        config.write_text(keys)
        argv += ["--config", config]
    child = fleet.start(name, [*wrapper, *argv])
    child.await_ready(ready)
    return Variant(name, port, child)


def _haproxy(fleet: Fleet, port: int, server_port: int, _respgate: Path):
    config = fleet.folder / "haproxy.cfg"
    config.write_text(HAPROXY.format(threads=THREADS, port=port, server=server_port))
    return [program("haproxy"), "-db", "-f", config], lambda: accepts(port)


def _twemproxy(fleet: Fleet, port: int, server_port: int, _respgate: Path):
    config = fleet.folder / "twemproxy.yml"
    config.write_text(TWEMPROXY.format(port=port, server=server_port))
    argv = [program("nutcracker"), "-c", config, "-a", "127.0.0.1", "-s", free_port(), "-v", 4]
    return argv, lambda: accepts(port)


def _respgate(_fleet: Fleet, port: int, server_port: int, respgate: Path):
    admin = free_port()
    argv = respgate_argv(respgate, port, f"redis://127.0.0.1:{server_port}")
    return [*argv, "--admin", f"127.0.0.1:{admin}"], lambda: respgate_ready(admin)


def respgate_argv(respgate: Path, port: int, upstream: str, workers: int = THREADS) -> list:
    """The command line of respgate between `port` and the URL `upstream`."""
    if not respgate.is_file():
        raise SetupError(f"{respgate} is missing: build it with `{BUILD}`, or name another with --respgate")
    return [respgate.resolve(), "--listen", f"127.0.0.1:{port}", "--upstream", upstream, "--workers", workers]


def respgate_ready(admin: int) -> bool:
    """Whether respgate with this admin port is connected to its server."""
    connection = http.client.HTTPConnection("127.0.0.1", admin, timeout=1)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == 200
    except http.client.HTTPException:
        return False
    finally:
        connection.close()
