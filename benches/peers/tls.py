"""The ways to the server that speak TLS on one side: to the clients (`in`) or to the server (`out`)."""

from pathlib import Path

from .certificates import Certificates
from .fleet import Child, Fleet, accepts, free_port
from .variants import THREADS, Variant, program, respgate_argv, respgate_ready

LEGS = ["in", "out"]
NAMES = ["direct", "stunnel", "haproxy", "nginx", "respgate"]
PEERS = ["stunnel", "haproxy", "nginx"]
NGINX_STREAM = ["/usr/lib/nginx/modules", "/usr/lib64/nginx/modules", "/usr/share/nginx/modules"]

NOTES = {
    "direct": "no proxy, TLS to the server",
    "stunnel": "a thread and a server connection per client",
    "haproxy": f"TCP mode, nbthread {THREADS}, a server connection per client",
    "nginx": f"stream, worker_processes {THREADS}, a server connection per client",
    "respgate": f"--workers {THREADS}",
}

STUNNEL = """\
foreground = yes
pid =
debug = warning
socket = l:TCP_NODELAY=1
socket = r:TCP_NODELAY=1
[valkey]
accept = 127.0.0.1:{port}
connect = 127.0.0.1:{server}
{leg}
"""
STUNNEL_LEG = {
    "in": "cert = {both}",
    "out": "client = yes\nCAfile = {authority}\nverifyChain = yes\ncheckHost = localhost\nsni = localhost",
}

HAPROXY = """\
global
    nbthread {threads}
    maxconn 8000
    ssl-default-bind-options ssl-min-ver TLSv1.2
defaults
    mode tcp
    timeout connect 5s
    timeout client 10m
    timeout server 10m
listen valkey
    bind 127.0.0.1:{port} {bind}
    server primary 127.0.0.1:{server} {dial}
"""
HAPROXY_BIND = {"in": "ssl crt {both}", "out": ""}
HAPROXY_DIAL = {"in": "", "out": "ssl verify required ca-file {authority} verifyhost localhost sni str(localhost)"}

NGINX = """\
{module}
daemon off;
pid nginx.pid;
worker_processes {threads};
worker_rlimit_nofile 16000;
error_log stderr warn;
events {{
    worker_connections 8000;
}}
stream {{
    server {{
        listen 127.0.0.1:{port}{flag};
        proxy_pass 127.0.0.1:{server};
        proxy_timeout 10m;
        {leg}
    }}
}}
"""
NGINX_LEG = {
    "in": """\
ssl_certificate {chain};
        ssl_certificate_key {key};
        ssl_protocols TLSv1.2 TLSv1.3;
        ssl_session_cache shared:tls:10m;""",
    "out": """\
proxy_ssl on;
        proxy_ssl_protocols TLSv1.2 TLSv1.3;
        proxy_ssl_server_name on;
        proxy_ssl_name localhost;
        proxy_ssl_verify on;
        proxy_ssl_trusted_certificate {authority};""",
}


def start_server(fleet: Fleet, files: Certificates) -> tuple[Child, int, int]:
    """A server without persistence. Returns it with its plain port and its TLS port."""
    plain, secured = free_port(), free_port()
    argv = [program("valkey-server", "redis-server"), "--bind", "127.0.0.1", "--port", plain]
    argv += ["--tls-port", secured, "--tls-cert-file", files.chain, "--tls-key-file", files.key]
    argv += ["--tls-ca-cert-file", files.authority, "--tls-auth-clients", "no"]
    child = fleet.start("server", [*argv, "--save", "", "--appendonly", "no", "--maxclients", 10000])
    child.await_ready(lambda: accepts(plain) and accepts(secured))
    return child, plain, secured


def start(name: str, leg: str, fleet: Fleet, ports: tuple[int, int], files: Certificates, respgate: Path) -> Variant:
    """Starts the proxy of variant `name` in front of the server with these plain and TLS ports."""
    plain, secured = ports
    port, server = free_port(), {"in": plain, "out": secured}[leg]
    options = ["--tls", "--cacert", files.authority, "--sni", "localhost"] if leg == "in" or name == "direct" else []
    if name == "direct":
        return Variant(name, secured, None, options)
    folder = fleet.folder / f"{name}-{leg}"
    folder.mkdir()
    starter = {"stunnel": _stunnel, "haproxy": _haproxy, "nginx": _nginx}.get(name)
    if starter is None:
        return Variant(name, port, _respgate(leg, fleet, port, server, files, respgate), options)
    child = fleet.start(f"{name}-{leg}", starter(leg, folder, port, server, files))
    child.await_ready(lambda: accepts(port))
    return Variant(name, port, child, options)


def _stunnel(leg: str, folder: Path, port: int, server: int, files: Certificates) -> list:
    config = folder / "stunnel.conf"
    config.write_text(STUNNEL.format(port=port, server=server, leg=STUNNEL_LEG[leg].format(**vars(files))))
    return [program("stunnel4", "stunnel"), config]


def _haproxy(leg: str, folder: Path, port: int, server: int, files: Certificates) -> list:
    bind, dial = (text[leg].format(**vars(files)) for text in (HAPROXY_BIND, HAPROXY_DIAL))
    config = folder / "haproxy.cfg"
    config.write_text(HAPROXY.format(threads=THREADS, port=port, server=server, bind=bind, dial=dial))
    return [program("haproxy"), "-db", "-f", config]


def _nginx(leg: str, folder: Path, port: int, server: int, files: Certificates) -> list:
    modules = [path for folder in NGINX_STREAM if (path := Path(folder) / "ngx_stream_module.so").exists()]
    config = folder / "nginx.conf"
    text = NGINX.format(
        module=f"load_module {modules[0]};" if modules else "",  # else it is compiled in
        threads=THREADS,
        port=port,
        flag=" ssl" if leg == "in" else "",
        server=server,
        leg=NGINX_LEG[leg].format(**vars(files)),
    )
    config.write_text(text)
    return [program("nginx"), "-p", folder, "-e", "stderr", "-c", config]


def _respgate(leg: str, fleet: Fleet, port: int, server: int, files: Certificates, binary: Path) -> Child:
    if leg == "in":
        argv = respgate_argv(binary, port, f"redis://127.0.0.1:{server}")
        argv += ["--tls-cert", files.chain, "--tls-key", files.key]
    else:
        argv = [*respgate_argv(binary, port, f"rediss://localhost:{server}"), "--upstream-ca", files.authority]
    admin = free_port()
    child = fleet.start(f"respgate-{leg}", [*argv, "--admin", f"127.0.0.1:{admin}"])
    child.await_ready(lambda: respgate_ready(admin))
    return child
