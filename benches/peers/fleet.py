"""Child processes of one benchmark: a temporary folder, free ports, and an end for everything started."""

import ctypes
import os
import resource
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

READY_SECONDS = 30
STOP_SECONDS = 5
PR_SET_PDEATHSIG = 1
LIBC = ctypes.CDLL(None)


class SetupError(Exception):
    """The benchmark could not be set up. The text says what is missing and what to do."""


class Child:
    """One running program. `pid` is the program's own, also under a wrapper that execs."""

    def __init__(self, name: str, process: subprocess.Popen, log: Path):
        self.name = name
        self.process = process
        self.pid = process.pid
        self.log = log

    def await_ready(self, ready, seconds: float = READY_SECONDS) -> None:
        """Polls `ready()` until it is true. Raises SetupError if the child ends first or the time is up."""
        deadline = time.monotonic() + seconds
        while not self._is_true(ready):
            if self.process.poll() is not None:
                raise SetupError(f"{self.name} ended with status {self.process.returncode}:\n{self._log_tail()}")
            if time.monotonic() > deadline:
                raise SetupError(f"{self.name} was not ready after {seconds:.0f} s:\n{self._log_tail()}")
            time.sleep(0.02)

    def stop(self) -> None:
        """SIGTERM, then SIGKILL when that has not worked in 5 s. Returns when the child is gone."""
        if self.process.poll() is not None:
            return
        self.process.terminate()
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def _log_tail(self) -> str:
        return self.log.read_text(errors="replace")[-2000:].strip() or "(it wrote nothing)"

    @staticmethod
    def _is_true(ready) -> bool:
        try:
            return ready()
        except OSError:
            return False


class Fleet:
    """Owns the temporary folder and every child; leaving the `with` block stops and removes them all."""

    def __enter__(self):
        signal.signal(signal.SIGTERM, _interrupt)
        self.folder = Path(tempfile.mkdtemp(prefix="respgate-bench-"))
        self.children: list[Child] = []
        return self

    def __exit__(self, *_):
        # A second Ctrl-C must not leave half of them running.
        previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        try:
            for child in reversed(self.children):
                child.stop()
            shutil.rmtree(self.folder, ignore_errors=True)
        finally:
            signal.signal(signal.SIGINT, previous)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def start(self, name: str, argv: list) -> Child:
        """Starts `argv` in its own session, with its output in a log file of the temporary folder."""
        log = self.folder / f"{name}.log"
        with log.open("wb") as out:
            process = subprocess.Popen(
                [str(arg) for arg in argv],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
                env={key: value for key, value in os.environ.items() if not key.startswith("RESPGATE_")},
                start_new_session=True,  # Ctrl-C reaches the benchmark alone, which then ends them in order
                preexec_fn=_die_with_parent,
            )
        child = Child(name, process, log)
        self.children.append(child)
        return child

    def stop(self, child: Child) -> None:
        """Stops one child early."""
        child.stop()
        self.children.remove(child)


def free_port() -> int:
    """A TCP port of loopback that was free a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def accepts(port: int) -> bool:
    """Whether something listens on the loopback port."""
    with socket.create_connection(("127.0.0.1", port), timeout=1):
        return True


def raise_nofile(wanted: int) -> None:
    """Raises this process's limit of open files, which its children inherit. Raises SetupError if it may not."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft >= wanted:
        return
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, max(wanted, hard)))
    except (ValueError, OSError) as error:
        raise SetupError(f"{wanted} open files are needed, the limit is {hard}: raise it (ulimit -n)") from error


def _interrupt(*_) -> None:
    raise KeyboardInterrupt


def _die_with_parent() -> None:
    # Covers the one end that no handler sees: the benchmark itself killed with SIGKILL.
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
