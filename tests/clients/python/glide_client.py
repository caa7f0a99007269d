"""valkey-glide: what an application does in a day, in RESP2 and RESP3."""

import asyncio

from glide import (
    Batch,
    GlideClient,
    GlideClientConfiguration,
    NodeAddress,
    ProtocolVersion,
    Script,
    StreamAddOptions,
)

from transcript import HOST, PORT, database, say

LISTENING = GlideClientConfiguration.PubSubSubscriptions(
    {GlideClientConfiguration.PubSubChannelModes.Exact: {"news"}}, None, None
)


async def connect(protocol, **options):
    configuration = GlideClientConfiguration(
        [NodeAddress(HOST, PORT)], protocol=protocol, request_timeout=20_000, client_name="worker", **options
    )
    return await GlideClient.create(configuration)


async def failure(call):
    """The exception that the call must end in."""
    try:
        return ["unexpected", await call]
    except Exception as error:
        return error


async def basics(c):
    say("ping", [await c.ping(), await c.echo("hello")])
    say("set", [await c.set("k", "v"), await c.get("k"), await c.get("nothing")])
    say("name", await c.client_getname())
    say("wrong type", await failure(c.lpush("k", ["x"])))
    say("unknown command", await failure(c.custom_command(["NOSUCH", "a"])))
    say("hash", [await c.hset("h", {"a": "1", "b": "2"}), await c.hgetall("h"), await c.hincrby("h", "a", 5)])
    say("members", [await c.sadd("s", ["a", "b"]), await c.smembers("s")])
    say("scores", [await c.zadd("z", {"a": 1, "b": 2.5}), await c.zscore("z", "b")])
    binary = bytes(range(256)) * 40
    say("binary", [await c.set(binary, binary), await c.get(binary) == binary])
    say("large", [await c.set("large", "x" * 3_000_000), len(await c.get("large"))])
    say("database", [await c.select(database(5)), await c.set("here", "1"), await c.dbsize(), await c.select(0), await c.exists(["here"])])
    replies = await asyncio.gather(*(c.incr("counter") for _ in range(900)))
    say("many at once", sorted(replies) == list(range(1, 901)))


async def batches(c):
    for atomic in [False, True]:
        batch = Batch(is_atomic=atomic)
        batch.set("a", "1").lpush("a", ["2"]).incr("a").get("a")
        say(f"batch atomic={atomic}", await c.exec(batch, raise_on_error=False))
    say("watch", await c.watch(["a"]))
    say("changed", await c.set("a", "5"))
    batch = Batch(is_atomic=True)
    batch.get("a")
    say("conflict", await c.exec(batch, raise_on_error=False))


async def others(c, protocol):
    script = Script("return {redis.call('INCRBY', KEYS[1], ARGV[1]), ARGV[1]}")
    for by in ["5", "6"]:
        say("script", await c.invoke_script(script, keys=["n"], args=[by]))
    waiter = await connect(protocol)
    popped = asyncio.create_task(waiter.blpop(["queue"], 10))
    say("pushed", await c.rpush("queue", ["job"]))
    say("popped", await popped)
    await waiter.close()
    say("stream", [await c.xadd("st", [("f", "v")], StreamAddOptions(id="1-1")), await c.xlen("st")])


async def messages(c):
    listener = await connect(ProtocolVersion.RESP3, pubsub_subscriptions=LISTENING)
    while not await c.publish("hello", "news"):
        await asyncio.sleep(0.01)
    message = await listener.get_pubsub_message()
    say("message", [message.channel, message.message])
    await listener.close()


async def main():
    for protocol in [ProtocolVersion.RESP2, ProtocolVersion.RESP3]:
        say(f"--- {protocol.name}")
        c = await connect(protocol)
        await basics(c)
        await batches(c)
        await others(c, protocol)
        await messages(c)
        say("flushed", await c.flushall())
        await c.close()


asyncio.run(main())
