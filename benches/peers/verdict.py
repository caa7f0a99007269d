"""From samples to medians, and from medians to ratios held against the targets. Pure."""

from dataclasses import asdict, dataclass
from statistics import median

from .handshakes import Sample as Handshake
from .idle import Idle
from .load import Sample
from .variants import THREADS

IDLE_BYTES = 3 * 1024
TLS_IDLE_BYTES = 18 * 1024
NO_PEERS = ["direct", "respgate"]
UPSTREAM_KEYS = 1  # the idle clients share one (user, database, RESP version)


@dataclass
class Target:
    """One figure of respgate, its limit, and by how much the rounds disagreed (lowest and highest)."""

    what: str
    value: float
    limit: float
    lowest: float
    highest: float
    unit: str = "x"

    @property
    def met(self) -> bool:
        return self.value <= self.limit


def medians(samples: list) -> Sample | Handshake:
    """The median of every figure on its own."""
    columns = {name: [asdict(sample)[name] for sample in samples] for name in asdict(samples[0])}
    return type(samples[0])(**{name: None if None in column else median(column) for name, column in columns.items()})


def load_targets(runs: dict[tuple[int, str], list[Sample]]) -> list[Target]:
    """The ratios of respgate to its peers. Those whose peer was left out are left out too."""
    wanted = [
        ("proxy CPU/command, no pipelining, respgate / twemproxy", 1, "twemproxy", "proxy_us", 0.8),
        ("proxy CPU/command, no pipelining, respgate / haproxy", 1, "haproxy", "proxy_us", 0.55),
        ("proxy CPU/command, pipeline 16, respgate / haproxy", 16, "haproxy", "proxy_us", 1.0),
        ("server CPU/command, no pipelining, respgate / direct", 1, "direct", "server_us", 0.5),
    ]
    return [
        _ratio(what, runs[pipeline, "respgate"], runs[pipeline, peer], figure, limit)
        for what, pipeline, peer, figure, limit in wanted
        if (pipeline, "respgate") in runs and (pipeline, peer) in runs
    ]


def idle_targets(idle: dict[str, Idle], limit: int = IDLE_BYTES) -> list[Target]:
    """What an idle client may cost respgate (`limit` bytes), and the server."""
    if "respgate" not in idle:
        return []
    own = idle["respgate"]
    each, connections = own.bytes_per_client, own.shared
    return [
        Target(f"memory of each of {own.clients} idle clients", each, limit, each, each, "B"),
        Target("shared upstream connections", connections, THREADS * UPSTREAM_KEYS, connections, connections, ""),
    ]


def best_targets(wanted: list[tuple[str, str, float]], runs: dict[tuple[str, str], list]) -> list[Target]:
    """respgate's CPU time beside the peer's whose is least. `wanted`: what it is, the first part of the runs' key, and
    the limit."""
    targets = []
    for what, key, limit in wanted:
        peers = {name: samples for (mine, name), samples in runs.items() if mine == key and name not in NO_PEERS}
        if peers and (key, "respgate") in runs:
            best = min(peers, key=lambda name: medians(peers[name]).proxy_us)
            targets.append(_ratio(f"{what}, respgate / {best}", runs[key, "respgate"], peers[best], "proxy_us", limit))
    return targets


def _ratio(what: str, own: list, peer: list, figure: str, limit: float) -> Target:
    """The ratio of the medians. Its spread is that of the ratios within each round."""
    own_figures, peer_figures = ([getattr(sample, figure) for sample in samples] for samples in (own, peer))
    in_rounds = [ours / theirs for ours, theirs in zip(own_figures, peer_figures)]
    return Target(what, median(own_figures) / median(peer_figures), limit, min(in_rounds), max(in_rounds))
