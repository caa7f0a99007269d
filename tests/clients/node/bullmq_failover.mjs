// BullMQ while the primary changes: bullmq_failover.mjs steady|still HOST PORT. It pushes JOBS jobs and sets the key `pushed`.
// `steady` goes on pushing until the key `stop` exists. The program prints which jobs did not run, or ran more than once.
import { appendFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { Queue, Worker } from "bullmq";
import { Redis } from "ioredis";
import { address, deadline, print } from "./connect.mjs";

deadline(100);

const JOBS = 100;
const DEADLINE = 60_000;
const manner = process.argv.at(-3);
const connection = { ...address, maxRetriesPerRequest: null };
const times = new Map();

// Takes a moment, then notes the job's number, for the program that started this one as well.
async function run(job) {
  await sleep(20);
  times.set(job.data.n, (times.get(job.data.n) ?? 0) + 1);
  appendFileSync("ran", `${job.data.n}\n`);
}

const queue = new Queue("work", { connection });
// A job whose lock was lost runs again after a few seconds.
const timing = { lockDuration: 5_000, stalledInterval: 2_000, maxStalledCount: 5 };
const worker = new Worker("work", run, { connection, concurrency: 5, removeOnComplete: { count: 0 }, ...timing });
for (const part of [queue, worker]) part.on("error", (error) => console.error("error", error));

let pushed = 0;
async function push() {
  try {
    await queue.add("job", { n: pushed }, { attempts: 3 });
    pushed += 1;
  } catch (error) {
    print("error", error);
  }
}

const redis = new Redis(connection);
while (pushed < JOBS) await push();
await redis.set("pushed", pushed);
while (manner === "steady" && !(await redis.exists("stop"))) {
  await push();
  await sleep(10);
}

const missing = () => Array.from({ length: pushed }, (_, n) => n).filter((n) => !times.has(n));
const end = Date.now() + DEADLINE;
while (missing().length > 0 && Date.now() < end) await sleep(50);
await worker.close();
await queue.close();
redis.disconnect();
print("pushed", pushed);
print("missing", missing());
print("doubled", [...times].filter(([, count]) => count > 1).map(([n]) => n));
