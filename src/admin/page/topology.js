// Draws one upstream's topology: each Sentinel's view, the primary, its replicas with their lag, and respgate.

import { bytes, number, svg } from "./dom.js";

const PAD = 8;

function shortened(text, most) {
  return text.length > most ? `${text.slice(0, most - 1)}…` : text;
}

/** Draws a box with up to four lines. */
function box({ x, y, width, height, kind, lines }) {
  const most = Math.floor((width - 2 * PAD) / 6.9);
  return svg("g", { class: `node ${kind}` },
    svg("rect", { x, y, width, height, rx: 8 }),
    lines.map((line, at) =>
      svg("text", { x: x + PAD + 2, y: y + 18 + at * 16, class: at === 0 ? "strong" : "small" }, shortened(line, most))));
}

function line(from, to, kind) {
  const middle = (from.y + to.y) / 2;
  const path = from.x === to.x || from.y === to.y
    ? `M${from.x} ${from.y}L${to.x} ${to.y}`
    : from.sideways
      ? `M${from.x} ${from.y}C${(from.x + to.x) / 2} ${from.y} ${(from.x + to.x) / 2} ${to.y} ${to.x} ${to.y}`
      : `M${from.x} ${from.y}C${from.x} ${middle} ${to.x} ${middle} ${to.x} ${to.y}`;
  return svg("path", { d: path, class: `edge ${kind}` });
}

function lagText(replica) {
  if (replica.link !== null && replica.link !== "connected") return `link: ${replica.link}`;
  if (replica.lag_bytes === null) return replica.error ? "not sampled" : "lag unknown";
  if (replica.lag_bytes === 0) return "in sync";
  return `${bytes(replica.lag_bytes)}, ${number(replica.lag_seconds ?? 0)} s behind`;
}

/** Returns what the replica does for clients that read from replicas; null if none does. */
function readsText({ reads }) {
  if (!reads) return null;
  return reads.serves
    ? `${number(reads.per_second)} reads/s, ${number(reads.outstanding)} waiting`
    : `no reads: ${reads.obstacle}`;
}

function replicaKind(replica) {
  if (replica.link !== null && replica.link !== "connected") return "bad";
  if (replica.reads && !replica.reads.serves) return "warn";
  if (replica.lag_seconds === null) return replica.reads?.serves ? "good" : "unknown";
  return replica.lag_seconds >= 10 ? "warn" : "good";
}

function sentinelText(sentinel) {
  if (sentinel.state === "failed") return "does not answer";
  if (sentinel.state === "pending") return "not heard yet";
  return sentinel.primary === null ? "knows no primary" : `→ ${sentinel.primary}`;
}

function sentinelKind(sentinel) {
  if (sentinel.state !== "answering") return "bad";
  return sentinel.agrees ? "good" : "warn";
}

/** Returns the address that most Sentinels name; null if none names one. */
function named(upstream) {
  const votes = new Map();
  for (const { primary } of upstream.sentinels) {
    if (primary !== null) votes.set(primary, (votes.get(primary) ?? 0) + 1);
  }
  return [...votes].sort(([, a], [, b]) => b - a)[0]?.[0] ?? null;
}

/** Returns the node in the middle: the primary, or the one that Sentinels name and that is not verified. */
function primaryOf(upstream) {
  if (upstream.primary !== null) {
    const { address, server } = upstream.primary;
    return { address, kind: upstream.state === "serving" ? "good" : "warn", lines: [address, "primary", server ?? ""] };
  }
  const address = named(upstream);
  return address && { address, kind: "bad", lines: [address, "named, not verified", "commands wait"] };
}

/** Returns the nodes: the primary, then replicas; also nodes that only a Sentinel names. */
function nodesOf(upstream) {
  const primary = primaryOf(upstream);
  const replicas = upstream.replication.replicas
    .filter((replica) => replica.address !== primary?.address)
    .map((replica) => ({
      address: replica.address,
      kind: replicaKind(replica),
      lines: [replica.address, "replica", lagText(replica), readsText(replica)].filter((line) => line !== null),
    }));
  const known = new Set([primary?.address, ...replicas.map((node) => node.address)]);
  for (const sentinel of upstream.sentinels) {
    if (sentinel.primary !== null && !known.has(sentinel.primary)) {
      known.add(sentinel.primary);
      replicas.push({ address: sentinel.primary, kind: "warn", lines: [sentinel.primary, "named by a Sentinel", ""] });
    }
  }
  return { primary, replicas };
}

/** Describes the picture in words, for screen readers. */
function describe(upstream, { primary, replicas }) {
  const parts = [upstream.primary
    ? `The primary is ${upstream.primary.address}, generation ${upstream.primary.generation}.`
    : "No primary is known."];
  if (upstream.sentinels.length > 0) {
    const agree = upstream.sentinels.filter((sentinel) => sentinel.agrees).length;
    parts.push(`${agree} of ${upstream.sentinels.length} Sentinels name it.`);
  }
  parts.push(...replicas.map((node) => `${node.lines[1]} ${node.address}: ${node.lines.slice(2).join(", ")}.`));
  return parts.join(" ");
}

function gateBox(upstream, place) {
  const holding = upstream.hold.active;
  return box({
    ...place,
    kind: holding ? "warn" : "good",
    lines: [
      "respgate",
      holding ? `holds ${number(upstream.hold.clients)} clients` : `${number(upstream.clients.connected)} clients`,
      upstream.primary ? `generation ${upstream.primary.generation}` : "no primary",
    ],
  });
}

/** Returns the height of boxes for these nodes. */
function heightOf(nodes) {
  return 18 + 16 * Math.max(3, ...nodes.map((node) => node.lines.length));
}

function wide(upstream, nodes, width) {
  const parts = [];
  const edges = [];
  const gap = 14;
  const perRow = Math.max(1, Math.min(upstream.sentinels.length, Math.floor((width + gap) / 172)));
  const sentinelWidth = Math.min(230, (width - gap * (perRow - 1)) / perRow);
  const rows = Math.ceil(upstream.sentinels.length / perRow);
  const top = rows === 0 ? 2 : rows * 64 + 46;
  const columns = [0, (width - 190) / 2, width - 206];
  const count = Math.max(1, nodes.replicas.length);
  const nodeHeight = heightOf(nodes.replicas);
  const step = nodeHeight + 18;
  const height = Math.max(74, count * step - 10);
  const centre = top + height / 2;
  const places = new Map();
  const gate = { x: columns[0] + 1, y: centre - 33, width: 170, height: 66 };
  const primary = { x: columns[1], y: centre - 33, width: 190, height: 66 };
  parts.push(gateBox(upstream, gate));
  if (nodes.primary) {
    parts.push(box({ ...primary, kind: nodes.primary.kind, lines: nodes.primary.lines }));
    places.set(nodes.primary.address, primary);
  } else {
    parts.push(box({ ...primary, kind: "bad", lines: ["no primary", "commands wait", ""] }));
  }
  edges.push(line({ x: gate.x + gate.width, y: centre }, { x: primary.x, y: centre }, upstream.state === "serving" ? "good thick" : "warn thick moving"));
  nodes.replicas.forEach((node, at) => {
    const place = { x: columns[2], y: top + (height - (count * step - 10)) / 2 + at * step + (count === 1 ? 4 : 0), width: 205, height: nodeHeight };
    places.set(node.address, place);
    parts.push(box({ ...place, kind: node.kind, lines: node.lines }));
    edges.push(line({ x: primary.x + primary.width, y: centre, sideways: true }, { x: place.x, y: place.y + nodeHeight / 2 }, node.kind));
  });
  upstream.sentinels.forEach((sentinel, at) => {
    const inRow = Math.min(perRow, upstream.sentinels.length - Math.floor(at / perRow) * perRow);
    const left = (width - inRow * sentinelWidth - (inRow - 1) * gap) / 2;
    const place = { x: left + (at % perRow) * (sentinelWidth + gap), y: 2 + Math.floor(at / perRow) * 64, width: sentinelWidth, height: 50 };
    const kind = sentinelKind(sentinel);
    parts.push(box({ ...place, kind, lines: [`Sentinel ${sentinel.address}`, sentinelText(sentinel)] }));
    const target = places.get(sentinel.primary);
    if (target) {
      edges.push(line({ x: place.x + place.width / 2, y: place.y + 50 }, { x: target.x + target.width / 2, y: target.y }, `${kind} thin`));
    }
  });
  return { parts: [...edges, ...parts], height: top + height + 4 };
}

/** Draws everything below each other, for narrow screens. Lines run at the left. */
function narrow(upstream, nodes, width) {
  const parts = [];
  const edges = [];
  let y = 2;
  const left = 22;
  const add = (height, draw) => {
    const place = { x: left, y, width: width - left - 2, height };
    parts.push(draw(place));
    y += height + 10;
    return place;
  };
  const sentinels = upstream.sentinels.map((sentinel) => [
    sentinel,
    add(48, (place) => box({ ...place, kind: sentinelKind(sentinel), lines: [`Sentinel ${sentinel.address}`, sentinelText(sentinel)] })),
  ]);
  const primary = add(66, (place) => box(nodes.primary
    ? { ...place, kind: nodes.primary.kind, lines: nodes.primary.lines }
    : { ...place, kind: "bad", lines: ["no primary", "commands wait", ""] }));
  const places = new Map([[nodes.primary?.address, primary]]);
  for (const node of nodes.replicas) {
    const place = add(heightOf([node]), (place) => box({ ...place, kind: node.kind, lines: node.lines }));
    places.set(node.address, place);
    edges.push(svg("path", { class: `edge ${node.kind}`, d: `M${left} ${primary.y + 44}H14V${place.y + 33}H${left}` }));
  }
  const gate = add(66, (place) => gateBox(upstream, place));
  edges.push(svg("path", {
    class: `edge ${upstream.state === "serving" ? "good" : "warn moving"} thick`,
    d: `M${left} ${gate.y + 33}H8V${primary.y + 33}H${left}`,
  }));
  for (const [sentinel, place] of sentinels) {
    const target = places.get(sentinel.primary);
    if (target) edges.push(svg("path", { class: `edge ${sentinelKind(sentinel)} thin`, d: `M${left} ${place.y + 24}H2V${target.y + 16}H${left}` }));
  }
  return { parts: [...edges, ...parts], height: y };
}

/** Draws the topology into a picture of this width. */
export function topology(upstream, width) {
  const nodes = nodesOf(upstream);
  const drawn = width < 600 ? narrow(upstream, nodes, width) : wide(upstream, nodes, width);
  const id = `topology-${upstream.name}`;
  return svg("svg", {
    class: "topology", viewBox: `-2 0 ${width + 4} ${drawn.height}`, width: width + 4, height: drawn.height,
    role: "img", "aria-labelledby": `${id}-title ${id}-desc`,
  },
  svg("title", { id: `${id}-title` }, `Topology of upstream ${upstream.name}`),
  svg("desc", { id: `${id}-desc` }, describe(upstream, nodes)),
  drawn.parts);
}
