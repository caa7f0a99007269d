"""One measured run of valkey-benchmark or redis-benchmark: GET and SET through one variant."""

import csv
import subprocess
from dataclasses import dataclass

from .fleet import Child, SetupError
from .kernel import cpu_ns
from .variants import Variant, program

KEYS = 10000
RUN_SECONDS = 300
CALIBRATION_REQUESTS = 20000


@dataclass
class Sample:
    """One run. CPU times are microseconds per command, latencies milliseconds as the load generator saw them."""

    proxy_us: float | None
    server_us: float
    per_second: float
    p50_ms: float
    p99_ms: float


def drive(port: int, clients: int, pipeline: int, requests: int, options: list = ()) -> list[dict]:
    """Runs `requests` SETs, then as many GETs. Returns the load generator's CSV rows, one per command."""
    return _generate(port, clients, pipeline, requests, ["-t", "get,set", *options], 2)


def drive_command(port: int, clients: int, pipeline: int, requests: int, command: list) -> dict:
    """Runs one command `requests` times; `__rand_int__` in its words stands for a random number. Returns the CSV row."""
    return _generate(port, clients, pipeline, requests, command, 1)[0]


def _generate(port: int, clients: int, pipeline: int, requests: int, tail: list, rows_expected: int) -> list[dict]:
    argv = [program("valkey-benchmark", "redis-benchmark"), "-h", "127.0.0.1", "-p", port]
    argv += ["-c", clients, "-P", pipeline, "-n", requests, "-r", KEYS, "--csv", *tail]
    try:
        done = subprocess.run(
            [str(arg) for arg in argv], capture_output=True, text=True, timeout=RUN_SECONDS, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise SetupError(f"port {port} did not answer {requests} requests in {RUN_SECONDS} s") from error
    rows = list(csv.DictReader(line for line in done.stdout.splitlines() if line.startswith('"')))
    if done.returncode != 0 or len(rows) != rows_expected:
        raise SetupError(f"the load generator failed on port {port}:\n{(done.stdout + done.stderr)[-2000:]}")
    return rows


def calibrate(variant: Variant, clients: int, pipeline: int, seconds: float) -> int:
    """How many GETs and SETs each make a run of about `seconds`. Also warms the variant up."""
    rows = drive(variant.port, clients, pipeline, CALIBRATION_REQUESTS * pipeline, variant.options)
    rates = [float(row["rps"]) for row in rows]
    return max(1000, int(seconds * harmonic_mean(rates) / len(rates)))


def measure(variant: Variant, server: Child, clients: int, pipeline: int, requests: int) -> Sample:
    """One run. p50 is the mean of the two commands', p99 the worse of them."""
    before_server, before_proxy = cpu_ns(server.pid), _proxy_cpu(variant)
    rows = drive(variant.port, clients, pipeline, requests, variant.options)
    after_server, after_proxy = cpu_ns(server.pid), _proxy_cpu(variant)
    commands = requests * len(rows)
    return Sample(
        proxy_us=None if variant.proxy is None else (after_proxy - before_proxy) / commands / 1000,
        server_us=(after_server - before_server) / commands / 1000,
        per_second=harmonic_mean([float(row["rps"]) for row in rows]),
        p50_ms=sum(float(row["p50_latency_ms"]) for row in rows) / len(rows),
        p99_ms=max(float(row["p99_latency_ms"]) for row in rows),
    )


def _proxy_cpu(variant: Variant) -> int:
    return 0 if variant.proxy is None else cpu_ns(variant.proxy.pid)


def harmonic_mean(rates: list[float]) -> float:
    """The rate of equal numbers of commands that ran at these rates one after the other."""
    return len(rates) / sum(1 / rate for rate in rates)
