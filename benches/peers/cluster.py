"""Real clusters without replicas, and respgate in front of them."""

import http.client
import json
import time
from dataclasses import dataclass
from pathlib import Path

from . import variants
from .fleet import Child, Fleet, SetupError, free_port
from .resp import Client, Refused, ask

SLOTS = 16384
ATTEMPTS = 3
AGREED_SECONDS = 120

CONFIG = """\
workers = {workers}
admin = "127.0.0.1:{admin}"
[listeners.app]
address = "127.0.0.1:{port}"
[upstreams.main]
url = "{url}"
{split}
"""


@dataclass
class Site:
    """One server, or the primaries of a cluster. `url` is for respgate."""

    name: str
    nodes: list[Child]
    ports: list[int]
    is_cluster: bool

    @property
    def url(self) -> str:
        scheme = "redis-cluster" if self.is_cluster else "redis"
        return f"{scheme}://" + ",".join(f"127.0.0.1:{port}" for port in self.ports[:3])


@dataclass
class Gateway:
    """respgate in front of one site."""

    child: Child
    port: int
    admin: int

    def figure(self, metric: str) -> float:
        """The sum of a metric over its labels."""
        lines = self._get("/metrics").decode().splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith((metric + "{", metric + " ")))

    def cluster(self) -> dict:
        """What `/status` says of the cluster."""
        return next(iter(json.loads(self._get("/status"))["upstreams"]))["cluster"]

    def _get(self, path: str) -> bytes:
        connection = http.client.HTTPConnection("127.0.0.1", self.admin, timeout=10)
        try:
            connection.request("GET", path)
            return connection.getresponse().read()
        finally:
            connection.close()


def one_server(fleet: Fleet) -> Site:
    server, port = variants.start_server(fleet)
    return Site("one server", [server], [port], is_cluster=False)


def start(fleet: Fleet, count: int, ranges: int = 1) -> Site:
    """Starts a cluster of `count` primaries, each with so many ranges of slots, and waits until all agree."""
    started = [_node(fleet) for _ in range(count)]
    site = Site(f"{count} primaries" if count > 1 else "1 primary", *map(list, zip(*started)), is_cluster=True)
    pieces = count * ranges
    bounds = [SLOTS * piece // pieces for piece in range(pieces + 1)]
    for number, port in enumerate(site.ports):
        with Client(port) as node:
            node.ask("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
            own = [(bounds[piece], bounds[piece + 1] - 1) for piece in range(number, pieces, count)]
            node.ask("CLUSTER", "ADDSLOTSRANGE", *(bound for pair in own for bound in pair))
    with Client(site.ports[0]) as first:
        for port in site.ports[1:]:
            first.ask("CLUSTER", "MEET", "127.0.0.1", port, _bus_of(port))
    deadline = time.monotonic() + AGREED_SECONDS
    while not all(_agrees(port, count) for port in site.ports):
        if time.monotonic() > deadline:
            raise SetupError(f"{count} nodes did not agree on their slots in {AGREED_SECONDS} s")
        time.sleep(0.2)
    return site


def _node(fleet: Fleet) -> tuple[Child, int]:
    """Starts one node. Another program may take a port that was free, so it tries again."""
    for attempt in range(ATTEMPTS):
        port = free_port()
        argv = [variants.program("valkey-server", "redis-server"), "--bind", "127.0.0.1", "--port", port]
        argv += ["--save", "", "--appendonly", "no", "--maxclients", 10000, "--cluster-enabled", "yes"]
        argv += ["--cluster-port", _bus_of(port), "--cluster-config-file", f"nodes-{port}.conf"]
        # A node that nobody has met does not know its address by itself.
        argv += ["--cluster-node-timeout", 5000, "--cluster-announce-ip", "127.0.0.1"]
        child = fleet.start(f"node-{port}", argv)
        try:
            child.await_ready(lambda: "cluster_state" in ask(port, "CLUSTER", "INFO"))
            return child, port
        except SetupError:
            fleet.stop(child)
            if attempt + 1 == ATTEMPTS:
                raise
    raise SetupError("no node started")


_buses: dict[int, int] = {}


def _bus_of(port: int) -> int:
    """The port of a node's cluster bus."""
    return _buses.setdefault(port, free_port())


def _agrees(port: int, count: int) -> bool:
    fields = dict(line.split(":", 1) for line in ask(port, "CLUSTER", "INFO").splitlines() if ":" in line)
    known, served = int(fields["cluster_known_nodes"]), int(fields["cluster_slots_ok"])
    return fields["cluster_state"] == "ok" and known == count and served == SLOTS


def gateway(fleet: Fleet, site: Site, respgate: Path, workers: int, wrapper: list = ()) -> Gateway:
    """Starts respgate in front of a site, and waits until it serves."""
    if not respgate.is_file():
        raise SetupError(f"{respgate} is missing: build it with `{variants.BUILD}`, or name another with --respgate")
    port, admin = free_port(), free_port()
    split = 'cross-slot-writes = "split"' if site.is_cluster else ""
    config = fleet.folder / f"respgate-{port}.toml"
    config.write_text(CONFIG.format(workers=workers, admin=admin, port=port, url=site.url, split=split))
    child = fleet.start(f"respgate-{port}", [*wrapper, respgate.resolve(), "--config", config])
    made = Gateway(child, port, admin)
    child.await_ready(lambda: variants.respgate_ready(admin))
    if site.is_cluster:
        child.await_ready(lambda: made.cluster()["slots_served"] == SLOTS)
    return made


def move_slot(slot: int, source: int, target: int) -> None:
    """Moves a slot without keys from the node at one port to that at another. The other nodes learn of it by gossip."""
    ids = {port: ask(port, "CLUSTER", "MYID") for port in (source, target)}
    ask(target, "CLUSTER", "SETSLOT", slot, "IMPORTING", ids[source])
    ask(source, "CLUSTER", "SETSLOT", slot, "MIGRATING", ids[target])
    ask(target, "CLUSTER", "SETSLOT", slot, "NODE", ids[target])
    try:
        ask(source, "CLUSTER", "SETSLOT", slot, "NODE", ids[target])
    except Refused as error:
        # It may have heard of the move from the target before.
        if "not migrating" not in str(error).lower():
            raise
