import { FlowProducer, Queue, QueueEvents, Worker } from "bullmq";
import { address, deadline, print } from "./connect.mjs";

deadline(90);

// In a cluster, the keys of a queue must be in one slot.
const options = { connection: { ...address, maxRetriesPerRequest: null }, prefix: "{bull}" };
const attempts = new Map();

// Every third job fails once and is retried; every tenth fails for good.
async function process(job) {
  const attempt = (attempts.get(job.name) ?? 0) + 1;
  attempts.set(job.name, attempt);
  if (job.data.n % 10 === 9) throw new Error("never works");
  if (job.data.n % 3 === 0 && attempt === 1) throw new Error("works the second time");
  await job.updateProgress(50);
  return job.data.n * 2;
}

const JOBS = 30;
const queue = new Queue("work", options);
const events = new QueueEvents("work", options);
await events.waitUntilReady();

const completed = new Map();
const failed = new Map();
const done = new Promise((resolve) => {
  const check = () => completed.size + failed.size === JOBS && resolve();
  events.on("completed", ({ jobId, returnvalue }) => check(completed.set(jobId, returnvalue)));
  events.on("failed", ({ jobId, failedReason }) => check(failed.set(jobId, failedReason)));
});

const retried = { attempts: 2, backoff: { type: "fixed", delay: 20 } };
const numbers = Array.from({ length: JOBS }, (_, n) => n);
await queue.addBulk(numbers.map((n) => ({ name: `job ${n}`, data: { n }, opts: { ...retried, jobId: `id-${n}` } })));
print("waiting", await queue.getJobCounts("waiting"));

const worker = new Worker("work", process, { ...options, concurrency: 4 });
await done;

const sorted = (map) => [...map].sort(([a], [b]) => Number(a.slice(3)) - Number(b.slice(3)));
print("completed", sorted(completed));
print("failed", sorted(failed));
print("attempts", numbers.map((n) => attempts.get(`job ${n}`)));

const delayed = await queue.add("later", { n: 1 }, { delay: 100 });
print("delayed", await delayed.waitUntilFinished(events, 20_000));

const flow = new FlowProducer(options);
const tree = await flow.add({
  name: "parent", queueName: "work", data: { n: 100 },
  children: [1, 2, 4].map((n) => ({ name: `child ${n}`, queueName: "work", data: { n } })),
});
print("flow", await tree.job.waitUntilFinished(events, 20_000));
const children = await tree.job.getChildrenValues();
print("children", Object.values(children).sort((a, b) => a - b));
print("counts", await queue.getJobCounts("completed", "failed", "waiting", "active", "delayed"));

await worker.close();
await events.close();
await flow.close();
await queue.obliterate({ force: true });
await queue.close();
