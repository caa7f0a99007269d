"""The jobs of queue_failover.py, for Celery and RQ. QUEUE_URL names the server, QUEUE_NOTES a file."""

import os
import time
from functools import cache

import redis
import rq
from celery import Celery

app = Celery("queue_jobs", broker=os.environ["QUEUE_URL"] + "/0")
app.conf.update(
    task_acks_late=True,
    task_ignore_result=True,
    worker_prefetch_multiplier=1,
    broker_connection_retry_on_startup=True,
    # A job whose delivery or acknowledgement was lost runs again after so many seconds.
    broker_transport_options={"visibility_timeout": 5},
)


def note(number):
    """Takes a moment, then notes the number in a file, which no failover touches."""
    time.sleep(0.02)
    with open(os.environ["QUEUE_NOTES"], "a") as file:
        file.write(f"{number}\n")


slow_task = app.task(note, name="slow_task")


@cache
def rq_queue():
    return rq.Queue(connection=redis.Redis.from_url(os.environ["QUEUE_URL"]))
