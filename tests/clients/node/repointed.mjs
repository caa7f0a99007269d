// A subscriber and a Lua worker that must notice nothing while the address leads to another server.
import { deadline } from "./connect.mjs";

export const SCRIPT = "return redis.call('RPUSH', KEYS[1], ARGV[1])";

// `subscribe(listener)` subscribes to `news`; `push(number)` runs the script.
export async function repointed(subscribe, push) {
  deadline(60);
  let ended = false;
  await subscribe((message) => {
    console.log(`message ${message}`);
    ended ||= message === "end";
  });
  let number = 0;
  while (!ended) {
    number += 1;
    try {
      await push(String(number));
    } catch (error) {
      console.log(`error ${number} ${error.message}`);
    }
    await new Promise((resolve) => setTimeout(resolve, 2));
  }
  console.log(`pushed ${number}`);
}

// A connection that is lost is a line of the transcript.
export function watch(client, name, event) {
  client.on("error", (error) => console.log(`lost ${name} ${error.message}`));
  client.on(event, () => console.log(`lost ${name}`));
  return client;
}
