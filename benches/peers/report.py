"""The results as tables for a terminal, or as one JSON object."""

import json
from dataclasses import asdict

from .handshakes import Sample as Handshake
from .idle import Idle
from .load import Sample
from .variants import NOTES
from .verdict import Target, medians

Runs = dict[tuple[int, str], list[Sample]]


def as_text(runs: Runs, idle: dict[str, Idle], targets: list[Target]) -> str:
    """Three tables: load, idle clients, targets. Those without rows are left out."""
    return join(load_table("pipeline", runs, NOTES), idle_table(idle), target_table(targets))


def as_json(runs: Runs, idle: dict[str, Idle], targets: list[Target]) -> str:
    """Every sample, the medians, the idle figures and the verdicts."""
    parts = {
        "load": sample_objects("pipeline", runs),
        "idle": idle_objects(idle),
        "targets": target_objects(targets),
    }
    return json.dumps(parts, indent=2)


def sample_objects(column: str, runs: dict) -> list[dict]:
    """What was run: the medians and every sample."""
    return [
        {
            "variant": name,
            column: key,
            "median": asdict(medians(samples)),
            "rounds": [asdict(sample) for sample in samples],
        }
        for (key, name), samples in runs.items()
    ]


def idle_objects(idle: dict[str, Idle]) -> list[dict]:
    return [{"variant": name, **asdict(one), "bytes_per_client": one.bytes_per_client} for name, one in idle.items()]


def target_objects(targets: list[Target]) -> list[dict]:
    return [{**asdict(target), "met": target.met} for target in targets]


def join(*parts: str) -> str:
    """The tables that have rows, under each other."""
    return "\n\n".join(part for part in parts if part)


def load_table(column: str, runs: dict[tuple, list[Sample]], notes: dict[str, str]) -> str:
    """`column`: what the first part of a run's key is."""
    if not runs:
        return ""
    head = f"{column:>8}  {'variant':<10}{'proxy µs/cmd':>13}{'server µs/cmd':>15}{'commands/s':>12}{'p50 ms':>8}{'p99 ms':>8}"
    lines = [head]
    for (key, name), samples in runs.items():
        one = medians(samples)
        proxy = "-" if one.proxy_us is None else f"{one.proxy_us:.2f}"
        lines.append(
            f"{key:>8}  {name:<10}{proxy:>13}{one.server_us:>15.2f}"
            f"{one.per_second:>12.0f}{one.p50_ms:>8.2f}{one.p99_ms:>8.2f}"
        )
    names = dict.fromkeys(name for _, name in runs)
    return "\n".join(lines + [""] + [f"{name}: {notes[name]}" for name in names])


def handshake_table(runs: dict[tuple, list[Handshake]]) -> str:
    if not runs:
        return ""
    lines = [f"{'handshake':<12}{'variant':<10}{'proxy µs/handshake':>19}{'per CPU second':>16}{'per second':>12}"]
    for (kind, name), samples in runs.items():
        one = medians(samples)
        lines.append(f"{kind:<12}{name:<10}{one.proxy_us:>19.0f}{one.per_cpu_second:>16.0f}{one.per_second:>12.0f}")
    return "\n".join(lines)


def idle_table(idle: dict[str, Idle]) -> str:
    if not idle:
        return ""
    head = f"{'idle clients':>12}  {'variant':<10}{'bytes/client':>13}{'connections carrying commands':>31}{'others':>8}"
    rows = [
        f"{one.clients:>12}  {name:<10}{one.bytes_per_client:>13.0f}{one.shared:>31}{one.others:>8}"
        for name, one in idle.items()
    ]
    return "\n".join([head, *rows])


def target_table(targets: list[Target]) -> str:
    if not targets:
        return ""
    lines = [f"{'target':<58}{'found':>9}{'limit':>9}  {'rounds':<13}verdict"]
    for target in targets:
        digits = 2 if target.unit == "x" else 0
        found, limit = (f"{value:.{digits}f}{target.unit}" for value in (target.value, target.limit))
        rounds = f"{target.lowest:.2f}-{target.highest:.2f}" if target.unit == "x" else ""
        lines.append(f"{target.what:<58}{found:>9}{limit:>9}  {rounds:<13}{'pass' if target.met else 'FAIL'}")
    return "\n".join(lines)
