// Where to connect, and how to print: the last two arguments are HOST PORT.
import { readFileSync } from "node:fs";

const [host, port] = process.argv.slice(-2);

// With these files the connection is made with TLS.
const { TLS_CA, TLS_CERT, TLS_KEY } = process.env;
const tls = TLS_CA && { ca: readFileSync(TLS_CA), cert: readFileSync(TLS_CERT), key: readFileSync(TLS_KEY) };

export const address = { host, port: Number(port), ...(tls && { tls }) };

// Older servers have one database in a cluster. The program then uses it in place of each other one.
export const database = (number) => ("ONE_DATABASE" in process.env ? 0 : number);

// One line of the transcript. Buffers, maps and undefined are printed alike on every run.
export function print(label, value) {
  const plain = (_key, item) => {
    if (item instanceof Map) return Object.fromEntries(item);
    if (item instanceof Set) return [...item].sort();
    if (item?.type === "Buffer") return Buffer.from(item.data).toString("latin1");
    if (item instanceof Error) return `${item.name}: ${item.message}`;
    return item === undefined ? null : item;
  };
  console.log(`${label} ${JSON.stringify(value, plain)}`);
}

// The message of the error that `work` must end in.
export async function failure(work) {
  try {
    return { unexpected: await work() };
  } catch (error) {
    return error.message;
  }
}

// A run that hangs is a failed run: the process ends with an error that says where.
export function deadline(seconds) {
  const timer = setTimeout(() => {
    console.error(`not done after ${seconds} s`);
    process.exit(1);
  }, seconds * 1000);
  timer.unref();
}
