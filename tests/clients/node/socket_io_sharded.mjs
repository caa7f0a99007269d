import { createServer } from "node:http";
import { once } from "node:events";
import { createShardedAdapter } from "@socket.io/redis-adapter";
import Redis from "ioredis";
import { createClient } from "redis";
import { Server } from "socket.io";
import { io as dial } from "socket.io-client";
import { address, deadline, print } from "./connect.mjs";

deadline(60);

const drivers = {
  ioredis: async () => {
    const [publisher, subscriber] = [new Redis(address), new Redis(address)];
    return { publisher, subscriber, ask: (words) => publisher.call(...words) };
  },
  "node-redis": async () => {
    const publisher = createClient({ socket: address });
    const subscriber = publisher.duplicate();
    await Promise.all([publisher.connect(), subscriber.connect()]);
    return { publisher, subscriber, ask: (words) => publisher.sendCommand(words) };
  },
};

// The dynamic mode has a shard channel for each room. The names of these rooms lie in different slots of a cluster.
const rooms = ["red", "green", "blue", "yellow", "black", "white"];

async function start(connect) {
  const redis = await connect();
  const http = createServer();
  const adapter = createShardedAdapter(redis.publisher, redis.subscriber, { subscriptionMode: "dynamic" });
  const io = new Server(http, { adapter });
  io.on("connection", (socket) => {
    socket.on("join", (room, done) => { socket.join(room); done(); });
    socket.on("leave", (room, done) => { socket.leave(room); done(); });
  });
  http.listen(0, "127.0.0.1");
  await once(http, "listening");
  return { io, redis, url: `http://127.0.0.1:${http.address().port}` };
}

// The adapter does not wait for its subscriptions. It counts its peers by those to its own channel.
async function subscribed({ redis }, channel, count) {
  while (Number((await redis.ask(["PUBSUB", "SHARDNUMSUB", channel]))[1]) !== count) {
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

for (const [name, connect] of Object.entries(drivers)) {
  const servers = [await start(connect), await start(connect)];
  await subscribed(servers[0], "socket.io#/#", servers.length);
  print(`${name} servers`, await servers[0].io.of("/").adapter.serverCount());
  const sockets = servers.map(({ url }) => dial(url, { transports: ["websocket"], forceNew: true }));
  await Promise.all(sockets.map((socket) => once(socket, "connect")));
  for (const room of rooms) {
    await Promise.all(sockets.map((socket) => socket.emitWithAck("join", room)));
    await subscribed(servers[0], `socket.io#/#${room}#`, servers.length);
  }
  const counts = await servers[1].redis.ask(["PUBSUB", "SHARDNUMSUB", ...rooms.map((room) => `socket.io#/#${room}#`)]);
  print(`${name} rooms`, counts);
  const channels = await servers[1].redis.ask(["PUBSUB", "SHARDCHANNELS", "socket.io#/#*e*#"]);
  // Those of the adapters have random names.
  print(`${name} channels`, channels.filter((channel) => rooms.some((room) => channel.endsWith(`#${room}#`))).sort());

  const heard = Promise.all(sockets.map((socket) => once(socket, "greeting")));
  servers[0].io.emit("greeting", "from the first server");
  print(`${name} broadcast`, await heard);

  for (const room of rooms) {
    const inRoom = Promise.all(sockets.map((socket) => once(socket, "greeting")));
    servers[1].io.to(room).emit("greeting", `to the room ${room}`);
    print(`${name} room`, await inRoom);
  }

  // A room that one of them has left.
  await sockets[0].emitWithAck("leave", "green");
  await subscribed(servers[0], "socket.io#/#green#", 1);
  const leftOut = once(sockets[1], "greeting");
  servers[0].io.to("green").emit("greeting", "to those who stayed");
  print(`${name} left`, await leftOut);
  await sockets[0].emitWithAck("join", "green");
  await subscribed(servers[0], "socket.io#/#green#", 2);

  for (const { io } of servers) {
    const found = await io.in("blue").fetchSockets();
    print(`${name} fetchSockets`, found.map((socket) => [...socket.rooms].includes("blue")));
  }
  servers[0].io.on("ask", (answer) => answer("first"));
  servers[1].io.on("ask", (answer) => answer("second"));
  print(`${name} serverSideEmit`, await servers[0].io.serverSideEmitWithAck("ask"));
  const answers = once(servers[1].io.of("/"), "connection");
  const late = dial(servers[1].url, { transports: ["websocket"], forceNew: true });
  await Promise.all([answers, once(late, "connect")]);
  late.on("question", (answer) => answer("late"));
  sockets.forEach((socket) => socket.on("question", (answer) => answer("early")));
  print(`${name} emitWithAck`, (await servers[0].io.timeout(10_000).emitWithAck("question")).sort());

  const left = once(sockets[1], "disconnect");
  servers[0].io.in("red").disconnectSockets();
  print(`${name} disconnectSockets`, (await left)[0]);

  [...sockets, late].forEach((socket) => socket.disconnect());
  for (const { io, redis } of servers) {
    await io.close();
    await Promise.all([redis.publisher.quit(), redis.subscriber.quit()]);
  }
}
