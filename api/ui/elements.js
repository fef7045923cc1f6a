// What the page is made of: words for numbers, elements that are kept and patched, small charts. What is shown is set as
// text, never as markup: names and messages come from whoever submits.

const SHOWN_MS = 120_000; // of the small charts

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const tenth = new Intl.NumberFormat("en", { maximumFractionDigits: 1, minimumFractionDigits: 1 });
export const count = (n, most = Infinity) => whole.format(n) + (n >= most ? "+" : "");
export const perSecond = (n) => (n > 0 && n < 9.95 ? tenth : whole).format(n);
export const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });
export const day = new Intl.DateTimeFormat(undefined, { month: "short", day: "numeric", hour: "2-digit", minute: "2-digit", hourCycle: "h23" });
export const plural = (n, one, many = `${one}s`) => `${count(n)} ${n === 1 ? one : many}`;

export function duration(s) {
  if (s == null) return "–";
  if (s < 0.0995) return `${Number((s * 1e3).toPrecision(2))} ms`;
  if (s < 0.9995) return `${whole.format(s * 1e3)} ms`;
  if (s < 9.95) return `${tenth.format(s)} s`;
  if (s < 99.5) return `${whole.format(s)} s`;
  if (s < 5970) return `${whole.format(s / 60)} min`;
  return s < 171_000 ? `${tenth.format(s / 3600)} h` : `${whole.format(s / 86_400)} days`;
}

export const ago = (s) => (s < 1 ? "now" : s < 60 ? `${Math.floor(s)} s ago` : `${duration(s)} ago`);

export function size(bytes) {
  if (bytes == null) return "–";
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let n = 0;
  while (bytes >= 1024 && n < 4) { bytes /= 1024; n += 1; }
  return `${n && bytes < 10 ? tenth.format(bytes) : whole.format(bytes)} ${units[n]}`;
}

export function percent(share) {
  const p = share * 100;
  if (p > 0 && p < 0.1) return "<0.1 %";
  return `${p > 0 && p < 10 && Math.abs(p - Math.round(p)) > 0.05 ? tenth.format(p) : whole.format(p)} %`;
}

// Elements

export function el(tag, cls, ...children) {
  const node = document.createElement(tag);
  if (cls) node.className = cls;
  node.append(...children);
  return node;
}
export const text = (node, value) => { if (node.textContent !== value) node.textContent = value; };
export function attr(node, name, value) {
  if (value == null) node.removeAttribute(name);
  else if (node.getAttribute(name) !== String(value)) node.setAttribute(name, value);
}
export const cell = (label, cls) => { const td = el("td", cls); if (label) td.dataset.label = label; return td; };

const kept = new WeakMap(); // parent → key → child

// Makes the children of `parent` those of `items`, in their order; a child is made once and then patched.
export function keyed(parent, items, keyOf, make, patch) {
  const before = kept.get(parent) ?? new Map();
  const now = new Map();
  for (const item of items) {
    const key = keyOf(item);
    now.set(key, before.get(key) ?? make(item));
  }
  for (const [key, node] of before) if (!now.has(key)) leave(node, new Set(now.values()));
  kept.set(parent, now);
  let place = parent.firstElementChild;
  for (const item of items) {
    const node = now.get(keyOf(item));
    if (node === place) place = place.nextElementSibling;
    else if (node.isConnected && parent.moveBefore) parent.moveBefore(node, place);
    else parent.insertBefore(node, place);
    node.item = item;
    patch(node, item);
  }
}

// Removes a child; the focus, if it is there, goes to the button of a neighbour, else to the section's heading.
function leave(node, staying) {
  if (node.contains(document.activeElement)) {
    const near = (step) => {
      let other = node[step];
      while (other && !(staying.has(other) && other.querySelector("button:not([hidden])"))) other = other[step];
      return other?.querySelector("button:not([hidden])");
    };
    (near("nextElementSibling") ?? near("previousElementSibling") ?? node.closest("section")?.querySelector("h2"))?.focus();
  }
  node.remove();
}

export const tags = (parent, list) => keyed(parent, list, (t) => t[0], () => el("span"), (node, [word, cls, title]) => {
  text(node, word);
  attr(node, "class", `tag ${cls ?? ""}`.trim());
  attr(node, "title", title ?? word);
});

export function bar(kind, label) {
  const fill = el("i");
  const node = el("span", "bar", fill);
  attr(node, "role", kind);
  attr(node, "aria-label", label);
  attr(node, "aria-valuemin", 0);
  attr(node, "aria-valuemax", 100);
  node.fill = fill;
  return node;
}
export function fill(node, share, words) {
  const p = Math.round(Math.min(1, Math.max(0, share)) * 1000) / 10;
  node.fill.style.width = `${p}%`;
  attr(node, "aria-valuenow", p);
  attr(node, "aria-valuetext", words);
}

export function empty(section, none, title, lines = [], code = "") {
  const place = section.querySelector(".empty");
  if (none && place.firstChild?.textContent !== title) {
    place.replaceChildren(el("strong", "", title), ...lines.map((line) => el("p", "", line)));
    if (code) place.append(el("code", "", code));
  }
  place.hidden = !none;
  const table = section.querySelector("table");
  if (table) table.hidden = none;
}

// A button whose act is told what its row, item or section shows now.
export function action(node, act) {
  const button = el("button");
  button.type = "button";
  button.addEventListener("click", () => act(button, node.item));
  return button;
}
export function label(button, words, about) {
  text(button, words);
  attr(button, "aria-label", `${words} ${about}`);
}

// Small charts

const SVG = "http://www.w3.org/2000/svg";
export function spark(...classes) {
  const svg = document.createElementNS(SVG, "svg");
  for (const [name, value] of Object.entries({ class: "spark", viewBox: "0 0 120 30", preserveAspectRatio: "none", role: "img" })) svg.setAttribute(name, value);
  for (const name of classes) svg.appendChild(document.createElementNS(SVG, "path")).setAttribute("class", name);
  return svg;
}
export function draw(svg, points, now, field, names, words) {
  const most = Math.max(1e-9, ...points.map((p) => p[field]));
  const line = points.map((p) => `${(120 - ((now - p.t) / SHOWN_MS) * 120).toFixed(1)} ${(29 - (p[field] / most) * 28).toFixed(1)}`);
  const d = line.length > 1 ? `M${line.join("L")}` : "";
  for (const name of names) {
    const first = line[0]?.split(" ")[0];
    const last = line.at(-1)?.split(" ")[0];
    attr(svg.querySelector(`.${name}`), "d", name === "area" && d ? `${d}L${last} 30L${first} 30Z` : d);
  }
  if (words) attr(svg, "aria-label", words);
}

const past = new Map(); // "" and each version → its points of the last two minutes
export function remember(key, now, depth, rate) {
  const points = past.get(key) ?? [];
  points.push({ t: now, depth, rate });
  while (points.length && now - points[0].t > SHOWN_MS) points.shift();
  past.set(key, points);
  return points;
}
export const peak = (points, field) => points.reduce((most, p) => Math.max(most, p[field]), 0);

// Every power of two up to the largest, those that never were too.
export function columns(sizes) {
  const found = new Map(sizes);
  const all = [];
  for (let upTo = 1; upTo <= Math.max(0, ...found.keys()); upTo *= 2) all.push([upTo, found.get(upTo) ?? 0]);
  return all;
}
