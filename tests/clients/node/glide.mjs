// valkey-glide: what an application does in a day, in RESP2 and RESP3.
import { Batch, GlideClient, Logger, ProtocolVersion, Script } from "@valkey/valkey-glide";
import { address, database, deadline, failure, print } from "./connect.mjs";

deadline(90);
// Its log goes to standard output, as the transcript does.
Logger.init("off");

const connect = (protocol) =>
  GlideClient.createClient({ addresses: [address], protocol, requestTimeout: 20_000, clientName: "worker" });

async function basics(c) {
  print("ping", [await c.ping(), await c.echo("hello")]);
  print("set", [await c.set("k", "v"), await c.get("k"), await c.get("nothing")]);
  print("name", await c.clientGetName());
  print("wrong type", await failure(() => c.lpush("k", ["x"])));
  print("unknown command", await failure(() => c.customCommand(["NOSUCH", "a"])));
  print("hash", [await c.hset("h", { a: "1", b: "2" }), await c.hget("h", "b"), await c.hincrBy("h", "a", 5)]);
  print("scores", [await c.zadd("z", { a: 1, b: 2.5 }), await c.zscore("z", "b")]);
  print("large", [await c.set("large", "x".repeat(3_000_000)), (await c.get("large")).length]);
  print("database", [await c.select(database(5)), await c.set("here", "1"), await c.dbsize(), await c.select(0), await c.exists(["here"])]);
  const replies = await Promise.all(Array.from({ length: 900 }, () => c.incr("counter")));
  print("many at once", new Set(replies).size);
}

async function batches(c) {
  for (const atomic of [false, true]) {
    const batch = new Batch(atomic).set("a", "1").lpush("a", ["2"]).incr("a").get("a");
    const replies = await c.exec(batch, false);
    print(`batch atomic=${atomic}`, replies.map((reply) => (reply instanceof Error ? reply.message : reply)));
  }
  print("watch", [await c.watch(["a"]), await c.set("a", "5"), await c.exec(new Batch(true).get("a"), false)]);
}

async function others(c, protocol) {
  const script = new Script("return {redis.call('INCRBY', KEYS[1], ARGV[1]), ARGV[1]}");
  for (const by of ["5", "6"]) print("script", await c.invokeScript(script, { keys: ["n"], args: [by] }));
  script.release();
  const waiter = await connect(protocol);
  const popped = waiter.blpop(["queue"], 10);
  print("pushed", await c.rpush("queue", ["job"]));
  print("popped", await popped);
  waiter.close();
  print("stream", [await c.xadd("st", [["f", "v"]], { id: "1-1" }), await c.xlen("st")]);
}

for (const [name, protocol] of [["RESP2", ProtocolVersion.RESP2], ["RESP3", ProtocolVersion.RESP3]]) {
  print("---", name);
  const c = await connect(protocol);
  await basics(c);
  await batches(c);
  await others(c, protocol);
  print("flushed", await c.flushall());
  c.close();
}
