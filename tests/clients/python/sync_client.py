"""redis-py, blocking API: what an application does in a day, in RESP2 and RESP3."""

import threading

import redis
from redis.cache import CacheConfig
from redis.connection import CacheProxyConnection

from transcript import HOST, PORT, TLS, database, failure, say


def connect(protocol, **options):
    return redis.Redis(host=HOST, port=PORT, protocol=protocol, decode_responses=True, **TLS, **options)


def basics(r):
    say("ping", r.ping())
    say("set", [r.set("k", "v", ex=100), r.get("k"), r.get("nothing"), r.set("k", "w", nx=True)])
    say("name", r.client_getname())
    say("wrong type", failure(r.lpush, "k", "x"))
    say("unknown command", failure(r.execute_command, "NOSUCH", "a"))
    say("hash", [r.hset("h", mapping={"a": 1, "b": 2}), r.hgetall("h"), r.hincrby("h", "a", 5)])
    say("set of members", [r.sadd("s", "a", "b", "c"), r.smembers("s")])
    say("scores", [r.zadd("z", {"a": 1, "b": 2.5}), r.zrange("z", 0, -1, withscores=True), r.zscore("z", "b")])
    say("binary", r.set("bin", bytes(range(256)) * 40) and r.strlen("bin"))
    say("large", r.set("large", "x" * 3_000_000) and len(r.get("large")))
    say("many keys", [r.mset({f"key:{i}": i for i in range(500)}), sum(map(int, r.mget([f"key:{i}" for i in range(500)])))])
    say("scan", len(set(r.scan_iter("key:*", count=50))))
    say("hscan", dict(r.hscan_iter("h")))
    say("role", r.role()[0])
    say("info", r.info("replication")["role"])


def pipelines(r):
    pipe = r.pipeline(transaction=False)
    for i in range(2000):
        pipe.set(f"p:{i}", i)
        pipe.get(f"p:{i}")
    replies = pipe.execute()
    say("pipeline in order", replies[1::2] == [str(i) for i in range(2000)])
    pipe = r.pipeline(transaction=False)
    pipe.set("a", 1).lpush("a", 2).get("a")
    say("pipeline with a fault", pipe.execute(raise_on_error=False))
    pipe = r.pipeline()
    pipe.set("a", 1).incr("a").get("a")
    say("transaction", pipe.execute())
    pipe = r.pipeline()
    pipe.set("a", 1).execute_command("NOSUCH")
    say("aborted transaction", failure(pipe.execute))

    def step(pipe):
        value = int(pipe.get("counter") or 0)
        pipe.multi()
        pipe.set("counter", value + 1)

    def many():
        for _ in range(25):
            r.transaction(step, "counter")

    threads = [threading.Thread(target=many) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    say("watched counter", r.get("counter"))
    with r.pipeline() as pipe:
        pipe.watch("a")
        r.set("a", "changed")
        pipe.multi()
        pipe.set("a", "mine")
        say("watch conflict", failure(pipe.execute))


def locks(r):
    inside, worst, guard = [0], [0], threading.Lock()

    def work():
        for _ in range(5):
            with r.lock("lock", timeout=30, sleep=0.01, blocking_timeout=60):
                with guard:
                    inside[0] += 1
                    worst[0] = max(worst[0], inside[0])
                r.incr("locked work")
                with guard:
                    inside[0] -= 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    say("lock", [r.get("locked work"), worst[0]])
    other = r.lock("lock", timeout=30)
    say("taken", [other.acquire(), r.lock("lock").acquire(blocking=False), other.release()])
    say("not mine", failure(r.lock("lock").release))


def blocking(r):
    def later():
        r.rpush("queue", "job")

    timer = threading.Timer(0.1, later)
    timer.start()
    say("blpop", r.blpop("queue", timeout=20))
    timer.join()
    say("blpop timeout", r.blpop("queue", timeout=0.1))
    r.rpush("queue", "a", "b")
    say("blmove", [r.blmove("queue", "{queue}other", 5), r.lrange("{queue}other", 0, -1)])
    r.zadd("scored", {"m": 1})
    say("bzpopmin", r.bzpopmin("scored", timeout=5))


def messages(r):
    pubsub = r.pubsub()
    pubsub.subscribe("news", "more")
    pubsub.psubscribe("n*")
    seen = [pubsub.get_message(timeout=20) for _ in range(3)]
    say("receivers", [r.publish("news", "hello"), r.publish("more", "hi"), r.publish("unheard", "x")])
    seen += [pubsub.get_message(timeout=20) for _ in range(3)]
    say("messages", [(m["type"], m["pattern"], m["channel"], m["data"]) for m in seen])
    say("numsub", [r.pubsub_numsub("news", "unheard"), r.pubsub_numpat()])
    pubsub.ping()
    say("pong", pubsub.get_message(timeout=20))
    pubsub.unsubscribe()
    pubsub.punsubscribe()
    say("gone", sorted(str(pubsub.get_message(timeout=20)["type"]) for _ in range(3)))
    pubsub.close()
    received = []
    done = threading.Event()
    other = r.pubsub(ignore_subscribe_messages=True)
    other.subscribe(events=lambda m: (received.append(m["data"]), len(received) == 100 and done.set()))
    thread = other.run_in_thread(sleep_time=0.05)
    # The thread reads the confirmation itself: wait until the server counts it.
    while r.pubsub_numsub("events")[0][1] == 0:
        pass
    for i in range(100):
        r.publish("events", i)
    say("all heard", [done.wait(20), received == [str(i) for i in range(100)]])
    thread.stop()
    thread.join()


def scripts(r):
    add = r.register_script("return redis.call('INCRBY', KEYS[1], ARGV[1])")
    say("script", [add(keys=["n"], args=[5]), add(keys=["n"], args=[6])])
    r.script_flush()
    say("after a flush", add(keys=["n"], args=[1]))
    pipe = r.pipeline()
    add(keys=["n"], args=[1], client=pipe)
    say("in a transaction", pipe.execute())
    say("script fault", failure(r.eval, "return redis.call('LPUSH', KEYS[1], 1)", 1, "n"))
    r.function_load("#!lua name=mine\nredis.register_function('twice', function(k, a) return a[1] * 2 end)", replace=True)
    say("function", [r.fcall("twice", 0, 21), r.function_list("mine")[0] is not None])
    r.function_delete("mine")


def streams(r):
    ids = [r.xadd("log", {"n": i}, id=f"{i + 1}-0") for i in range(5)]
    say("ids", ids)
    r.xgroup_create("log", "group", id="0")
    say("read", r.xreadgroup("group", "one", {"log": ">"}, count=2))
    say("read by another", r.xreadgroup("group", "two", {"log": ">"}, count=10))
    say("acknowledged", r.xack("log", "group", "1-0", "2-0"))
    say("pending", [(p["message_id"], p["consumer"]) for p in r.xpending_range("log", "group", "-", "+", 10)])
    say("claimed", r.xclaim("log", "group", "one", 0, ["3-0"]))
    timer = threading.Timer(0.1, lambda: r.xadd("log", {"n": "new"}, id="9-0"))
    timer.start()
    say("blocking read", r.xreadgroup("group", "one", {"log": ">"}, block=20_000))
    timer.join()
    say("blocking timeout", r.xread({"log": "$"}, block=50))


def databases(protocol):
    r = connect(protocol, db=database(5))
    say("database 5", [r.set("here", 1), r.dbsize()])
    say("database 0", connect(protocol).exists("here"))


def caching():
    """The library has a list of servers that it caches for; what it asks of them is what any server since 6 does."""
    CacheProxyConnection.MIN_ALLOWED_VERSION = "6.0.0"
    CacheProxyConnection.DEFAULT_SERVER_NAME = connect(3).execute_command("HELLO")["server"]
    r = redis.Redis(host=HOST, port=PORT, protocol=3, decode_responses=True, cache_config=CacheConfig(), **TLS)
    writer = connect(3)
    writer.set("cached", "old")
    say("cached", [r.get("cached"), r.get("cached"), r.get_cache().size])
    writer.set("cached", "new")
    value = None
    for _ in range(1000):
        value = r.get("cached")
        if value == "new":
            break
    say("invalidated", value)


for protocol in (2, 3):
    print("--- RESP", protocol)
    client = connect(protocol, client_name="worker")
    for part in (basics, pipelines, locks, blocking, messages, scripts, streams):
        part(client)
        client.flushall()
    databases(protocol)
    client.flushall()
try:
    caching()
except redis.RedisError as error:
    say("caching", error)
