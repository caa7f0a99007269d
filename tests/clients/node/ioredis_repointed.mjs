import Redis from "ioredis";
import { address } from "./connect.mjs";
import { SCRIPT, repointed, watch } from "./repointed.mjs";

const worker = watch(new Redis(address), "worker", "reconnecting");
const subscriber = watch(new Redis(address), "subscriber", "reconnecting");
worker.defineCommand("pushJob", { numberOfKeys: 1, lua: SCRIPT });

await repointed(
  async (listener) => {
    subscriber.on("message", (_channel, message) => listener(message));
    await subscriber.subscribe("news");
  },
  (number) => worker.pushJob("jobs", number),
);
worker.disconnect();
subscriber.disconnect();
