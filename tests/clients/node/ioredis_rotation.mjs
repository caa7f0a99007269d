// ioredis: each reconnect takes a new token, and a command that met a refused token is sent again.
import Redis from "ioredis";
import { address } from "./connect.mjs";
import { rotations } from "./rotation.mjs";

async function connect(tokens) {
  const redis = new Redis({
    ...address,
    username: "app",
    password: tokens.fetch(),
    retryStrategy(times) {
      redis.options.password = tokens.fetch();
      return Math.min(times * 50, 1000);
    },
    reconnectOnError: (error) => (error.message.startsWith("WRONGPASS") ? 2 : false),
  });
  redis.on("error", () => {});
  redis.defineCommand("increase", { numberOfKeys: 1, lua: "return redis.call('INCR', KEYS[1])" });
  return redis;
}

await rotations(connect, {
  read: (redis) => redis.get("k"),
  write: (redis) => redis.incr("n"),
  script: (redis) => redis.increase("scripted"),
  pop: (redis) => redis.blpop("none", 0.01),
});
