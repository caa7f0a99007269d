// Rotates the token of the server's user `app` twice, between commands and while commands run, and reports each error.
import Redis from "ioredis";
import { address, deadline, print } from "./connect.mjs";

const SECONDS = 15;
const STEPS = 8;

// The number of the current token.
let issued = 1;

// Returns the current token, and counts how often it was fetched.
class Tokens {
  #admin = new Redis({ host: address.host, port: Number(process.env.SERVER_PORT) });
  fetched = 0;

  fetch() {
    this.fetched += 1;
    return `token-${issued}`;
  }

  async rotate() {
    await this.#admin.acl("SETUSER", "app", "resetpass", `>token-${issued + 1}`);
    issued += 1;
    await this.#admin.client("KILL", "USER", "app");
  }

  end() {
    this.#admin.disconnect();
  }
}

// Runs one command again and again; `command` is a function of the library's client.
async function rotateDuring(name, connect, command) {
  const tokens = new Tokens();
  const client = await connect(tokens);
  let done = 0;
  let errors = [];

  const step = async () => {
    try {
      await command(client);
      done += 1;
    } catch (error) {
      errors.push(error);
    }
  };
  const wanted = async (work) => {
    const [target, until] = [done + STEPS, Date.now() + SECONDS * 1000];
    while (done < target) {
      if (Date.now() > until) throw new Error(`${name}: no recovery: ${errors.slice(-3)}`);
      await work();
    }
  };
  const report = (rotation) => {
    for (const error of errors) console.log(`error ${name} ${rotation} ${error.name} ${error.message}`);
    console.log(`failed ${name} ${rotation} ${errors.length}`);
    if (tokens.fetched < 2) throw new Error(`${name}: the new token was not fetched`);
    errors = [];
    tokens.fetched = 1;
  };

  await wanted(step);
  print("served", [name, errors.length]);
  await tokens.rotate();
  await wanted(step);
  report("idle");

  let stopped = false;
  const loop = (async () => {
    while (!stopped) await step();
  })();
  const progress = () => wanted(() => new Promise((resolve) => setTimeout(resolve, 5)));
  await progress();
  await tokens.rotate();
  await progress();
  stopped = true;
  await loop;
  report("busy");
  client.destroy ? client.destroy() : client.disconnect();
  tokens.end();
}

// Tests each kind of command with a client of its own: `connect(tokens)` makes it.
export async function rotations(connect, kinds) {
  deadline(100);
  for (const [name, command] of Object.entries(kinds)) await rotateDuring(name, connect, command);
}
