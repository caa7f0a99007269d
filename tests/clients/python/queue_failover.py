"""A job queue while the primary changes: queue_failover.py celery|rq steady|still HOST PORT. It pushes JOBS jobs and sets the key
`pushed`. `steady` goes on pushing until the key `stop` exists. The program prints which jobs did not run, or ran more than once."""

import os
import subprocess
import sys
import time
from collections import Counter

import redis

from transcript import HOST, PORT, say

JOBS = 100
DEADLINE = 60
NOTES = "ran"

os.environ["QUEUE_URL"] = f"redis://{HOST}:{PORT}"
os.environ["QUEUE_NOTES"] = os.path.abspath(NOTES)
here = os.path.dirname(os.path.abspath(__file__))

from queue_jobs import note, rq_queue, slow_task  # noqa: E402

COMMANDS = {
    "celery": ["celery", "-A", "queue_jobs", "worker", "--concurrency=2", "--loglevel=WARNING", "--pool=prefork"],
    "rq": ["rq.cli", "worker", "--url", os.environ["QUEUE_URL"], "--worker-class", "rq.worker.SimpleWorker", "--quiet"],
}
kind, manner = sys.argv[1:3]
command = [sys.executable, "-m", *COMMANDS[kind]]


def start():
    return subprocess.Popen(command, cwd=here, stdout=sys.stderr)


def ran():
    if not os.path.exists(NOTES):
        return Counter()
    with open(NOTES) as file:
        return Counter(int(line) for line in file)


def push(number):
    if kind == "celery":
        slow_task.delay(number)
    else:
        rq_queue().enqueue(note, number)


pushed = 0


def push_next():
    global pushed
    try:
        push(pushed)
        pushed += 1
    except Exception as error:
        say("error", error)


worker = start()
connection = redis.Redis(HOST, PORT)
for _ in range(JOBS):
    push_next()
connection.set("pushed", pushed)
while manner == "steady" and not connection.exists("stop"):
    push_next()
    time.sleep(0.01)

end = time.monotonic() + DEADLINE
while set(range(pushed)) - set(ran()) and time.monotonic() < end:
    # As a supervisor does.
    if worker.poll() is not None:
        print("the worker ended with", worker.returncode, file=sys.stderr)
        worker = start()
    time.sleep(0.05)
worker.kill()
times = ran()
say("pushed", pushed)
say("missing", sorted(set(range(pushed)) - set(times)))
say("doubled", sorted(number for number, count in times.items() if count > 1))
