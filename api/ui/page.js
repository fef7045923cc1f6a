// The operator's page: reads /ui/events and shows the newest snapshot. Elements are kept and patched, so that focus,
// scroll and selection stay.

import { action, ago, attr, bar, cell, clock, columns, count, day, draw, duration, el, empty, fill, keyed, label, peak, perSecond, percent, plural, remember, size, spark, tags, text } from "/ui/elements.js";

const SILENCE_MS = 12_000; // then a stream that says nothing is given up
const LONGEST_MS = 15_000; // between two tries
const KEY = "headway.key";
const $ = (id) => document.getElementById(id);

// Calls

let key = sessionStorage.getItem(KEY);
const authorized = () => (key ? { authorization: `Bearer ${key}` } : {});

let fading;
function say(words, bad = false) {
  clearTimeout(fading);
  text($("notice-text"), words);
  attr($("notice"), "class", words ? `notice on${bad ? " bad" : ""}` : "notice");
  $("dismiss").hidden = !words;
  if (words && !bad) fading = setTimeout(() => say(""), 8000);
}
$("dismiss").addEventListener("click", () => { say(""); $("main").focus(); });

const why = async (response) => {
  const problem = await response.json().catch(() => ({}));
  return String(problem.detail ?? problem.title ?? `The API answered ${response.status}.`);
};

// `call` answers what to say; what it throws is said as a failure, in the words of the API.
async function press(button, failing, call) {
  if (button.getAttribute("aria-disabled") === "true") return;
  attr(button, "aria-disabled", "true");
  try {
    say(await call());
  } catch (error) {
    say(`${failing}: ${error instanceof TypeError ? "the API did not answer." : error.message}`, true);
  } finally {
    attr(button, "aria-disabled", null);
  }
}
async function post(path) {
  const response = await fetch(path, { method: "POST", headers: authorized() });
  if (response.ok) return (await response.json().catch(() => null)) ?? {};
  const words = await why(response);
  if (response.status === 401) ask();
  throw new Error(words);
}

const part = encodeURIComponent;
function pause(button, model) {
  const verb = model.paused ? "resume" : "pause";
  const done = model.paused ? `${model.name} goes on.` : `${model.name} is paused: what is queued stays queued.`;
  press(button, `${model.name} could not be ${verb}d`, async () => (await post(`/v1/models/${part(model.name)}/queue/${verb}`), done));
}
function load(button, { model, version }) {
  const name = `${model.name}@${version.version}`;
  const verb = here(version) ? "unload" : "load";
  const goes = version.depth ? `${plural(version.depth, "prediction")} wait${version.depth === 1 ? "s" : ""} for it` : `${percent(version.share)} of the traffic goes there`;
  if (verb === "unload" && (version.share || version.depth) && !confirm(`Unload ${name}? ${goes}, and will wait.`)) return;
  const done = verb === "load" ? `${name} is being loaded.` : `${name} is being unloaded.`;
  press(button, `${name} could not be ${verb}ed`, async () => (await post(`/v1/models/${part(model.name)}/versions/${part(version.version)}/${verb}`), done));
}
const here = (version) => version.state === "ready" || version.state === "loading";

// Sections

function tile(title) {
  const value = el("p", "value");
  const note = el("p", "note");
  const node = el("div", "tile", el("p", "title", title), value, note);
  $("tiles").append(node);
  return { node, value, note };
}
const tiles = {
  rate: tile("Predictions a second"), queued: tile("Queued"), oldest: tile("Longest wait now"),
  failed: tile("Failed in the last hour"), workers: tile("Workers live"), parts: tile("Parts"),
};
tiles.rate.chart = tiles.rate.node.appendChild(spark("rate"));
tiles.queued.chart = tiles.queued.node.appendChild(spark("area", "edge"));
const checks = { sql: el("p"), broker: el("p") };
tiles.parts.value.replaceWith(el("div", "checks", checks.sql, checks.broker));
tiles.parts.note.remove();

function showParts(s) {
  for (const [name, up, word] of [["sql", s.sql, "SQL"], ["broker", s.broker, "Redis"]]) {
    text(checks[name], `${up ? "✓" : "✗"} ${word} ${up ? "up" : "away"}`);
    attr(checks[name], "class", up ? "up" : "down");
  }
  attr(tiles.parts.node, "class", s.sql && s.broker ? "tile" : "tile bad");
}

function showTotals(s, now) {
  const { totals } = s;
  const points = remember("", now, totals.queued, totals.rate);
  text(tiles.rate.value, perSecond(totals.rate));
  text(tiles.rate.note, `peak ${perSecond(peak(points, "rate"))} in 2 min`);
  draw(tiles.rate.chart, points, now, "rate", ["rate"], "Predictions a second in the last two minutes");
  text(tiles.queued.value, count(totals.queued, totals.depth_at_most));
  const bulk = s.models.flatMap((m) => m.versions).reduce((sum, v) => sum + v.lanes[3].depth, 0);
  text(tiles.queued.note, bulk ? `${count(bulk)} in batches` : `peak ${count(peak(points, "depth"), totals.depth_at_most)} in 2 min`);
  draw(tiles.queued.chart, points, now, "depth", ["area", "edge"], "Queued in the last two minutes");
  text(tiles.oldest.value, totals.oldest_age_seconds == null ? "–" : duration(totals.oldest_age_seconds));
  const paused = s.models.filter((m) => m.paused);
  text(tiles.oldest.note, paused.length ? `${plural(paused.length, "model")} paused` : !bulk ? (totals.queued ? "of what is queued" : "nothing waits") : totals.queued > bulk ? "but for batches" : "only batches wait");
  text(tiles.failed.value, count(totals.failed_last_hour, totals.failed_at_most));
  const last = s.failures[0];
  text(tiles.failed.note, totals.failed_last_hour && last ? `the last: ${ago((Date.parse(s.as_of) - Date.parse(last.at)) / 1e3)}` : "none");
  attr(tiles.failed.node, "class", totals.failed_last_hour ? "tile bad" : "tile");
  text(tiles.workers.value, count(s.workers));
  text(tiles.workers.note, s.workers ? `on ${plural(new Set(s.devices.map((d) => d.host)).size, "host")}` : "start one: headway worker");
  attr(tiles.workers.node, "class", s.workers ? "tile" : "tile bad");
  document.title = totals.queued ? `${count(totals.queued, totals.depth_at_most)} queued – Headway` : "Headway";
}

const LANES = ["0–2", "3–6", "7–9", "Batches"];
function laneRow() {
  const row = el("tr");
  const [model, version, badges] = [el("span", "name"), el("span", "name"), el("span", "tags")];
  const head = el("th", "", model, version, badges);
  head.scope = "row";
  const lanes = LANES.map((name) => { const td = cell(name, "n"); td.append(el("span"), el("small", "dim")); return td; });
  const [rate, chart, act] = [cell("Per second", "n"), cell("Last two minutes"), cell("", "action")];
  const svg = chart.appendChild(spark("area", "edge", "rate"));
  const button = act.appendChild(action(row, (b, item) => pause(b, item.model)));
  row.append(head, ...lanes, rate, chart, act);
  row.parts = { model, version, badges, lanes, rate, svg, button };
  return row;
}

function showLanes(s, now) {
  const told = [];
  const idle = [];
  for (const model of s.models) {
    for (const version of model.versions) {
      const name = `${model.name}@${version.version}`;
      const points = remember(name, now, version.depth, version.rate);
      const tells = peak(points, "depth") > 0 || peak(points, "rate") >= 0.05 || (model.paused && version.latest);
      if (tells) told.push({ model, version, name, points, first: told.at(-1)?.model !== model });
      else idle.push(name);
    }
  }
  const section = $("queue");
  keyed(section.querySelector("tbody"), told, (item) => item.name, laneRow, ({ parts }, { model, version, name, points, first }) => {
    text(parts.model, model.name);
    text(parts.version, `@${version.version}`);
    tags(parts.badges, model.paused ? [["‖ paused", "warn"]] : []);
    version.lanes.forEach((lane, n) => {
      const [depth, age] = parts.lanes[n].children;
      text(depth, count(lane.depth, s.totals.depth_at_most));
      attr(depth, "class", lane.depth ? "deep" : "zero");
      text(age, lane.oldest_age_seconds == null ? "" : duration(lane.oldest_age_seconds));
      attr(age, "title", "Age of the oldest");
    });
    text(parts.rate, perSecond(version.rate));
    draw(parts.svg, points, now, "depth", ["area", "edge"], `${name}: ${count(version.depth)} queued, at most ${count(peak(points, "depth"))} in two minutes; ${perSecond(version.rate)} a second`);
    draw(parts.svg, points, now, "rate", ["rate"]);
    parts.button.hidden = !first;
    label(parts.button, model.paused ? "Resume" : "Pause", model.name);
  });
  empty(section, !told.length, s.models.length ? "Nothing waits, and nothing runs." : "Nothing can wait yet.", [s.models.length ? "What is submitted shows here while it is queued, by its priority." : "There is no model to submit to."]);
  $("legend").hidden = !told.length;
  const folded = section.querySelector(".folded");
  folded.hidden = !idle.length;
  text(folded.querySelector("summary"), plural(idle.length, "idle version"));
  text(folded.querySelector("p"), idle.join(", "));
}

const STATES = { ready: ["● ready", "good"], loading: ["◌ loading", "warn"], failed: ["✕ failed", "ill"], unloaded: ["○ unloaded", ""] };
function versionRow({ version }) {
  const row = el("tr", version ? "" : "head");
  if (!version) {
    const [name, badges, button] = [el("span", "name"), el("span", "tags"), action(row, (b, item) => pause(b, item.model))];
    const head = el("th", "", el("div", "row", el("div", "row", name, badges), button));
    head.scope = "rowgroup";
    head.colSpan = 9;
    row.append(head);
    row.parts = { name, badges, button };
    return row;
  }
  const parts = { name: el("span", "name"), marks: el("span", "tags"), state: el("span", "tags state"), reason: el("p", "why"), share: el("span"), bar: bar("meter", "share of the traffic"), kinds: el("span", "tags"), where: el("span"), facts: el("small", "dim") };
  const head = el("th", "", parts.name, parts.marks);
  head.scope = "row";
  const numbers = ["Ended", "Errors", "p50", "p99"].map((name) => cell(name, "n"));
  const [state, traffic, where, act] = [cell("State"), cell("Traffic"), cell("Where"), cell("", "action")];
  state.append(parts.state, parts.reason);
  parts.traffic = el("div", "traffic", parts.share, parts.bar);
  traffic.append(parts.traffic, parts.kinds);
  where.append(parts.where, parts.facts);
  parts.button = act.appendChild(action(row, load));
  row.append(head, state, traffic, where, ...numbers, act);
  row.parts = { ...parts, numbers };
  return row;
}

function showVersion(parts, model, version) {
  const name = `${model.name}@${version.version}`;
  text(parts.name, version.version);
  tags(parts.marks, [...(version.latest ? [["latest"]] : []), ...version.aliases.map((alias) => [alias, "", "an alias"])]);
  const [word, cls] = STATES[version.state] ?? [version.state, ""];
  const wish = version.wish && { load: ["kept loaded", "", "by an operator"], unload: ["barred", "warn", "by an operator: it is loaded for nobody"] }[version.wish];
  tags(parts.state, [[word, cls], ...(wish ? [wish] : []), ...(version.released || version.state === "failed" ? [] : [["not released", "", "It takes traffic once it has been warm"]])]);
  text(parts.reason, version.reason ?? "");
  parts.traffic.hidden = !version.share && version.weight == null;
  text(parts.share, percent(version.share));
  fill(parts.bar, version.share, percent(version.share));
  attr(parts.traffic, "title", version.weight == null ? null : `weight ${version.weight}`);
  tags(parts.kinds, version.shadow ? [["shadow", "", "Copies go there; nobody is answered with its outputs"]] : []);
  text(parts.where, version.devices.join(", ") || "nowhere");
  text(parts.facts, [version.memory_bytes != null && size(version.memory_bytes), version.framework, version.sha256.slice(0, 8)].filter(Boolean).join(" · "));
  const [ended, errors, p50, p99] = parts.numbers;
  text(ended, count(version.ended));
  text(errors, version.ended ? percent(version.failed / version.ended) : "–");
  attr(errors, "class", version.failed ? "n down" : "n");
  attr(errors, "title", `${count(version.failed)} failed`);
  text(p50, duration(version.p50_seconds));
  text(p99, duration(version.p99_seconds));
  label(parts.button, here(version) ? "Unload" : "Load", name);
}

function showModels(s) {
  const rows = s.models.flatMap((model) => [{ model, key: model.name }, ...model.versions.map((version) => ({ model, version, key: `${model.name}@${version.version}` }))]);
  keyed($("models").querySelector("tbody"), rows, (item) => item.key, versionRow, ({ parts }, { model, version }) => {
    if (version) return showVersion(parts, model, version);
    text(parts.name, model.name);
    tags(parts.badges, [...(model.paused ? [["‖ paused", "warn"]] : []), ...(model.split ? [["traffic is split"]] : []), ...(model.sticky ? [[`sticky by ${model.sticky}`]] : [])]);
    return label(parts.button, model.paused ? "Resume" : "Pause", model.name);
  });
  empty($("models"), !rows.length, "No model yet.", ["A folder in the models folder is a model; it is served as soon as it is there."], "headway init NAME");
}

function deviceItem() {
  const item = el("li");
  const parts = { name: el("strong", "name"), host: el("small"), since: el("small", "dim"), busy: bar("meter", "busy"), busyWord: el("span", "value"), memory: bar("meter", "memory"), memoryWord: el("span", "value"), sizes: el("ul", "histogram"), loaded: el("p", "tags"), told: el("p", "dim") };
  const busy = el("div", "gauge", el("span", "dim", "Busy"), parts.busy, parts.busyWord);
  const memory = el("div", "gauge", el("span", "dim", "Memory"), parts.memory, parts.memoryWord);
  attr(parts.sizes, "aria-label", "Micro-batches by size");
  item.append(el("div", "row", el("span", "", parts.name, " ", parts.host), parts.since), busy, memory, parts.sizes, parts.told, parts.loaded);
  item.parts = parts;
  return item;
}
function showDevices(s) {
  keyed($("devices").querySelector(".list"), s.devices, (d) => d.worker_id, deviceItem, ({ parts }, d) => {
    text(parts.name, d.device);
    text(parts.host, d.host);
    text(parts.since, `up ${duration((Date.parse(s.as_of) - Date.parse(d.started_at)) / 1e3)}`);
    fill(parts.busy, d.busy, percent(d.busy));
    text(parts.busyWord, percent(d.busy));
    const share = d.memory_budget ? d.memory_bytes / d.memory_budget : 0;
    const words = d.memory_budget ? `${size(d.memory_bytes)} of ${size(d.memory_budget)}` : size(d.memory_bytes);
    fill(parts.memory, share, words);
    attr(parts.memory, "class", !d.memory_budget ? "bar none" : share > 0.9 ? "bar full" : "bar");
    text(parts.memoryWord, words);
    const sizes = columns(d.batch_sizes);
    const most = Math.max(1, ...sizes.map(([, n]) => n));
    const all = sizes.reduce((sum, [, n]) => sum + n, 0);
    parts.sizes.hidden = !all;
    keyed(parts.sizes, sizes, ([upTo]) => upTo, () => el("li", "", el("i"), el("span"), el("span", "unseen")), (li, [upTo, n]) => {
      const [column, word, unseen] = li.children;
      attr(column, "class", n ? "some" : null);
      column.style.height = `${(n / most) * 72}%`;
      text(word, `${upTo > 2 ? "≤" : ""}${upTo}`);
      text(unseen, `: ${plural(n, "micro-batch", "micro-batches")}`);
      attr(li, "title", `${plural(n, "micro-batch", "micro-batches")} of ${upTo > 2 ? `${upTo / 2 + 1} to ${upTo}` : upTo}`);
    });
    text(parts.told, `${all ? `${plural(all, "micro-batch", "micro-batches")} · ` : ""}${plural(d.loads, "load")} · ${plural(d.unloads, "unload")} · ${perSecond(d.rate)}/s`);
    tags(parts.loaded, d.loaded.map((v) => [`${v.model}@${v.version}${v.state === "loading" ? " ◌" : ""}`, "", v.state === "loading" ? "loading" : v.memory_bytes == null ? null : size(v.memory_bytes)]));
  });
  empty($("devices"), !s.devices.length, "No worker is live.", ["What is submitted is kept and waits. Each device has a worker of its own:"], "headway worker --device cuda:0");
}

function batchItem() {
  const item = el("li");
  const parts = { name: el("strong", "name"), state: el("span", "tags"), bar: bar("progressbar", "done"), failed: el("i", "fail"), told: el("p"), id: el("small", "id") };
  parts.bar.fill.className = "done";
  parts.bar.append(parts.failed);
  item.append(el("div", "row", parts.name, parts.state), parts.bar, parts.told, parts.id);
  item.parts = parts;
  return item;
}
const BATCHES = { validating: ["↑ coming in", "warn"], in_progress: ["▶ running", "good"], canceling: ["◌ canceling", "warn"], completed: ["✓ completed", ""], failed: ["✕ failed", "ill"], canceled: ["○ canceled", ""], expired: ["✕ expired", "ill"] };
function showBatches(s) {
  keyed($("batches").querySelector(".list"), s.batches, (b) => b.id, batchItem, ({ parts }, b) => {
    const n = b.request_counts;
    const lost = n.failed + n.canceled + n.expired;
    text(parts.name, `${b.model}@${b.version}`);
    tags(parts.state, [BATCHES[b.status] ?? [b.status]]);
    const done = n.completed + lost;
    fill(parts.bar, n.total ? done / n.total : 0, `${count(done)} of ${count(n.total)}`);
    parts.bar.fill.style.width = `${n.total ? (n.completed / n.total) * 100 : 0}%`;
    parts.failed.style.width = `${n.total ? (lost / n.total) * 100 : 0}%`;
    const ended = b.completed_at && ago((Date.parse(s.as_of) - Date.parse(b.completed_at)) / 1e3);
    text(parts.told, [`${count(done)} of ${plural(n.total, "line")}`, n.failed && `${count(n.failed)} failed`, n.canceled && `${count(n.canceled)} canceled`, n.expired && `${count(n.expired)} expired`, b.progress.rate && `${perSecond(b.progress.rate)}/s`, b.progress.eta_seconds != null && `${duration(b.progress.eta_seconds)} left`, ended, b.error?.message].filter(Boolean).join(" · "));
    text(parts.id, b.id);
  });
  empty($("batches"), !s.batches.length, "No batch lately.", ["Files of predictions show here with their progress."], "headway batch FILE --model NAME");
}

const retried = new Map(); // id → attempt: rows that are gone before SQL says so
let touched = -Infinity; // when somebody last was at the list: it does not move under a hand
for (const event of ["pointermove", "pointerdown", "keydown", "focusin"]) $("failures").addEventListener(event, () => { touched = performance.now(); });

function retry(button, f) {
  press(button, `${f.id} could not be retried`, async () => {
    await post(`/v1/predictions/${part(f.id)}/retry`);
    retried.set(f.id, f.attempt);
    showFailures(shown);
    return `${f.id} is queued again.`;
  });
}
function retryAll(button, model) {
  if (!confirm(`Retry all failed predictions of ${model}?`)) return;
  press(button, `The failures of ${model} could not be retried`, async () => {
    let n = 0;
    for (let page = { has_more: true }; page.has_more; ) { // each call does as many as it may
      const after = page.last_id ? `&after=${part(page.last_id)}` : "";
      page = await post(`/v1/predictions/retry?status=failed&model=${part(model)}${after}`);
      n += page.retried ?? 0;
    }
    return `${plural(n, "prediction")} of ${model} ${n === 1 ? "is" : "are"} queued again.`;
  });
}

function failureRow() {
  const row = el("tr");
  const parts = { time: el("time"), ago: el("small", "dim"), name: el("span", "name"), code: cell("Code", "code"), message: cell("Message", "message"), id: cell("Prediction", "id"), attempt: cell("Attempt", "n") };
  const [when, model, act] = [cell("When"), cell("Model"), cell("", "action")];
  when.append(parts.time, parts.ago);
  model.append(parts.name);
  parts.batch = act.appendChild(el("small", "dim", "of a batch"));
  parts.button = act.appendChild(action(row, retry));
  row.append(when, model, parts.code, parts.message, parts.id, parts.attempt, act);
  row.parts = parts;
  return row;
}

let listed = [];
function showFailures(s) {
  const there = (f) => !(retried.get(f.id) >= f.attempt);
  const news = s.failures.filter(there);
  if (performance.now() - touched < 2000 && listed.length) {
    const newest = new Map(news.map((f) => [f.id, f]));
    listed = listed.filter(there).map((f) => newest.get(f.id) ?? f);
  } else listed = news;
  keyed($("failures").querySelector("tbody"), listed, (f) => f.id, failureRow, ({ parts }, f) => {
    const at = Date.parse(f.at);
    const age = Math.max(0, (Date.parse(s.as_of) - at) / 1e3);
    text(parts.time, (age < 43_200 ? clock : day).format(at));
    attr(parts.time, "datetime", f.at);
    text(parts.ago, ago(age));
    text(parts.name, `${f.model}@${f.version}`);
    text(parts.code, f.code);
    text(parts.message, f.message);
    text(parts.id, f.id);
    text(parts.attempt, count(f.attempt));
    parts.button.hidden = Boolean(f.batch_id);
    parts.batch.hidden = !f.batch_id;
    label(parts.button, "Retry", `${f.model}@${f.version} ${f.id}`);
  });
  const models = [...new Set(listed.filter((f) => !f.batch_id).map((f) => f.model))].sort();
  keyed($("failures").querySelector(".redrive"), models, (m) => m, () => {
    const node = el("span");
    node.append(action(node, retryAll));
    return node;
  }, (node, model) => text(node.firstChild, `Retry all failed of ${model}`));
  empty($("failures"), !listed.length, "No failures.", ["Predictions that fail show here with what the model said, and can be retried."]);
}

function showLinks(s) {
  const away = (to) => (to?.startsWith(":") ? `${location.protocol}//${location.hostname}${to}` : to);
  const links = [["Flower", s.links.flower], ["API docs", s.links.docs], ["Metrics", s.links.metrics]];
  keyed($("links"), links.filter(([, to]) => to), ([name]) => name, () => el("li", "", el("a")), (li, [name, to]) => {
    const url = new URL(away(to), location.href);
    if (url.protocol === "http:" || url.protocol === "https:") attr(li.firstChild, "href", url.href);
    text(li.firstChild, name);
  });
}

// The stream

let shown; // the newest snapshot
const time = (at) => clock.format(Date.parse(at));

function show(s) {
  shown = s;
  const now = performance.now();
  text($("version"), s.headway);
  showLinks(s);
  showParts(s);
  if (s.models) {
    showTotals(s, now);
    showLanes(s, now);
    showModels(s);
    showDevices(s);
    showBatches(s);
    showFailures(s);
    $("main").hidden = false;
  }
  $("access").hidden = true;
  $("forget").hidden = !key;
  text($("as-of"), s.as_of ? `As of ${time(s.as_of)}. This API process is up ${duration((Date.parse(s.at) - Date.parse(s.started_at)) / 1e3)}.` : "");
  if (s.sql) state("on", "Live");
  else state("sql", s.as_of ? `SQL is away: numbers of ${time(s.as_of)}` : "SQL is away: nothing could be read yet");
}

let spoken = "wait";
function state(name, words) {
  attr($("live"), "data-state", name);
  text($("live-text"), words);
  $("again").hidden = name !== "off";
  $("main").classList.toggle("stale", name !== "on" && name !== "wait");
  if (name !== spoken && !(name === "on" && spoken === "wait")) text($("spoken"), name === "off" ? "The connection is lost; trying again." : words);
  if (name !== "wait") spoken = name;
}

let current; // the AbortController of the stream that is open or being opened
let tries = 0;
let timer;

async function connect() {
  clearTimeout(timer);
  current?.abort();
  if (document.hidden) return;
  const mine = (current = new AbortController());
  let dog;
  const hear = () => {
    clearTimeout(dog);
    dog = setTimeout(() => mine.abort(), SILENCE_MS);
  };
  let reason = "The connection is lost";
  try {
    hear();
    const response = await fetch("/ui/events", { headers: authorized(), signal: mine.signal, cache: "no-store" });
    if (response.status === 401 || response.status === 403) return ask(response.status);
    if (!response.ok) reason = (await why(response)).replace(/\.$/, "");
    else await read(response.body.pipeThrough(new TextDecoderStream()).getReader(), hear);
  } catch {
    // Cut off, refused, or given up for its silence.
  } finally {
    clearTimeout(dog);
  }
  if (mine === current) wait(reason);
}

async function read(reader, hear) {
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    hear();
    const events = (rest + value).split("\n\n");
    rest = events.pop();
    for (const event of events) {
      const data = event.split("\n").find((line) => line.startsWith("data: "));
      if (data) {
        tries = 0;
        try {
          show(JSON.parse(data.slice(6)));
        } catch (error) {
          console.error(error); // the next one may be better
        }
      }
    }
  }
}

function wait(reason) {
  const until = performance.now() + Math.min(LONGEST_MS, 500 * 2 ** tries) * (0.8 + 0.4 * Math.random());
  tries += 1;
  const tick = () => {
    const left = until - performance.now();
    if (left <= 0) return connect();
    state("off", `${reason}. Trying again in ${Math.ceil(left / 1000)} s`);
    timer = setTimeout(tick, Math.min(left, 250));
  };
  tick();
}

function ask(status = 401) {
  if (key) {
    say(status === 403 ? "That key lacks the scope admin." : "That key is not valid.", true);
    sessionStorage.removeItem(KEY);
    key = null;
  }
  current?.abort();
  current = undefined;
  clearTimeout(timer);
  $("main").hidden = true;
  state("wait", "Waiting for a key");
  $("access").hidden = false;
  $("key").focus();
}

$("access").addEventListener("submit", (event) => {
  event.preventDefault();
  key = $("key").value.trim();
  if (!key) return;
  $("key").value = "";
  sessionStorage.setItem(KEY, key);
  say("");
  tries = 0;
  state("wait", "Connecting");
  connect();
});
$("forget").addEventListener("click", () => {
  sessionStorage.removeItem(KEY);
  location.reload();
});
$("again").addEventListener("click", () => { tries = 0; connect(); });
document.addEventListener("visibilitychange", () => {
  if (!document.hidden) {
    if (!$("access").hidden) return;
    tries = 0;
    connect();
  } else if ($("access").hidden) {
    clearTimeout(timer);
    current?.abort();
    current = undefined;
    state("wait", "Paused while hidden");
  }
});

connect();
