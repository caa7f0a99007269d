// The warnings, and the tables of tenants, listeners and certificates.

import { duration, el, meter, number, table } from "./dom.js";

/** Returns the warnings, the most severe first. */
export function warnings(all) {
  if (all.length === 0) return el("p", { class: "card good-card" }, "None.");
  return el("ul", { class: "plain" }, all.map((warning) =>
    el("li", { class: `card warning severity-${warning.severity}` },
      el("p", null, el("span", { class: "pill" }, warning.severity), " ", el("strong", null, `${warning.subject}: `), warning.text),
      el("p", { class: "muted" }, warning.remedy))));
}

const FLAGS = [["b", "blocked"], ["P", "subscribed"], ["x", "in a transaction"], ["O", "MONITOR"], ["t", "tracking"]];

function doing(client) {
  const flags = FLAGS.filter(([flag]) => String(client.flags).includes(flag)).map(([, words]) => words);
  return flags.length > 0 ? flags.join(", ") : "";
}

/** Returns the table of clients. What clients say of themselves is text like everything else. */
export function clients({ clients: all, more }) {
  const known = (value) => (value === undefined || value === null ? "" : String(value));
  return table(more ? `The ${all.length} clients that connected first` : `All ${all.length} clients`, [
    ["Id", (client) => known(client.id)],
    ["Name", (client) => known(client.name)],
    ["Address", (client) => known(client.addr)],
    ["User", (client) => known(client.user)],
    ["Tenant", (client) => known(client.tenant)],
    ["Last command", (client) => known(client.cmd)],
    ["State", doing],
    ["Connected for", (client) => duration(Number(client.age)), true],
    ["Idle for", (client) => duration(Number(client.idle)), true],
    ["Waiting bytes", (client) => number(Number(client.omem) + Number(client.qbuf)), true],
  ], all);
}

/** Returns the table of a cluster's shards; nothing if the upstream is none. */
export function shards({ cluster }) {
  if (!cluster) return null;
  const kinds = { serving: "good", paused: "warn", failing: "warn", "no-primary": "bad" };
  const caption = `${number(cluster.slots_served)} of 16,384 slots are served; newest epoch ${number(cluster.epoch)}`;
  return table(caption, [
    ["Shard", (shard) => (shard.number === cluster.home ? `${shard.number} (home)` : String(shard.number))],
    ["State", (shard) => el("span", { class: `pill ${kinds[shard.state] ?? "warn"}` }, shard.state)],
    ["Primary", (shard) => shard.primary?.address ?? shard.reason ?? ""],
    ["Epoch", (shard) => (shard.primary?.config_epoch == null ? "" : number(shard.primary.config_epoch)), true],
    ["Replicas", (shard) => shard.replicas.join(", ")],
    ["Slots", (shard) => number(shard.slots), true],
    ["Ranges", (shard) => shard.ranges.join(", ")],
  ], cluster.shards);
}

function limitWords(limit) {
  const used = limit.used === null ? "" : `${number(limit.used)} of `;
  const taken = [];
  if (limit.delayed > 0) taken.push(`${number(limit.delayed)} delayed`);
  if (limit.refused > 0) taken.push(`${number(limit.refused)} refused`);
  return `${limit.limit}: ${used}${number(limit.max)}${taken.length > 0 ? ` (${taken.join(", ")})` : ""}`;
}

function limits(tenant) {
  if (tenant.limits.length === 0) return "none";
  return el("ul", { class: "plain tight" }, tenant.limits.map((limit) =>
    el("li", null, limitWords(limit), limit.used === null ? null : meter(limit.used, limit.max, `${limit.limit} in use`))));
}

/** Returns the table of tenants. */
export function tenants(all) {
  return table("Tenants and the limits that apply now", [
    ["Tenant", (tenant) => tenant.name],
    ["Clients", (tenant) => number(tenant.clients), true],
    ["Commands/s", (tenant) => number(tenant.commands_per_second), true],
    ["Leased", (tenant) => number(tenant.leased), true],
    ["Denied", (tenant) => number(tenant.denied), true],
    ["Limits", limits],
  ], all);
}

/** Returns the table of listeners. */
export function listeners(all) {
  return table("Listeners and their clients", [
    ["Listener", (listener) => listener.name],
    ["Address", (listener) => listener.address],
    ["Upstream", (listener) => listener.upstream],
    ["TLS", (listener) => (listener.tls ? "yes" : "no")],
    ["Clients", (listener) => [
      `${number(listener.clients)} of ${number(listener.max_clients)}`,
      meter(listener.clients, listener.max_clients, "clients of the most"),
    ], true],
    ["Turned away", (listener) => number(listener.turned_away), true],
    ["Delayed", (listener) => number(listener.connects_delayed), true],
    ["Refused", (listener) => number(listener.connects_refused), true],
  ], all);
}

function daysLeft({ days_left: days }) {
  const kind = days < 0 ? "bad" : days < 14 ? "warn" : "good";
  const words = days < 0 ? "expired" : `${number(days)} days`;
  return el("span", { class: `pill ${kind}` }, words);
}

/** Returns the table of certificates. */
export function certificates(all) {
  return table("Certificates that respgate shows", [
    ["Certificate", (certificate) => `${certificate.leg} ${certificate.name}`],
    ["Days left", daysLeft],
    ["Expires", (certificate) => new Date(certificate.expires_unix * 1000).toISOString().slice(0, 10)],
  ], all);
}
