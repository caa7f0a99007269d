import Redis from "ioredis";
import { address, database, deadline, failure, print } from "./connect.mjs";

deadline(60);

async function work(options) {
  const redis = new Redis({ ...address, connectionName: "worker", ...options });
  await redis.set("k", "v", "EX", 100);
  print("get", await redis.get("k"));
  print("missing", await redis.get("nothing"));
  print("name", await redis.client("GETNAME"));
  print("wrong type", await failure(() => redis.lpush("k", "x")));
  print("hash", [await redis.hset("h", { a: 1, b: 2 }), await redis.hgetall("h")]);
  print("scores", [await redis.zadd("z", 1, "a", 2.5, "b"), await redis.zrange("z", 0, -1, "WITHSCORES")]);

  const pipeline = redis.pipeline();
  for (let i = 0; i < 1000; i++) pipeline.incr("n");
  const counted = await pipeline.exec();
  print("pipeline", [counted.length, counted.at(-1)]);

  // Commands issued in one turn leave together and are answered in order.
  const echoes = await Promise.all(Array.from({ length: 500 }, (_, i) => redis.echo(`e${i}`)));
  print("auto batch in order", echoes.every((echo, i) => echo === `e${i}`));

  print("multi", await redis.multi().set("m", 1).incr("m").get("m").exec());
  print("multi with a fault", await failure(() => redis.multi().set("m", 1).call("NOSUCH").exec()));
  await redis.watch("m");
  const other = redis.duplicate();
  await other.set("m", "changed");
  print("watch conflict", await redis.multi().set("m", 5).exec());

  redis.defineCommand("addTo", { numberOfKeys: 1, lua: "return redis.call('INCRBY', KEYS[1], ARGV[1])" });
  print("script", [await redis.addTo("s", 5), await redis.addTo("s", 6)]);

  const popped = redis.blpop("queue", 10);
  await other.rpush("queue", "job");
  print("blpop", await popped);
  print("blpop timeout", await redis.blpop("queue", 0.1));

  const subscriber = redis.duplicate();
  const received = [];
  const all = new Promise((resolve) => {
    subscriber.on("message", (channel, text) => received.push([channel, text]) === 4 && resolve());
    subscriber.on("pmessage", (_p, channel, text) => received.push([channel, text]) === 4 && resolve());
  });
  print("subscribed", [await subscriber.subscribe("news"), await subscriber.psubscribe("n?ws")]);
  print("receivers", [await other.publish("news", "one"), await other.publish("news", "two")]);
  await all;
  print("received", received.sort());
  print("unsubscribed", [await subscriber.unsubscribe("news"), await subscriber.punsubscribe()]);
  print("usable again", await subscriber.get("k"));

  const keys = [];
  for await (const page of redis.scanStream({ match: "*", count: 2 })) keys.push(...page);
  print("scan", [...new Set(keys)].sort());

  await redis.select(database(3));
  print("other database", [await redis.get("k"), await redis.set("k", "in 3")]);
  await redis.select(0);
  print("first database", await redis.get("k"));
  print("flush", await redis.flushall());
  await Promise.all([redis.quit(), other.quit(), subscriber.quit()]);
}

for (const options of [{}, { db: database(2) }, { enableAutoPipelining: true }]) {
  print("options", options);
  await work(options);
}
