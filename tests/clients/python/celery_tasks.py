"""The application that the worker process and celery_chain.py share. CELERY_URL names the broker."""

import os

from celery import Celery

# Older servers have one database in a cluster.
results = 0 if "ONE_DATABASE" in os.environ else 1
app = Celery("tests", broker=os.environ["CELERY_URL"] + "/0", backend=os.environ["CELERY_URL"] + f"/{results}")
app.conf.update(
    task_acks_late=True,
    # In a cluster, keys that are used together must be in one slot.
    broker_transport_options={"global_keyprefix": "{celery}"},
    result_backend_transport_options={"global_keyprefix": "{celery}"},
    worker_prefetch_multiplier=1,
    broker_connection_retry_on_startup=True,
)


@app.task
def add(a, b):
    return a + b


@app.task
def double(a):
    return a * 2


@app.task
def total(numbers):
    return sum(numbers)


@app.task(bind=True, max_retries=3)
def stubborn(self):
    """Works at the third attempt."""
    if self.request.retries < 2:
        raise self.retry(countdown=0.1)
    return self.request.retries


@app.task
def fails():
    raise ValueError("on purpose")
