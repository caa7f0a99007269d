// Keeps the last minutes of figures, and plots them.

import { el, number, svg, total } from "./dom.js";

const KEPT_MS = 5 * 60 * 1000;

/** Returns one moment of an upstream, from /status. */
function pointOf(status, upstream) {
  const latency = upstream.latency ?? {};
  return {
    unix_ms: status.time_unix_ms,
    commands: total(upstream.per_second.commands),
    errors: total(upstream.per_second.upstream_error_replies),
    refused: total(upstream.per_second.commands_refused),
    clients: upstream.clients.connected,
    pinned: upstream.clients.pinned,
    held: upstream.clients.held,
    p50_ms: latency.p50_ms ?? null,
    p99_ms: latency.p99_ms ?? null,
  };
}

/** The points of all upstreams. */
export class History {
  #upstreams = new Map();

  /** Takes over the server's history, so that a new page does not begin empty. */
  load(history) {
    for (const [name, series] of Object.entries(history.upstreams)) {
      const points = series.unix_ms.map((unix_ms, at) => {
        const point = { unix_ms };
        for (const [key, values] of Object.entries(series)) point[key] = values[at];
        return point;
      });
      const newer = this.points(name).filter((point) => point.unix_ms > (points.at(-1)?.unix_ms ?? 0));
      this.#upstreams.set(name, [...points, ...newer]);
    }
  }

  /** Adds the newest figures. */
  add(status) {
    for (const upstream of status.upstreams) {
      const points = this.points(upstream.name).filter((point) => point.unix_ms > status.time_unix_ms - KEPT_MS);
      if ((points.at(-1)?.unix_ms ?? 0) < status.time_unix_ms) points.push(pointOf(status, upstream));
      this.#upstreams.set(upstream.name, points);
    }
  }

  points(name) {
    return this.#upstreams.get(name) ?? [];
  }
}

const WIDTH = 330;
const HEIGHT = 118;
const TOP = 34;
const BOTTOM = 100;

/** Returns a round number that is at least `value` and at least `least`. */
function ceiling(value, least) {
  const size = 10 ** Math.floor(Math.log10(Math.max(value, least)));
  return [1, 2, 5, 10].map((step) => step * size).find((step) => step >= value) ?? value;
}

function path(points, key, now, top) {
  let d = "";
  let last = null;
  for (const point of points) {
    const value = point[key];
    if (value === null || value === undefined) continue;
    const x = (WIDTH * (1 - (now - point.unix_ms) / KEPT_MS)).toFixed(1);
    const y = (BOTTOM - (BOTTOM - TOP) * Math.min(1, value / top)).toFixed(1);
    // A gap of more than 3 s is a time without answers, or without commands.
    const joined = last !== null && point.unix_ms - last < 3000;
    d += `${joined ? "L" : "M"}${x} ${y}`;
    last = point.unix_ms;
  }
  return d;
}

/** Plots series of one unit. `series` are [key, name, class]. */
function plot(name, title, unit, series, points, now) {
  const values = (key) => points.map((point) => point[key]).filter((value) => value !== null && value !== undefined);
  const peak = Math.max(0, ...series.flatMap(([key]) => values(key)));
  const top = ceiling(peak, unit === "ms" ? 0.1 : 1);
  const words = series.map(([key, label]) => {
    const all = values(key);
    return all.length > 0 ? `${label}: ${number(all.at(-1))} ${unit}, at most ${number(Math.max(0, ...all))}` : `${label}: unknown`;
  });
  const id = `plot-${name}-${series[0][0]}`;
  let x = 0;
  const legend = series.map(([key, label, kind]) => {
    const newest = points.at(-1)?.[key] ?? null;
    const text = `${label} ${newest === null ? "-" : number(newest)}`;
    const entry = svg("g", null,
      svg("rect", { class: `fill-${kind}`, x, y: 20, width: 10, height: 4, rx: 2 }),
      svg("text", { class: "small", x: x + 14, y: 26 }, text));
    x += 26 + text.length * 6.3;
    return entry;
  });
  return svg("svg", { class: "plot", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-labelledby": `${id}-title ${id}-desc` },
    svg("title", { id: `${id}-title` }, `${title} of upstream ${name}, the last 5 minutes`),
    svg("desc", { id: `${id}-desc` }, `${words.join("; ")}.`),
    svg("text", { class: "strong", x: 0, y: 12 }, title),
    svg("text", { class: "small end", x: WIDTH, y: 12 }, `${number(top)} ${unit}`),
    legend,
    [TOP, (TOP + BOTTOM) / 2, BOTTOM].map((y) => svg("path", { class: "grid", d: `M0 ${y}H${WIDTH}` })),
    series.map(([key, , kind]) => svg("path", { class: `line stroke-${kind}`, d: path(points, key, now, top) })),
    svg("text", { class: "small", x: 0, y: HEIGHT - 4 }, "5 min ago"),
    svg("text", { class: "small end", x: WIDTH, y: HEIGHT - 4 }, "now"));
}

/** Says why there is no plot of latency, and how to get it. */
function unmeasured() {
  return el("p", { class: "muted" }, el("strong", null, "Latency"), " is not measured. Write ", el("code", null, "latency = \"on\""),
    " at the top of the configuration file to see p50 and p99 here.");
}

/** Returns the plots of an upstream whose newest latency is `latency`. */
export function plots(name, points, latency, now) {
  const all = [
    plot(name, "Commands", "/s", [["commands", "commands", "a"]], points, now),
    plot(name, "Errors", "/s", [["errors", "from the server", "bad"], ["refused", "by respgate", "b"]], points, now),
    plot(name, "Clients", "", [["clients", "connected", "a"], ["pinned", "pinned", "b"], ["held", "held", "warn"]], points, now),
  ];
  all.push(latency.measured ? plot(name, "Latency", "ms", [["p50_ms", "p50", "a"], ["p99_ms", "p99", "b"]], points, now) : unmeasured());
  return all;
}
