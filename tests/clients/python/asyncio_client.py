"""redis-py, asyncio API."""

import asyncio

import redis.asyncio as redis

from transcript import HOST, PORT, say


def connect(protocol, **options):
    return redis.Redis(host=HOST, port=PORT, protocol=protocol, decode_responses=True, **options)


async def crowd(protocol):
    """Many tasks on one pool: every one must read its own writes."""
    r = connect(protocol, max_connections=50)

    async def one(i):
        for j in range(20):
            await r.set(f"c:{i}", j)
            if await r.get(f"c:{i}") != str(j):
                return False
        return True

    say("own writes", all(await asyncio.gather(*(one(i) for i in range(50)))))
    await r.aclose()


async def queue(protocol):
    r = connect(protocol)
    taken = []

    async def consumer():
        while True:
            item = await r.blpop("queue", timeout=20)
            if item[1] == "stop":
                return
            taken.append(int(item[1]))

    consumers = [asyncio.create_task(consumer()) for _ in range(5)]
    for i in range(200):
        await r.rpush("queue", i)
    for _ in consumers:
        await r.rpush("queue", "stop")
    await asyncio.gather(*consumers)
    say("queue", sorted(taken) == list(range(200)))
    await r.aclose()


async def messages(protocol):
    r = connect(protocol)
    async with r.pubsub() as pubsub:
        await pubsub.subscribe("news")
        await pubsub.psubscribe("ne*")
        seen = []
        while len(seen) < 2:
            if message := await pubsub.get_message(timeout=20):
                seen.append((message["type"], message["data"]))
        say("receivers", await r.publish("news", "hello"))
        while len(seen) < 4:
            if message := await pubsub.get_message(timeout=20):
                seen.append((message["type"], message["data"]))
        say("messages", seen)
    await r.aclose()


async def transactions(protocol):
    r = connect(protocol)

    async def bump():
        async def step(pipe):
            value = int(await pipe.get("n") or 0)
            pipe.multi()
            pipe.set("n", value + 1)

        for _ in range(10):
            await r.transaction(step, "n")

    await asyncio.gather(*(bump() for _ in range(5)))
    say("watched counter", await r.get("n"))
    async with r.pipeline(transaction=True) as pipe:
        say("transaction", await pipe.set("a", 1).incr("a").get("a").execute())
    async with r.lock("lock", timeout=20):
        say("lock", await r.exists("lock"))
    say("unlocked", await r.exists("lock"))
    await r.aclose()


async def cancelled(protocol):
    """A command that its task gave up on must not leave its reply to the next one."""
    r = connect(protocol, single_connection_client=False)
    for _ in range(10):
        task = asyncio.create_task(r.blpop("nothing", timeout=20))
        await asyncio.sleep(0)
        task.cancel()
        try:
            await task
        except asyncio.CancelledError:
            pass
    say("after cancelled waits", await r.echo("mine"))
    await r.aclose()


async def main():
    for protocol in (2, 3):
        print("--- RESP", protocol)
        for part in (crowd, queue, messages, transactions, cancelled):
            await part(protocol)
            client = connect(protocol)
            await client.flushall()
            await client.aclose()


asyncio.run(main())
