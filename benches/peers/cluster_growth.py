"""What a growing cluster costs gateways that only follow it, and what they cost its nodes."""

import binascii
import statistics
import time
from dataclasses import dataclass, field

from . import cluster
from .cluster import SLOTS, Gateway, Site
from .fleet import Child, Fleet, SetupError
from .kernel import cpu_ns, resident_bytes
from .resp import Client, ask

CHANGES = 5
PATIENCE_SECONDS = 30
POLL_SECONDS = 0.02
# After a change all nodes have told all gateways of it within this time.
SETTLE_SECONDS = 1.5
QUESTIONS = ("cluster|nodes", "cluster|slots")


@dataclass
class Growth:
    """The figures of one cluster. Those of gateways and of nodes are medians over all of them, unless they say otherwise."""

    nodes: int
    ranges: int
    gateways: int
    # Replies to CLUSTER NODES and CLUSTER SLOTS, in bytes, and a node's time for each, in microseconds.
    nodes_bytes: int = 0
    slots_bytes: int = 0
    nodes_us: float = 0
    slots_us: float = 0
    # The nodes that one gateway asks, and the rounds per second of each of these that all gateways make together.
    asked: int = 0
    rounds: float = 0
    # Questions for CLUSTER SLOTS in 100 rounds.
    slots_rounds: float = 0
    # New connections per second at a node, all gateways together.
    dials: float = 0
    # CPU of all nodes together without any gateway, and what the gateways add, in milliseconds per second.
    own_ms: float = 0
    added_ms: float = 0
    # CPU of one gateway without clients, in milliseconds per second, and of one change of the topology, in milliseconds.
    gateway_ms: float = 0
    change_ms: float = 0
    # From the start of a gateway until all slots are served, in milliseconds. The first gateway's.
    start_ms: float = 0
    # Resident memory of a gateway in bytes: without clients, and after a command for each shard.
    resident: int = 0
    resident_used: int = 0
    # Connections of all gateways together at the node with most: without clients, and after those commands.
    connections: int = 0
    connections_used: int = 0
    # From a moved slot until a gateway without clients knows, and until a client has the reply to its next command, in milliseconds.
    known_ms: list[float] = field(default_factory=list)
    reply_ms: list[float] = field(default_factory=list)


def measure(fleet: Fleet, site: Site, ranges: int, gateways: int, seconds: float, start) -> Growth:
    """Starts so many gateways in front of a cluster by `start`, and has them follow it for so many seconds without clients."""
    growth = Growth(len(site.nodes), ranges, gateways)
    growth.own_ms = _per_second(site.nodes, seconds)
    began = time.monotonic()
    started = [start()]
    growth.start_ms = (time.monotonic() - began) * 1000
    started += [start() for _ in range(gateways - 1)]
    _follow(growth, site, started, seconds)
    _use(growth, site, started)
    _change(growth, site, started)
    for gateway in started:
        fleet.stop(gateway.child)
    return growth


def _follow(growth: Growth, site: Site, gateways: list[Gateway], seconds: float) -> None:
    time.sleep(2)  # the rounds after the start are over
    dialled = []
    for port in site.ports:
        ask(port, "CONFIG", "RESETSTAT")
        dialled.append(_stat(port, "stats", "total_connections_received"))
    before = [cpu_ns(gateway.child.pid) for gateway in gateways]
    growth.added_ms = _per_second(site.nodes, seconds) - growth.own_ms
    used = [cpu_ns(gateway.child.pid) - then for gateway, then in zip(gateways, before)]
    growth.gateway_ms = statistics.median(used) / seconds / 1e6
    calls, times = {question: [] for question in QUESTIONS}, {question: [] for question in QUESTIONS}
    for port, then in zip(site.ports, dialled):
        # One of them is this look's.
        growth.dials += (_stat(port, "stats", "total_connections_received") - then - 1) / seconds / len(site.ports)
        stats = _commands(port)
        for question in QUESTIONS:
            if question in stats:
                calls[question].append(stats[question][0])
                times[question].append(stats[question][1])
    growth.asked = len(gateways[0].cluster()["nodes"])
    growth.rounds = max(calls[QUESTIONS[0]]) / seconds
    growth.slots_rounds = 100 * sum(calls[QUESTIONS[1]]) / sum(calls[QUESTIONS[0]])
    growth.nodes_us, growth.slots_us = (statistics.median(times[question] or [0]) for question in QUESTIONS)
    for question, name in (("NODES", "nodes_bytes"), ("SLOTS", "slots_bytes")):
        with Client(site.ports[0]) as node:
            node.ask("CLUSTER", question)
            setattr(growth, name, node.received)
    growth.resident = int(statistics.median(resident_bytes(gateway.child.pid) for gateway in gateways))
    growth.connections = max(map(_connections, site.ports))


def _use(growth: Growth, site: Site, gateways: list[Gateway]) -> None:
    """Has each gateway open a shared connection to each shard."""
    first_slots = {port: slot for slot, port in reversed(_owners(site.ports[0]).items())}
    for gateway in gateways:
        with Client(gateway.port) as client:
            for slot in first_slots.values():
                client.ask("GET", _key_in(slot))
    growth.resident_used = int(statistics.median(resident_bytes(gateway.child.pid) for gateway in gateways))
    growth.connections_used = max(map(_connections, site.ports))


def _change(growth: Growth, site: Site, gateways: list[Gateway]) -> None:
    """Moves slots, one after the other. The first gateway has a client meanwhile, the last one is asked what it knows, and what those
    between them spend is measured."""
    if len(site.nodes) < 2:
        return
    source, target = site.ports[0], site.ports[-1]
    slots = [slot for slot, port in _owners(source).items() if port == source][:CHANGES]
    quiet = gateways[1:-1]
    before, began = [cpu_ns(gateway.child.pid) for gateway in quiet], time.monotonic()
    with Client(gateways[0].port) as client:
        for slot in slots:
            client.ask("GET", _key_in(slot))
            there = _slots_at(gateways[-1], target)
            cluster.move_slot(slot, source, target)
            moved = time.monotonic()
            client.ask("GET", _key_in(slot))
            growth.reply_ms.append((time.monotonic() - moved) * 1000)
            while _slots_at(gateways[-1], target) == there:
                if time.monotonic() - moved > PATIENCE_SECONDS:
                    raise SetupError(f"a gateway did not learn of a moved slot in {PATIENCE_SECONDS} s")
                time.sleep(POLL_SECONDS)
            growth.known_ms.append((time.monotonic() - moved) * 1000)
            time.sleep(SETTLE_SECONDS)
    if quiet:
        took = time.monotonic() - began
        used = [(cpu_ns(gateway.child.pid) - then) / 1e6 for gateway, then in zip(quiet, before)]
        growth.change_ms = (statistics.median(used) - growth.gateway_ms * took) / len(slots)


def _key_in(slot: int) -> str:
    """A key of this slot."""
    numbers = range(100 * SLOTS)
    return next(f"k{number}" for number in numbers if binascii.crc_hqx(b"k%d" % number, 0) % SLOTS == slot)


def _slots_at(gateway: Gateway, port: int) -> int:
    """How many slots the node at this port serves, as the gateway knows."""
    shards = gateway.cluster()["shards"]
    return sum(shard["slots"] for shard in shards if (shard["primary"] or {}).get("address") == f"127.0.0.1:{port}")


def _owners(port: int) -> dict[int, int]:
    """The port of the node of each slot."""
    owners = {}
    for first, last, (_, owner, *_), *_ in ask(port, "CLUSTER", "SLOTS"):
        owners.update((slot, owner) for slot in range(first, last + 1))
    return owners


def _per_second(nodes: list[Child], seconds: float) -> float:
    """CPU of all nodes together, in milliseconds per second."""
    before = sum(cpu_ns(node.pid) for node in nodes)
    time.sleep(seconds)
    return (sum(cpu_ns(node.pid) for node in nodes) - before) / seconds / 1e6


def _stat(port: int, section: str, name: str) -> int:
    lines = ask(port, "INFO", section).splitlines()
    return next(int(line.split(":")[1]) for line in lines if line.startswith(name + ":"))


def _commands(port: int) -> dict[str, tuple[int, float]]:
    """Calls of each command, and microseconds per call."""
    stats = {}
    for line in ask(port, "INFO", "commandstats").splitlines():
        if line.startswith("cmdstat_"):
            name, fields = line.removeprefix("cmdstat_").split(":")
            values = dict(field.split("=") for field in fields.split(","))
            stats[name] = int(values["calls"]), float(values["usec_per_call"])
    return stats


def _connections(port: int) -> int:
    """Connections of others at a node."""
    with Client(port) as node:
        return len(node.ask("CLIENT", "LIST").splitlines()) - 1
