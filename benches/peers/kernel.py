"""What the kernel charges to a program: CPU time and resident memory of its processes."""

import time
from pathlib import Path

CPUCLOCK_SCHED = 2  # linux/posix-timers_types.h: the clock of the scheduler's run times, in ns


def cpu_ns(pid: int) -> int:
    """CPU time of `pid` and of its children in nanoseconds, threads that have ended included.

    The scheduler's run times, far finer than utime+stime, which count 10 ms ticks. Where the kernel delivers
    loopback packets inside the sender's system call, that softirq time is the sender's, here as in `top`.
    """
    return sum(time.clock_gettime_ns(~one << 3 | CPUCLOCK_SCHED) for one in _family(pid))


def resident_bytes(pid: int) -> int:
    """Resident memory of `pid` and of its children in bytes: `Rss` of smaps_rollup, which is exact (statm is batched
    per thread)."""
    return sum(_rss(one) for one in _family(pid))


def _rss(pid: int) -> int:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Rss:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/{pid}/smaps_rollup has no Rss line")


def _family(pid: int) -> list[int]:
    """`pid` and its children: nginx's workers are processes."""
    return [pid, *map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())]
