// Makes elements and formats values. Everything that respgate reports becomes text, never HTML.

const SVG = "http://www.w3.org/2000/svg";

function made(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value !== null && value !== undefined && value !== false) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return node;
}

/** Makes an HTML element. Children are nodes or texts. */
export function el(tag, attributes, ...children) {
  return made(document.createElement(tag), attributes, children);
}

/** Makes an SVG element. */
export function svg(tag, attributes, ...children) {
  return made(document.createElementNS(SVG, tag), attributes, children);
}

const shown = new WeakMap();

/** Replaces the children of a node if what they show has changed, so that focus and screen readers are left alone. */
export function show(node, value, make) {
  const key = JSON.stringify(value);
  if (shown.get(node) === key) return;
  shown.set(node, key);
  const before = [...node.querySelectorAll(".scroll")].map((region) => [region.scrollLeft, region === document.activeElement]);
  node.replaceChildren(...[make(value)].flat().filter((child) => child !== null && child !== undefined));
  // A table that scrolls sideways stays where the reader has scrolled it.
  [...node.querySelectorAll(".scroll")].forEach((region, at) => {
    const [left, focused] = before[at] ?? [0, false];
    region.scrollLeft = left;
    if (focused) region.focus({ preventScroll: true });
  });
}

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const tenth = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });
const hundredth = new Intl.NumberFormat("en", { maximumFractionDigits: 2 });

/** Formats a number: whole from 100 on, with a tenth from 1 on, else with a hundredth. */
export function number(value) {
  const size = Math.abs(value);
  return (size >= 100 ? whole : size >= 1 ? tenth : hundredth).format(value);
}

/** Formats bytes. */
export function bytes(value) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let at = 0;
  while (value >= 1024 && at < units.length - 1) {
    value /= 1024;
    at += 1;
  }
  return `${number(value)} ${units[at]}`;
}

/** Formats milliseconds as milliseconds or seconds. */
export function span(ms) {
  return ms < 1000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(ms < 10000 ? 2 : 1)} s`;
}

/** Formats seconds as the two largest units. */
export function duration(seconds) {
  const units = [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]];
  const parts = [];
  for (const [size, unit] of units) {
    const count = Math.floor(seconds / size);
    if (count > 0 || (size === 1 && parts.length === 0)) parts.push(`${count} ${unit}`);
    seconds -= count * size;
    if (parts.length === 2) break;
  }
  return parts.join(" ");
}

/** Returns the sum of a figure: a number, or an object by label. */
export function total(figure) {
  if (figure === undefined || figure === null) return 0;
  if (typeof figure === "number") return figure;
  return Object.values(figure).reduce((sum, value) => sum + value, 0);
}

/** Makes a table in a region that scrolls sideways by keyboard too. `columns` are [heading, cell, numeric]. */
export function table(caption, columns, rows) {
  const head = columns.map(([title, , numeric]) => el("th", { scope: "col", class: numeric && "number" }, title));
  const body = rows.map((row) =>
    el("tr", null, columns.map(([, cell, numeric], at) => {
      const content = [cell(row)].flat();
      return at === 0
        ? el("th", { scope: "row" }, ...content)
        : el("td", { class: numeric && "number" }, ...content);
    })));
  return el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": caption },
    el("table", null,
      el("caption", null, caption),
      el("thead", null, el("tr", null, head)),
      el("tbody", null, body)));
}

/** Makes a bar that shows how much of a limit is used. */
export function meter(used, max, label) {
  const part = max > 0 ? Math.min(1, used / max) : 0;
  const level = part >= 1 ? "bad" : part >= 0.9 ? "warn" : "good";
  return svg("svg", { class: "meter", viewBox: "0 0 100 6", preserveAspectRatio: "none", role: "img", "aria-label": label },
    svg("rect", { class: "meter-back", width: 100, height: 6 }),
    part > 0 && svg("rect", { class: `fill-${level}`, width: Math.max(2, part * 100), height: 6 }));
}
