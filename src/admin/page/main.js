// Polls /status once a second and shows it.

import { bytes, duration, el, meter, number, show, total } from "./dom.js";
import { control } from "./control.js";
import { failovers } from "./failovers.js";
import { History, plots } from "./plots.js";
import { certificates, clients, listeners, shards, tenants, warnings } from "./tables.js";
import { topology } from "./topology.js";

const INTERVAL = 1000;
const at = (id) => document.getElementById(id);
const history = new History();
const sections = new Map();
let readToken = "";
let answered = null;
let newest = null;

const STATES = { serving: "serving", failing: "failover: commands wait", paused: "paused: commands wait", "no-primary": "no primary: commands wait" };

/** Makes the section of an upstream, whose parts are filled later. */
function section(name) {
  const id = `upstream-${sections.size}`;
  const part = (title, kind) => {
    const content = el("div", { class: kind });
    return { content, whole: el("div", { class: "card" }, el("h3", null, title), content) };
  };
  const parts = {
    state: el("span", { class: "pill", role: "status" }),
    topology: part("Topology", "picture"),
    shards: part("Shards", "shards"),
    figures: part("Now", "figures"),
    pins: part("Why clients hold a connection", "pins"),
    plots: part("The last 5 minutes", "plots"),
    failovers: part("Failovers", "picture"),
  };
  const whole = el("section", { "aria-labelledby": id },
    el("h2", { id }, `Upstream ${name} `, parts.state),
    parts.topology.whole, parts.shards.whole, parts.figures.whole, parts.plots.whole, parts.pins.whole, parts.failovers.whole);
  at("upstreams").append(whole);
  sections.set(name, { whole, parts });
  return parts;
}

function figure(title, value, more) {
  return el("div", { class: "figure" }, el("dt", null, title), el("dd", null, value), more ? el("dd", { class: "muted" }, more) : null);
}

function orders({ pause, switch: change, switched_to: elsewhere }) {
  const seconds = (ms) => duration(Math.round(ms / 1000));
  return [
    change ? figure("Switching", seconds(change.elapsed_ms), `to ${change.to}, ordered by ${change.by}`) : null,
    pause ? figure("Paused", seconds(pause.elapsed_ms), `${pause.at_once ? "at once, " : ""}ordered by ${pause.by}, ends in ${seconds(pause.ends_in_ms)}`) : null,
    elsewhere ? figure("Switched", "until the next start", `to ${elsewhere}`) : null,
  ];
}

/** Returns the reads that replicas serve; null if no client reads from replicas. */
function replicaReads(upstream) {
  const replicas = upstream.replication.replicas.map(({ reads }) => reads).filter((reads) => reads);
  if (replicas.length === 0) return null;
  const serving = replicas.filter((reads) => reads.serves).length;
  return figure("Reads at replicas", `${number(upstream.per_second.replica_reads)} /s`, `${number(serving)} of ${number(replicas.length)} replicas serve`);
}

/** Returns the commands that nodes of a cluster redirected; null if the upstream is none. */
function redirects(upstream) {
  if (upstream.cluster === null) return null;
  const kinds = upstream.figures.cluster_redirects;
  const seen = Object.entries(kinds).filter(([, count]) => count > 0).map(([kind, count]) => `${number(count)} ${kind}`);
  return figure("Redirects", number(total(kinds)), ["since the start", ...seen].join(", "));
}

function figures(upstream) {
  const { leases, connections, clients, hold } = upstream;
  const lanes = upstream.per_second.commands;
  return el("dl", null,
    orders(upstream),
    figure("Commands", `${number(total(lanes))} /s`, Object.entries(lanes).filter(([, rate]) => rate > 0).map(([lane, rate]) => `${lane} ${number(rate)}`).join(", ")),
    replicaReads(upstream),
    redirects(upstream),
    figure("Clients", number(clients.connected), `${number(clients.pinned)} pinned`),
    figure("Held", number(hold.clients), hold.active ? `hold-timeout ${number(hold.timeout_seconds)} s` : "no hold"),
    figure("Leases", `${number(leases.in_use)} of ${number(leases.max)}`, [
      `${number(leases.idle)} idle, ${number(leases.waiting)} waiting`,
      meter(leases.in_use, leases.max, "leases in use"),
    ]),
    figure("Connections", number(connections.shared + connections.leased + connections.fan_in), `${number(connections.shared)} shared, ${number(connections.leased)} leased, ${number(connections.fan_in)} fan-in`),
    figure("Errors", `${number(total(upstream.per_second.upstream_error_replies))} /s`, `${number(total(upstream.per_second.commands_refused))} /s refused by respgate`),
    figure("Writes unknown", number(upstream.figures.outcome_unknown), "since the start"),
    figure("Sent again", number(upstream.figures.commands_resent), "since the start"));
}

function pins(all) {
  const reasons = Object.entries(all).filter(([, count]) => count > 0).sort(([, a], [, b]) => b - a);
  if (reasons.length === 0) return el("p", { class: "muted" }, "No client does.");
  return el("ul", { class: "plain chips" }, reasons.map(([reason, count]) => el("li", { class: "chip" }, el("strong", null, number(count)), ` ${reason}`)));
}

function width(node, most) {
  return Math.max(260, Math.min(most, node.clientWidth || 320));
}

function showUpstream(status, upstream) {
  const parts = sections.get(upstream.name)?.parts ?? section(upstream.name);
  const kind = upstream.state === "serving" ? "good" : upstream.state === "no-primary" ? "bad" : "warn";
  parts.state.className = `pill ${kind}`;
  show(parts.state, upstream.switch ? "switching: commands wait" : STATES[upstream.state] ?? upstream.state, (text) => text);
  const wide = width(parts.topology.content, 860);
  const { primary, sentinels, replication, state, hold, clients } = upstream;
  show(parts.topology.content, [primary, sentinels, replication, state, hold, clients, wide], () => topology(upstream, wide));
  parts.shards.whole.hidden = !upstream.cluster;
  show(parts.shards.content, upstream.cluster, () => shards(upstream));
  show(parts.figures.content, [upstream.per_second, upstream.leases, upstream.connections, replication, clients, hold, upstream.figures, upstream.pause, upstream.switch, upstream.switched_to], () => figures(upstream));
  show(parts.pins.content, upstream.pins, pins);
  show(parts.plots.content, status.time_unix_ms, () => plots(upstream.name, history.points(upstream.name), upstream.latency, status.time_unix_ms));
  show(parts.failovers.content, [upstream.failover, upstream.failovers, wide], () => failovers(upstream, wide));
}

function showProcess({ process, upstreams }) {
  const waiting = upstreams.some((upstream) => upstream.state !== "serving");
  const [text, kind] = process.draining ? ["draining", "bad"] : !process.ready ? ["not ready", "bad"] : waiting ? ["ready, commands wait", "warn"] : ["ready", "good"];
  at("state").className = `pill ${kind}`;
  show(at("state"), text, (words) => words);
  at("process").textContent = `version ${process.version} · up ${duration(process.uptime_seconds)} · ${process.workers} workers · ${bytes(process.buffered_bytes)} of ${bytes(process.max_buffered_bytes)} buffered`;
  document.title = kind === "good" ? "respgate" : `respgate: ${text}`;
}

function showStatus(status) {
  history.add(status);
  showProcess(status);
  show(at("warnings"), status.warnings, warnings);
  for (const upstream of status.upstreams) showUpstream(status, upstream);
  for (const [name, { whole }] of sections) {
    if (!status.upstreams.some((upstream) => upstream.name === name)) {
      whole.remove();
      sections.delete(name);
    }
  }
  at("tenants-section").hidden = status.tenants.length === 0;
  show(at("tenants"), status.tenants, tenants);
  show(at("listeners"), status.listeners, listeners);
  at("certificates-section").hidden = status.certificates.length === 0;
  show(at("certificates"), status.certificates, certificates);
  show(at("control"), { control: status.control, upstreams: status.upstreams.map((upstream) => upstream.name) }, control);
}

async function read(path) {
  const headers = readToken === "" ? {} : { Authorization: `Bearer ${readToken}` };
  const answer = await fetch(path, { headers, cache: "no-store", signal: AbortSignal.timeout(5000) });
  at("access").hidden = answer.status !== 401;
  if (!answer.ok) throw new Error(`${path} answers ${answer.status}`);
  return answer.json();
}

function showLive() {
  const age = answered === null ? null : Math.round((Date.now() - answered) / 1000);
  const stale = age === null || age > 3;
  at("live").className = stale ? "live stale" : "live muted";
  show(at("live"), stale ? (age === null ? "no answer yet" : `no answer for ${duration(age)}`) : "live", (text) => text);
}

/** Shows the clients, less often than the rest, and only while somebody looks. */
async function pollClients() {
  try {
    if (document.visibilityState === "visible") show(at("clients"), await read("/status/clients"), clients);
  } catch {
    // The header says since when respgate has not answered.
  }
  setTimeout(pollClients, 3 * INTERVAL);
}

async function poll() {
  try {
    newest = await read("/status");
    answered = Date.now();
    showStatus(newest);
  } catch {
    // The header says since when respgate has not answered.
  }
  showLive();
  setTimeout(poll, INTERVAL);
}

async function begin() {
  try {
    history.load(await read("/status/history"));
  } catch {
    // The plots then begin empty.
  }
  poll();
  pollClients();
}

at("read").addEventListener("submit", (event) => {
  event.preventDefault();
  readToken = at("read-token").value;
  at("read-token").value = "";
});
window.addEventListener("resize", () => newest !== null && showStatus(newest));
begin();
