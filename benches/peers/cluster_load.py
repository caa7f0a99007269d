"""What commands cost in front of a server and in front of clusters: the clients, respgate and the nodes."""

import resource
from dataclasses import dataclass, field
from statistics import median

from . import load
from .cluster import Gateway, Site
from .kernel import cpu_ns

# The load generator speaks to each node of a cluster by itself, and then uses a thread for each unless it is told not to.
ONE_THREAD = ["--threads", 1]
VALUE = "xxx"
COMMANDS = {
    "MGET": lambda count: ["MGET", *[KEY] * count],
    "MSET": lambda count: ["MSET", *[KEY, VALUE] * count],
    "DEL": lambda count: ["DEL", *[KEY] * count],
}
KEY = "key:__rand_int__"
CALIBRATION_COMMANDS = 2000


@dataclass
class Way:
    """One way to a site: directly, or through respgate."""

    site: Site
    gateway: Gateway | None
    # How many commands make a run, by load.
    requests: dict = field(default_factory=dict)

    @property
    def port(self) -> int:
        return self.gateway.port if self.gateway else self.site.ports[0]

    @property
    def options(self) -> list:
        aware = ["--cluster"] if self.site.is_cluster and not self.gateway else []
        return [*aware, *ONE_THREAD]


@dataclass
class Sample:
    """One run. CPU times are microseconds per command: of the load generator, of respgate, of all nodes together."""

    client_us: float
    proxy_us: float
    nodes_us: float
    per_second: float
    # Writes of respgate to the nodes for 1000 commands.
    writes: float

    @property
    def total_us(self) -> float:
        """The load generator and respgate: what stands in front of the nodes."""
        return self.client_us + self.proxy_us


def get_set(way: Way, clients: int, pipeline: int, seconds: float) -> Sample:
    """SETs, then as many GETs, for about so many seconds."""
    if pipeline not in way.requests:
        rows = load.drive(way.port, clients, pipeline, load.CALIBRATION_REQUESTS * pipeline, way.options)
        rate = load.harmonic_mean([float(row["rps"]) for row in rows])
        way.requests[pipeline] = max(1000, int(seconds * rate / 2))
    requests = way.requests[pipeline]

    def run() -> list[float]:
        rows = load.drive(way.port, clients, pipeline, requests, way.options)
        return [float(row["rps"]) for row in rows]

    return _measured(way, 2 * requests, run)


def many_keys(way: Way, clients: int, command: str, keys: int, seconds: float) -> Sample:
    """One command with so many random keys, for about so many seconds."""
    words = COMMANDS[command](keys)
    if (command, keys) not in way.requests:
        row = load.drive_command(way.port, clients, 1, CALIBRATION_COMMANDS, words)
        way.requests[command, keys] = max(500, int(seconds * float(row["rps"])))
    requests = way.requests[command, keys]
    return _measured(way, requests, lambda: [float(load.drive_command(way.port, clients, 1, requests, words)["rps"])])


def fill(way: Way) -> None:
    """Writes nearly all keys that the load generator asks for."""
    load.drive_command(way.port, 50, 16, 6 * load.KEYS, ["SET", KEY, VALUE])


def _measured(way: Way, commands: int, run) -> Sample:
    before = _used(way)
    rates = run()
    client, proxy, nodes, writes = (now - then for now, then in zip(_used(way), before))
    each = commands * 1000
    return Sample(client / each, proxy / each, nodes / each, load.harmonic_mean(rates), writes * 1000 / commands)


def _used(way: Way) -> tuple[float, ...]:
    """CPU of the ended load generators, of respgate and of the nodes in ns, and respgate's writes."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    client = (children.ru_utime + children.ru_stime) * 1e9
    nodes = sum(cpu_ns(node.pid) for node in way.site.nodes)
    if not way.gateway:
        return client, 0, nodes, 0
    return client, cpu_ns(way.gateway.child.pid), nodes, way.gateway.figure("respgate_upstream_writes_total")


def middle(samples: list[Sample], figure: str) -> float:
    """The median of one figure."""
    return median(getattr(sample, figure) for sample in samples)


def ratio(own: list[Sample], other: list[Sample], figure: str) -> tuple[float, float, float]:
    """The ratio of the medians, and the lowest and the highest ratio within one round."""
    rounds = [getattr(one, figure) / getattr(two, figure) for one, two in zip(own, other)]
    return middle(own, figure) / middle(other, figure), min(rounds), max(rounds)
