import { createServer } from "node:http";
import { once } from "node:events";
import { createAdapter } from "@socket.io/redis-adapter";
import Redis from "ioredis";
import { createClient } from "redis";
import { Server } from "socket.io";
import { io as dial } from "socket.io-client";
import { address, deadline, print } from "./connect.mjs";

deadline(60);

const drivers = {
  ioredis: async () => [new Redis(address), new Redis(address)],
  "node-redis": async () => {
    const publisher = createClient({ socket: address });
    const subscriber = publisher.duplicate();
    await Promise.all([publisher.connect(), subscriber.connect()]);
    return [publisher, subscriber];
  },
};

async function start(connect) {
  const clients = await connect();
  const http = createServer();
  const io = new Server(http, { adapter: createAdapter(...clients, { requestsTimeout: 20_000 }) });
  io.on("connection", (socket) => socket.on("join", (room, done) => { socket.join(room); done(); }));
  http.listen(0, "127.0.0.1");
  await once(http, "listening");
  return { io, clients, url: `http://127.0.0.1:${http.address().port}` };
}

// The adapter counts its peers with PUBSUB NUMSUB before it asks them: both servers must be subscribed.
async function peersKnown(servers) {
  for (const { io } of servers) {
    while ((await io.of("/").adapter.serverCount()) !== servers.length) {
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
  }
}

for (const [name, connect] of Object.entries(drivers)) {
  const servers = [await start(connect), await start(connect)];
  await peersKnown(servers);
  const sockets = servers.map(({ url }) => dial(url, { transports: ["websocket"], forceNew: true }));
  await Promise.all(sockets.map((socket) => once(socket, "connect")));
  await Promise.all(sockets.map((socket) => socket.emitWithAck("join", "room")));

  const heard = Promise.all(sockets.map((socket) => once(socket, "greeting")));
  servers[0].io.emit("greeting", "from the first server");
  print(`${name} broadcast`, await heard);

  const inRoom = once(sockets[0], "greeting");
  servers[1].io.to("room").except(sockets[1].id).emit("greeting", "to the room");
  print(`${name} room`, await inRoom);

  for (const { io } of servers) {
    const found = await io.in("room").fetchSockets();
    print(`${name} fetchSockets`, found.map((socket) => [...socket.rooms].includes("room")));
  }
  servers[0].io.on("ask", (answer) => answer("first"));
  servers[1].io.on("ask", (answer) => answer("second"));
  print(`${name} serverSideEmit`, await servers[0].io.serverSideEmitWithAck("ask"));

  const left = once(sockets[1], "disconnect");
  servers[0].io.in("room").disconnectSockets();
  print(`${name} disconnectSockets`, (await left)[0]);

  sockets.forEach((socket) => socket.disconnect());
  for (const { io, clients } of servers) {
    await io.close();
    await Promise.all(clients.map((client) => client.quit?.()));
  }
}
