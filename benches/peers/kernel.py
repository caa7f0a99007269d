"""What the kernel charges to a process: CPU time and resident memory, read from /proc."""

from pathlib import Path


def cpu_ns(pid: int) -> int:
    """CPU time of all live threads of `pid` in nanoseconds: the sum of their schedstat run times.

    Far finer than utime+stime, which count 10 ms ticks. Threads that ended are not in it; the programs
    measured here keep theirs. Where the kernel delivers loopback packets inside the sender's system call,
    that softirq time is the sender's, here as in `top`.
    """
    total = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            total += int((task / "schedstat").read_text().split()[0])
        except (FileNotFoundError, ProcessLookupError):
            continue  # the thread ended between the listing and the read
    return total


def rss_bytes(pid: int) -> int:
    """Resident memory of `pid` in bytes: `Rss` of smaps_rollup, which is exact (statm is batched per thread)."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Rss:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/{pid}/smaps_rollup has no Rss line")
