import { createClient, defineScript } from "redis";
import { address } from "./connect.mjs";
import { SCRIPT, repointed, watch } from "./repointed.mjs";

const pushJob = defineScript({
  NUMBER_OF_KEYS: 1,
  SCRIPT,
  parseCommand: (parser, key, number) => {
    parser.pushKey(key);
    parser.push(number);
  },
  transformReply: (reply) => reply,
});

const create = (name) => watch(createClient({ socket: address, scripts: { pushJob } }), name, "reconnecting").connect();
const [worker, subscriber] = [await create("worker"), await create("subscriber")];

await repointed(
  (listener) => subscriber.subscribe("news", listener),
  (number) => worker.pushJob("jobs", number),
);
worker.destroy();
subscriber.destroy();
