// What a dashboard asks: the arguments before HOST PORT are the ports of further ways to the same server.
import { Queue, QueueEvents, Worker } from "bullmq";
import { address, deadline, print } from "./connect.mjs";

deadline(90);

const ports = process.argv.slice(2, -2).map(Number);
const ways = [address, ...ports.map((port) => ({ ...address, port }))];
// In a cluster, the keys of a queue must be in one slot.
const options = (way) => ({ connection: { ...way, maxRetriesPerRequest: null }, prefix: "{bull}" });

// A worker and a listener for events on each way, and a queue that asks on each way.
const workers = ways.map((way, n) => new Worker("dashboard", async () => n, { ...options(way), name: `worker-${n}` }));
const events = ways.map((way) => new QueueEvents("dashboard", options(way)));
await Promise.all([...workers, ...events].map((one) => one.waitUntilReady()));
const queues = ways.map((way) => new Queue("dashboard", options(way)));

// The blocked commands are on their way: ask until the list is whole, or for ten seconds.
async function settled(ask, count) {
  const until = Date.now() + 10_000;
  for (;;) {
    const found = await ask();
    if (found.length === count || Date.now() > until) return found;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

for (const [n, queue] of queues.entries()) {
  const found = await settled(() => queue.getWorkers(), ways.length);
  print(`workers by way ${n}`, found.map((worker) => worker.name).sort());
  print(`worker names by way ${n}`, found.map((worker) => worker.rawname.split(":w:")[1] ?? "").sort());
  print(`events by way ${n}`, (await settled(() => queue.getQueueEvents(), ways.length)).length);
}

await Promise.all([...workers, ...events, ...queues].map((one) => one.close()));
