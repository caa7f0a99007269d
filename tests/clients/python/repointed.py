"""redis-py, a subscriber and a Lua worker that must notice nothing while the address leads to another server."""

import threading
import time

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from transcript import HOST, PORT, TLS

# Without retries, the program sees each connection that is lost.
client = redis.Redis(host=HOST, port=PORT, retry=Retry(NoBackoff(), 0), decode_responses=True, **TLS)
ended = threading.Event()


def work():
    push = client.register_script("return redis.call('RPUSH', KEYS[1], ARGV[1])")
    number = 0
    while not ended.is_set():
        number += 1
        try:
            push(keys=["jobs"], args=[number])
        except redis.RedisError as error:
            print("error", number, error, flush=True)
        time.sleep(0.002)
    print("pushed", number, flush=True)


worker = threading.Thread(target=work)
subscriber = client.pubsub(ignore_subscribe_messages=True)
subscriber.subscribe("news")
worker.start()
try:
    for message in subscriber.listen():
        print("message", message["data"], flush=True)
        if message["data"] == "end":
            break
finally:
    ended.set()
    worker.join()
