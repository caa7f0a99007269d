// node-redis: the credentials provider is asked for a token at each connect.
import { createClient, defineScript } from "redis";
import { address } from "./connect.mjs";
import { rotations } from "./rotation.mjs";

const increase = defineScript({
  NUMBER_OF_KEYS: 1,
  SCRIPT: "return redis.call('INCR', KEYS[1])",
  parseCommand: (parser, key) => parser.pushKey(key),
  transformReply: (reply) => reply,
});

async function connect(tokens) {
  const client = createClient({
    socket: address,
    scripts: { increase },
    credentialsProvider: {
      type: "async-credentials-provider",
      credentials: async () => ({ username: "app", password: tokens.fetch() }),
    },
  });
  client.on("error", () => {});
  return client.connect();
}

await rotations(connect, {
  read: (client) => client.get("k"),
  write: (client) => client.incr("n"),
  script: (client) => client.increase("scripted"),
  pop: (client) => client.blPop("none", 0.01),
});
