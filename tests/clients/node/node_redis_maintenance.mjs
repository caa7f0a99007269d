// node-redis with notifications of maintenance: it writes until it is told to stop, and must notice nothing else.
import { subscribe } from "node:diagnostics_channel";
import { createClient } from "redis";
import { address, deadline } from "./connect.mjs";

deadline(100);
process.env.REDIS_EMIT_DIAGNOSTICS = "1";
// The library's own events have names in small letters.
subscribe("redis.maintenance", ({ type }) => {
  if (/^[A-Z_]+$/.test(type)) console.log(`told ${type}`);
});

// With "enabled", the library fails if the server refuses notifications.
const client = createClient({
  RESP: 3,
  socket: address,
  maintNotifications: "enabled",
  maintEndpointType: process.argv.at(-3),
});
client.on("error", (error) => console.log(`error ${error.message}`));
await client.connect();
for (let number = 1; ; number += 1) {
  try {
    await client.set("written", String(number));
    if ((await client.get("stop")) !== null) break;
  } catch (error) {
    console.log(`error ${number} ${error.message}`);
  }
  await new Promise((resolve) => setTimeout(resolve, 5));
}
console.log("end");
client.destroy();
