// Draws failovers to scale: how long commands waited, and for what.

import { el, number, span, svg } from "./dom.js";

const LEFT = 8;
const BAR = 26;
const PHASES = [
  ["held_ms", "held", "commands wait"],
  ["named_ms", "named", "a new primary is named"],
  ["verified_ms", "verified", "it confirms its role"],
  ["first_success_ms", "served", "its first reply"],
];

function end(failover) {
  const known = PHASES.map(([key]) => failover[key] ?? 0);
  return Math.max(...known, failover.elapsed_ms ?? 0, 1);
}

/** Draws one failover. All failovers of an upstream share `longest`, so that their lengths compare. */
function bar(failover, longest, width, id) {
  const room = width - LEFT - 12;
  const x = (ms) => LEFT + (room * ms) / longest;
  const last = end(failover);
  const held = failover.held_ms ?? failover.named_ms ?? 0;
  const parts = [
    svg("rect", { class: "track", x: LEFT, y: BAR, width: room, height: 12, rx: 6 }),
    svg("rect", { class: failover.elapsed_ms === undefined ? "waiting" : "waiting moving", x: x(held), y: BAR, width: Math.max(2, x(last) - x(held)), height: 12, rx: 3 }),
  ];
  // Labels of phases that follow each other within a few pixels go to alternating rows, and are moved apart.
  const ticks = [];
  const labels = [];
  const rows = [-Infinity, -Infinity, -Infinity];
  for (const [key, label] of PHASES) {
    const ms = failover[key];
    if (ms === null) continue;
    const text = `${label} ${span(ms)}`;
    const length = text.length * 6.9;
    const start = Math.min(Math.max(LEFT, x(ms) - 2), width - length);
    let row = rows.findIndex((taken) => taken + 8 < start);
    if (row < 0) row = rows.length - 1;
    rows[row] = start + length;
    const above = row === 0;
    const y = above ? BAR - 8 : BAR + 26 + (row - 1) * 14;
    ticks.push(svg("path", { class: "tick", d: above ? `M${x(ms)} ${BAR - 5}V${BAR + 12}` : `M${x(ms)} ${BAR}V${y - 9}` }));
    labels.push(svg("text", { class: "small label", x: start, y }, text));
  }
  const words = PHASES.filter(([key]) => failover[key] !== null).map(([key, , meaning]) => `${meaning} after ${span(failover[key])}`);
  return svg("svg", { class: "failover", viewBox: `0 0 ${width} 70`, width, height: 70, role: "img", "aria-labelledby": `${id}-title ${id}-desc` },
    svg("title", { id: `${id}-title` }, `Failover from ${failover.from} to ${failover.to || "a new primary"}`),
    svg("desc", { id: `${id}-desc` }, `${words.join(", ")}.`),
    parts, ticks, labels);
}

function summary(failover) {
  const parts = [`${number(failover.clients_held)} clients waited`];
  if (failover.migrated > 0) parts.push(`${number(failover.migrated)} sessions moved`);
  if (failover.resent > 0) parts.push(`${number(failover.resent)} commands sent again`);
  parts.push(failover.unknown > 0 ? `${number(failover.unknown)} writes unknown` : "no write unknown");
  return parts.join(" · ");
}

/** Returns the failover under way and the last ones, the newest first. */
export function failovers(upstream, width) {
  const all = [upstream.failover, ...upstream.failovers].filter((failover) => failover !== null);
  if (all.length === 0) return el("p", { class: "muted" }, "None since the start.");
  const longest = Math.max(...all.map(end));
  return el("ol", { class: "plain" }, all.map((failover, at) =>
    el("li", null,
      el("p", { class: "row" },
        el("strong", null, `${failover.shard === null ? "" : `Shard ${failover.shard}: `}${failover.from} → ${failover.to || "?"}`),
        failover.elapsed_ms !== undefined
          ? el("span", { class: "pill warn" }, `under way, ${span(failover.elapsed_ms)}`)
          : el("span", { class: failover.lossless ? "pill good" : "pill" }, failover.lossless ? "lossless" : "not known to be lossless"),
        el("span", { class: "muted" }, new Date(failover.began_unix_ms).toLocaleTimeString()),
        el("span", { class: "muted" }, failover.sign)),
      bar(failover, longest, width, `failover-${upstream.name}-${at}`),
      el("p", { class: "muted" }, summary(failover)))));
}
