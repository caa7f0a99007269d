"""Celery with a real worker process: broker and result backend on the address under test."""

import os
import signal
import subprocess
import sys

from transcript import HOST, PORT, failure, say

os.environ["CELERY_URL"] = f"redis://{HOST}:{PORT}"
here = os.path.dirname(os.path.abspath(__file__))

from celery import chain, chord, group  # noqa: E402

from celery_tasks import add, app, double, fails, stubborn, total  # noqa: E402

arguments = ["worker", "--concurrency=2", "--loglevel=WARNING", "--pool=prefork"]
worker = subprocess.Popen([sys.executable, "-m", "celery", "-A", "celery_tasks", *arguments], cwd=here, stdout=sys.stderr)
try:
    say("chain", chain(add.s(1, 2), double.s(), add.s(10)).apply_async().get(timeout=60))
    say("group", group(double.s(i) for i in range(20)).apply_async().get(timeout=60))
    say("chord", chord((add.s(i, i) for i in range(10)), total.s()).apply_async().get(timeout=60))
    say("retried", stubborn.delay().get(timeout=60))
    say("failed", failure(fails.delay().get, timeout=60))
    say("later", add.apply_async((2, 3), countdown=0.5).get(timeout=60))
    # Remote control is pub/sub: the worker answers on a reply channel.
    say("workers", [list(reply.values()) for reply in app.control.ping(timeout=5, limit=1)])
finally:
    worker.send_signal(signal.SIGTERM)
    try:
        worker.wait(timeout=20)
    except subprocess.TimeoutExpired:
        worker.kill()
say("worker ended", worker.returncode)
