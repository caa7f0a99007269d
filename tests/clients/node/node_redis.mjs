import { createClient } from "redis";
import { address, database, deadline, failure, print } from "./connect.mjs";

deadline(60);

async function work(RESP) {
  const client = createClient({ socket: address, RESP, name: "worker" });
  client.on("error", (error) => print("client error", error));
  await client.connect();
  print("set", [await client.set("k", "v"), await client.get("k"), await client.get("nothing")]);
  print("name", await client.clientGetName());
  print("wrong type", await failure(() => client.lPush("k", "x")));
  print("hash", [await client.hSet("h", { a: "1", b: "2" }), await client.hGetAll("h")]);
  await client.zAdd("z", [{ score: 1.5, value: "a" }, { score: 2, value: "b" }]);
  print("scores", [await client.zRangeWithScores("z", 0, -1), await client.zScore("z", "a")]);

  const numbers = await Promise.all(Array.from({ length: 1000 }, () => client.incr("n")));
  print("batch in order", numbers.every((n, i) => n === i + 1));
  print("multi", await client.multi().set("m", "1").incr("m").get("m").exec());

  const other = await client.duplicate().connect();
  await client.watch("m");
  await other.set("m", "changed");
  print("watch conflict", await failure(() => client.multi().set("m", "5").exec()));

  const popped = other.blPop("queue", 10);
  await client.rPush("queue", "job");
  print("blpop", await popped);

  const subscriber = await client.duplicate().connect();
  const received = [];
  let enough;
  const all = new Promise((resolve) => (enough = resolve));
  const listener = (text, channel) => received.push([channel, text]) === 4 && enough();
  await subscriber.subscribe(["news", "more"], listener);
  await subscriber.pSubscribe("n?ws", listener);
  print("receivers", [await client.publish("news", "one"), await client.publish("news", "two")]);
  await all;
  print("received", received.sort());
  await subscriber.unsubscribe();
  await subscriber.pUnsubscribe();
  print("usable again", await subscriber.get("k"));

  const id = await client.xAdd("s", "1-1", { field: "value" });
  print("stream", [id, await client.xGroupCreate("s", "g", "0"), await client.xLen("s")]);
  print("group read", await client.xReadGroup("g", "c", { key: "s", id: ">" }, { COUNT: 10 }));
  print("ack", await client.xAck("s", "g", id));

  print("script", await client.eval("return {KEYS[1], ARGV[1], 7}", { keys: ["a"], arguments: ["b"] }));
  const keys = [];
  for await (const page of client.scanIterator({ COUNT: 2 })) keys.push(...page);
  print("scan", [...new Set(keys)].sort());

  await client.select(database(4));
  print("other database", [await client.get("k"), await client.dbSize()]);
  print("flush", await client.flushAll());
  for (const each of [client, other, subscriber]) await each.close();
}

// Client-side caching needs RESP3: another client's write must reach the cache as a push.
async function tracking() {
  const cached = createClient({
    socket: { ...address, reconnectStrategy: false },
    RESP: 3,
    clientSideCache: { ttl: 0, maxEntries: 100 },
  });
  cached.on("error", (error) => print("client error", error));
  await cached.connect();
  const other = await createClient({ socket: address }).connect();
  await other.set("c", "old");
  print("cached", [await cached.get("c"), await cached.get("c")]);
  await other.set("c", "new");
  let value = await cached.get("c");
  for (let i = 0; i < 500 && value !== "new"; i++) {
    await new Promise((resolve) => setTimeout(resolve, 10));
    value = await cached.get("c");
  }
  print("invalidated", value);
  await cached.close();
  await other.close();
}

for (const version of [2, 3]) {
  print("RESP", version);
  await work(version);
}
await tracking().catch((error) => print("tracking", error));
