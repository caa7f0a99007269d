"""redis-py with notifications of maintenance: it writes until it is told to stop, and must notice nothing else."""

import sys
import time

import redis
from redis.backoff import NoBackoff
from redis.maint_notifications import (
    EndpointType,
    MaintNotificationsConfig,
    MaintNotificationsConnectionHandler,
    MaintNotificationsPoolHandler,
)
from redis.retry import Retry

from transcript import HOST, PORT


def told(handle):
    """Prints each notification before the library handles it."""

    def handle_notification(self, notification):
        print("told", type(notification).__name__, flush=True)
        return handle(self, notification)

    return handle_notification


for handler in (MaintNotificationsConnectionHandler, MaintNotificationsPoolHandler):
    handler.handle_notification = told(handler.handle_notification)

# With `True`, the library fails if the server refuses notifications. Without retries, the program sees each error.
client = redis.Redis(
    host=HOST,
    port=PORT,
    protocol=3,
    retry=Retry(NoBackoff(), 0),
    maint_notifications_config=MaintNotificationsConfig(enabled=True, endpoint_type=EndpointType(sys.argv[1])),
)
number = 0
while True:
    number += 1
    try:
        client.set("written", number)
        if client.get("stop") is not None:
            break
    except redis.RedisError as error:
        print("error", number, repr(error), flush=True)
    time.sleep(0.005)
print("end", flush=True)
