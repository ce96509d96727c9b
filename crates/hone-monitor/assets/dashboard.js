// The dashboard. It fetches /api/unified about once a second and follows /api/events.
// Text from the workspace reaches the page through textContent only.
"use strict";

const REFRESH_MS = 1000;
const HIDDEN_REFRESH_MS = 10000;
const MAX_EVENTS = 200;
const byId = (id) => document.getElementById(id);

// ---- building the page ----

/** An element with attributes and children (nodes or texts; null and false are left out). */
function h(tag, attributes, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    element.setAttribute(name, value === true ? "" : value);
  }
  for (const child of children.flat()) {
    if (child === null || child === undefined || child === false) continue;
    element.append(child instanceof Node ? child : document.createTextNode(String(child)));
  }
  return element;
}

function svg(tag, attributes, text) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  if (text !== undefined) element.textContent = text;
  return element;
}

/** Rebuilds a part of the page only when what it shows has changed. */
const shown = new Map();
function show(id, data, build) {
  const key = JSON.stringify(data);
  if (shown.get(id) === key) return;
  shown.set(id, key);
  byId(id).replaceChildren(...[build()].flat().filter(Boolean));
}

function setText(id, text) {
  const element = byId(id);
  if (element.textContent !== text) element.textContent = text;
}

// ---- words and numbers ----

let clockSkewMs = 0;
const now = () => Date.now() + clockSkewMs;

function ago(ms) {
  const s = Math.max(0, Math.round((now() - ms) / 1000));
  if (s < 5) return "just now";
  if (s < 60) return `${s} s ago`;
  if (s < 3600) return `${Math.floor(s / 60)} min ago`;
  if (s < 86400) return `${Math.floor(s / 3600)} h ago`;
  return `${Math.floor(s / 86400)} d ago`;
}

function duration(ms) {
  const s = Math.max(0, Math.round(ms / 1000));
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${String(s % 60).padStart(2, "0")} s`;
  const hours = Math.floor(s / 3600);
  if (hours < 48) return `${hours} h ${String(Math.floor((s % 3600) / 60)).padStart(2, "0")} min`;
  return `${Math.floor(hours / 24)} d ${hours % 24} h`;
}

/** A time that keeps itself up to date. */
function since(ms) {
  const date = new Date(ms);
  return h("time", { datetime: date.toISOString(), title: date.toLocaleString(), "data-since": ms }, ago(ms));
}

const isNumber = (value) => typeof value === "number" && Number.isFinite(value);
const fixed = (value, digits) => (isNumber(value) ? value.toFixed(digits) : "–");
const count = (value) => (isNumber(value) ? Math.round(value).toLocaleString("en") : "–");
const percent = (value, digits = 1) => (isNumber(value) ? `${(value * 100).toFixed(digits)} %` : "–");
const plural = (n, one, many) => `${count(n)} ${n === 1 ? one : many}`;

function rate(value) {
  return isNumber(value) ? value.toPrecision(2).replace(/e([+-])0*/, "e$1") : "–";
}

function bytes(value) {
  if (!isNumber(value)) return "unknown";
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (value >= 1024 && unit < units.length - 1) { value /= 1024; unit += 1; }
  return `${value.toFixed(value < 10 && unit > 0 ? 1 : 0)} ${units[unit]}`;
}

const STATES = {
  training: "Training", evaluating: "Evaluating", idle: "Idle", paused: "Paused", stopping: "Stopping",
  stalled: "Stalled", dead: "Not running",
};

function badge(text, kind) { return h("span", { class: kind ? `badge ${kind}` : "badge" }, text); }

function note(text, kind) { return h("p", { class: kind ? `note ${kind}` : "note" }, text); }

/** A line for a source that could not be read, or nothing. */
function trouble(source) {
  // What the first card says already is not said again by every other one.
  if (!source || !source.error || source.error === mainError) return null;
  const age = isNumber(source.age_ms) ? `. Shown is what it said ${duration(source.age_ms)} ago.` : "";
  return note(`Cannot be read: ${source.error}${age}`, "warn");
}

/** What an empty part says: why it is empty, or that nobody knows. */
const empty = (source, text) => h("p", { class: "empty" }, source.data || isAbsent() ? text : "Not known.");

/** What a part shows of a source: its data, and its error without the running age. */
const keyOf = (source) => [source && source.data, source && source.error, mainError];

// ---- parts ----

let mainError = null;
const isAbsent = () => /no workspace/.test(mainError || "");

function showNow(source) {
  const data = source.data;
  mainError = source.error;
  const state = data ? data.state : "unknown";
  const isDead = (!data && !isAbsent()) || state === "dead" || state === "stalled";
  byId("pill").dataset.state = isAbsent() ? "unknown" : source.error ? "lost" : state;
  setText("pill-text", source.error ? (isAbsent() ? "No workspace" : "Unreadable") : STATES[state] || state);
  setText("model", data && data.model_name ? data.model_name : "");
  document.title = data && data.job && isNumber(data.job.share) && state === "training"
    ? `${Math.floor(data.job.share * 100)} % · hone` : "hone";
  byId("now-title").closest("section").toggleAttribute("data-dead", isDead);
  setText("headline", data ? data.headline : isAbsent() ? "No workspace yet" : "The workspace cannot be read");
  const job = data && data.job;
  const isOpen = job && (job.state === "running" || job.state === "queued");
  setText("detail", nowDetail(data, source, isOpen));
  const bar = byId("bar");
  const hasBar = Boolean(isOpen && isNumber(job.share));
  bar.hidden = !hasBar;
  byId("percent").hidden = !hasBar;
  if (hasBar) {
    bar.value = job.share;
    setText("percent", `${Math.floor(job.share * 100)} %`);
  }
  const progress = data && data.progress;
  show("stats", [progress, job && job.eta_ms, isOpen, isDead], () => progress ? stats(data, isOpen && !isDead) : []);
  const points = (data && data.curve && data.curve.points) || [];
  show("curve", [points, byId("curve").clientWidth], () => curve(points, data && data.curve));
}

function nowDetail(data, source, isOpen) {
  if (isAbsent()) return "Make one with `hone init`, or let `hone demo` make one that trains at once.";
  if (!data) return source.error || "";
  const parts = [];
  if (isOpen && data.job.files.length) {
    const more = data.job.num_files - data.job.files.length;
    parts.push(data.job.files.join(", ") + (more > 0 ? ` and ${more} more` : ""));
  }
  if (data.detail) parts.push(data.detail);
  if (source.error) parts.push(source.error);
  return parts.join(" · ");
}

function stats(data, isLive) {
  const { progress, job } = data;
  const figures = [
    ["Loss", fixed(progress.loss, 4)],
    ["Step", job.total_steps ? `${count(job.job_step)} / ${count(job.total_steps)}` : count(job.job_step)],
    ["Tokens/s", isLive ? count(progress.tokens_per_s) : "–"],
    ["Time left", isLive && isNumber(job.eta_ms) ? duration(job.eta_ms) : "–"],
    ["Learning rate", rate(progress.learning_rate)],
    ["Last report", since(progress.at_ms)],
  ];
  return figures.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value)));
}

/** The loss curve: every point faint, a moving mean strong. */
function curve(points, of) {
  if (points.length < 2) return [];
  const width = Math.max(280, byId("curve").clientWidth);
  const height = window.innerWidth <= 640 ? 150 : 190;
  const pad = { left: 40, right: 8, top: 10, bottom: 22 };
  const losses = points.map(([, loss]) => loss);
  const [low, high, ticks] = scale(Math.min(...losses), Math.max(...losses));
  const [first, last] = [points[0][0], points[points.length - 1][0]];
  const x = (step) => pad.left + ((step - first) / (last - first || 1)) * (width - pad.left - pad.right);
  const y = (loss) => pad.top + ((high - loss) / (high - low || 1)) * (height - pad.top - pad.bottom);
  const line = (list) => list.map(([s, l], i) => `${i ? "L" : "M"}${x(s).toFixed(1)} ${y(l).toFixed(1)}`).join("");
  const smooth = movingMean(points);
  const readout = h("span", {}, `now ${fixed(smooth[smooth.length - 1][1], 4)}`);
  const chart = svg("svg", {
    viewBox: `0 0 ${width} ${height}`, role: "img",
    "aria-label": `Training loss from ${fixed(losses[0], 3)} at step ${first} to ${fixed(losses[losses.length - 1], 3)} at step ${last}`,
  });
  for (const tick of ticks) {
    chart.append(svg("line", { class: "rule", x1: pad.left, x2: width - pad.right, y1: y(tick), y2: y(tick) }));
    chart.append(svg("text", { x: pad.left - 8, y: y(tick) + 4, "text-anchor": "end" }, trim(tick)));
  }
  chart.append(svg("text", { x: pad.left, y: height - 5 }, `step ${count(first)}`));
  chart.append(svg("text", { x: width - pad.right, y: height - 5, "text-anchor": "end" }, count(last)));
  chart.append(svg("path", { class: "fill", d: `${line(smooth)}L${x(last)} ${y(low)}L${x(first)} ${y(low)}Z` }));
  chart.append(svg("path", { class: "raw", d: line(points) }));
  chart.append(svg("path", { class: "smooth", d: line(smooth) }));
  const cursor = svg("line", { class: "cursor", y1: pad.top, y2: height - pad.bottom, visibility: "hidden" });
  chart.append(cursor);
  chart.addEventListener("pointermove", (event) => {
    const at = ((event.clientX - chart.getBoundingClientRect().left) / chart.clientWidth) * width;
    const nearest = points.reduce((best, p) => (Math.abs(x(p[0]) - at) < Math.abs(x(best[0]) - at) ? p : best));
    cursor.setAttribute("x1", x(nearest[0]));
    cursor.setAttribute("x2", x(nearest[0]));
    cursor.setAttribute("visibility", "visible");
    readout.textContent = `step ${count(nearest[0])}: ${fixed(nearest[1], 4)}`;
  });
  chart.addEventListener("pointerleave", () => {
    cursor.setAttribute("visibility", "hidden");
    readout.textContent = `now ${fixed(smooth[smooth.length - 1][1], 4)}`;
  });
  return h("figure", {}, h("figcaption", {}, h("span", {}, `Training loss of ${of.job}`), readout), chart);
}

/** Bounds and three to five round ticks around a range. */
function scale(low, high) {
  if (high - low < 1e-9) { low -= 0.5; high += 0.5; }
  const raw = (high - low) / 4;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 2.5, 5, 10].map((factor) => factor * power).find((candidate) => candidate >= raw);
  const from = Math.floor(low / step) * step;
  const to = Math.ceil(high / step) * step;
  const ticks = [];
  for (let tick = from; tick <= to + step / 2; tick += step) ticks.push(Math.abs(tick) < step / 1e6 ? 0 : tick);
  return [from, to, ticks];
}

const trim = (value) => String(Number(value.toPrecision(3)));

/** Each point with the mean of its neighbours on both sides, so that the line does not lag. */
function movingMean(points) {
  const reach = Math.max(1, Math.round(points.length / 50));
  return points.map(([step], i) => {
    const side = Math.min(reach, i, points.length - 1 - i);
    const near = points.slice(i - side, i + side + 1);
    return [step, near.reduce((sum, [, loss]) => sum + loss, 0) / near.length];
  });
}

function showServing(deployments, inference) {
  show("serving", [keyOf(deployments), inference && inference.error, servedBy(inference), inference && inference.data && inference.data.configured], () => {
    const targets = (deployments.data && deployments.data.targets) || [];
    const server = inferenceLine(inference, targets);
    if (!targets.length) {
      const served = servedBy(inference);
      return [h("p", { class: "serving-name muted" }, served || "Nothing yet"),
        empty(deployments, served ? "No deployment of this workspace is recorded." : "The first checkpoint is served once it was evaluated."),
        server, trouble(deployments)];
    }
    return [...targets.map(target), server, trouble(deployments)];
  });
}

const servedBy = (inference) => (inference && inference.data && inference.data.model && inference.data.model.checkpoint) || null;

function target({ target: name, live, pending }) {
  const facts = [];
  if (live) {
    facts.push(["Since", live.live_since_ms ? since(live.live_since_ms) : since(live.created_ms)]);
    facts.push(["Why", live.reason || "–"]);
  }
  facts.push(["Where", name]);
  return h("div", { class: "target" },
    h("p", { class: live ? "serving-name" : "serving-name muted" }, live ? live.checkpoint : "Nothing yet"),
    h("dl", { class: "facts" }, facts.map(([term, value]) => h("div", {}, h("dt", {}, term), h("dd", {}, value)))),
    pending && note(`${pending.checkpoint} is on its way${pending.tries ? `, try ${pending.tries + 1}` : ""}`));
}

function inferenceLine(inference, targets) {
  if (!inference || (inference.data && inference.data.configured === false)) return null;
  if (inference.error) return note("The inference server does not answer.", "bad");
  const served = servedBy(inference);
  if (!served) return note("The inference server answers, but serves no model yet.");
  const isKnown = !targets.length || targets.some((t) => t.live && t.live.checkpoint === served);
  return isKnown ? note(`The server confirms: it answers with ${served}.`)
    : note(`The server answers with ${served}, which is not what was deployed.`, "bad");
}

const OUTCOMES = { promote: ["promoted", "good"], worse: ["worse", "bad"], cannot_tell: ["cannot tell", "warn"], manual: ["by hand", "info"] };

function showCheckpoints(source, deployments) {
  const live = new Set(((deployments.data && deployments.data.targets) || []).map((t) => t.live && t.live.checkpoint));
  setText("checkpoints-note", source.data ? plural(source.data.num_published, "published", "published") : "");
  show("checkpoints", [keyOf(source), [...live]], () => {
    const items = (source.data && source.data.items) || [];
    if (!items.length) return [empty(source, "None yet. checkpoint-0 is the base model."), trouble(source)];
    const head = ["Checkpoint", "Made", "Response loss", "Token accuracy", "Verdict"];
    const header = head.map((name, i) => h("th", { scope: "col", role: "columnheader", class: i === 2 || i === 3 ? "num" : null }, name));
    return [h("table", { role: "table", "aria-labelledby": "checkpoints-title" },
      h("thead", { role: "rowgroup" }, h("tr", { role: "row" }, header)),
      h("tbody", { role: "rowgroup" }, items.map((item) => checkpointRow(item, live)))), trouble(source)];
  });
}

function checkpointRow(item, live) {
  const badges = [
    live.has(item.id) && badge("serving", "good"), item.is_champion && badge("champion", "info"),
    item.state !== "published" && badge(item.state, item.state === "refused" ? "bad" : null),
  ].filter(Boolean);
  const suites = (item.evaluation && item.evaluation.suites) || [];
  const figures = (pick) => h("div", { class: "suites" }, suites.map((suite) => h("span", { title: suite.suite }, pick(suite))));
  const cell = (label, className, content) => {
    const classes = [className, !content && "empty-cell"].filter(Boolean).join(" ");
    return h("td", { role: "cell", "data-label": label, class: classes || null }, content);
  };
  return h("tr", { role: "row" },
    cell("Checkpoint", "name", [item.id, badges.length ? h("span", { class: "badges" }, badges) : null]),
    cell("Made", "", h("div", { class: "made" }, h("span", {}, since(item.created_ms)), item.job && h("span", { class: "muted" }, `by ${item.job}`))),
    cell("Response loss", "num", suites.length ? figures((suite) => named(suites, suite, fixed(suite.mean_nll, 4))) : null),
    cell("Token accuracy", "num", suites.length ? figures((suite) => percent(suite.token_accuracy)) : null),
    cell("Verdict", "verdict", verdict(item)));
}

/** The suite's name before its figure, where there are several suites. */
const named = (suites, suite, figure) => (suites.length > 1 ? [h("span", { class: "muted" }, `${suite.suite} `), figure] : figure);

function verdict(item) {
  if (item.reason) return [badge("refused", "bad"), item.reason];
  if (item.verdict) {
    const [word, kind] = OUTCOMES[item.verdict.outcome] || [item.verdict.outcome, null];
    return [badge(word, kind), item.verdict.reason];
  }
  if (item.evaluation && item.evaluation.error) return [badge("not evaluated", "bad"), item.evaluation.error];
  return h("span", { class: "muted" }, item.evaluation ? "evaluated" : "not evaluated yet");
}

const JOB_BADGES = { running: "good", queued: null, completed: "info", failed: "bad", skipped: "warn", cancelled: null };

function showQueue(source, isAlive) {
  const data = source.data;
  setText("queue-note", data ? plural(data.num_open, "open job", "open jobs") : "");
  show("queue", [keyOf(source), isAlive], () => {
    const jobs = data ? [...data.open, ...data.ended.slice(0, 6)] : [];
    return [
      data && data.queue_full && note("The queue is full: arriving files wait in the inbox.", "warn"),
      jobs.length ? h("ul", { class: "rows" }, jobs.map((job) => jobRow(job, isAlive))) : empty(source, "No jobs yet. Drop a JSONL file into inbox/."),
      trouble(source)];
  });
}

function jobRow(job, isAlive) {
  const isCut = job.state === "running" && !isAlive;
  const files = job.files.join(", ") + (job.num_files > job.files.length ? ` and ${job.num_files - job.files.length} more` : "");
  const steps = job.total_steps ? `${count(job.job_step)} of ${count(job.total_steps)} steps` : null;
  const bar = job.state === "running" && job.total_steps
    ? h("progress", { class: isCut ? "thin idle" : "thin", max: job.total_steps, value: job.job_step, "aria-label": `Progress of ${job.id}` }) : null;
  return h("li", {},
    h("div", { class: "row-head" },
      h("span", {}, h("span", { class: "name" }, job.id), " ",
        h("span", { class: "badges" }, badge(isCut ? "interrupted" : job.state, isCut ? "warn" : JOB_BADGES[job.state]), job.priority !== "normal" && badge(job.priority))),
      h("span", { class: "muted" }, since(job.ended_ms || job.started_ms || job.created_ms))),
    h("div", { class: "muted small" }, [files, steps, job.tries ? plural(job.tries, "failed try", "failed tries") : null].filter(Boolean).join(" · ")),
    bar,
    job.reason && h("ul", { class: "reasons" }, h("li", {}, job.reason)));
}

const FILE_BADGES = { accepted: ["accepted", "good"], rejected: ["refused", "bad"], duplicate: ["duplicate", "warn"], arriving: ["arriving", null], checking: ["checking", "info"], vanished: ["vanished", "warn"] };

function showFiles(source) {
  const data = source.data;
  const counts = (data && data.counts) || {};
  setText("files-note", data ? [counts.accepted && `${counts.accepted} accepted`, counts.rejected && `${counts.rejected} refused`].filter(Boolean).join(", ") : "");
  show("files", keyOf(source), () => {
    const recent = (data && data.recent) || [];
    if (!recent.length) return [empty(source, "No files yet."), trouble(source)];
    const listed = recent.slice(0, 8);
    const older = data.rejected.filter((file) => !listed.some((other) => other.id === file.id)).slice(0, 4);
    return [h("ul", { class: "rows" }, [...listed, ...older].map(fileRow)), trouble(source)];
  });
}

function fileRow(file) {
  const [word, kind] = FILE_BADGES[file.state] || [file.state, null];
  const facts = [file.rows ? plural(file.rows, "row", "rows") : null, file.schema_id, file.duplicate_of && `same bytes as ${file.duplicate_of}`];
  return h("li", {},
    h("div", { class: "row-head" },
      h("span", {}, h("span", { class: "name" }, file.file_name), " ", h("span", { class: "badges" }, badge(word, kind))),
      h("span", { class: "muted" }, since(file.arrived_ms))),
    h("div", { class: "muted small" }, facts.filter(Boolean).join(" · ")),
    file.reasons.length > 0 && h("ul", { class: "reasons" }, file.reasons.slice(0, 5).map((reason) => h("li", {}, reason))));
}

function showPreviews(source) {
  const previews = ((source.data && source.data.previews) || []).slice().reverse();
  byId("previews-card").hidden = !previews.length;
  byId("events-card").classList.toggle("full", !previews.length);
  show("previews", previews, () => h("ul", { class: "rows" }, previews.map((preview) => {
    const isRight = preview.answer.trim() === preview.expected.trim();
    return h("li", {},
      h("div", { class: "row-head" }, h("span", {}, badge(isRight ? "as expected" : "different", isRight ? "good" : null)),
        h("span", { class: "muted" }, `step ${count(preview.step)}`)),
      h("dl", { class: "preview" },
        h("dt", {}, "Asked"), h("dd", {}, preview.prompt), h("dt", {}, "Answered"), h("dd", {}, preview.answer || "(nothing)"),
        !isRight && [h("dt", {}, "Expected"), h("dd", {}, preview.expected)]));
  })));
}

function showHost(system) {
  const data = system && system.data;
  show("host", data, () => {
    if (!data) return [];
    const { cpu, memory, disk } = data;
    const entries = [
      ["CPU", isNumber(cpu.busy) ? `${percent(cpu.busy, 0)} of ${plural(cpu.cores, "core", "cores")}` : plural(cpu.cores, "core", "cores")],
      ["Memory", `${bytes(memory.available_bytes)} free of ${bytes(memory.total_bytes)}`],
      ["Disk", disk ? `${bytes(disk.available_bytes)} free of ${bytes(disk.total_bytes)}` : "unknown"],
      ["GPU", data.gpu ? String(data.gpu) : "unknown"],
    ];
    return entries.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value)));
  });
}

function showSources(sources) {
  const rows = Object.entries(sources).map(([name, s]) => [name, s.error || "fine", isNumber(s.age_ms) ? duration(s.age_ms) : "never", Boolean(s.error)]);
  show("sources", rows, () => h("table", { role: "table" },
    h("thead", { role: "rowgroup" }, h("tr", { role: "row" }, ["Source", "State", "Age"].map((name) => h("th", { scope: "col", role: "columnheader" }, name)))),
    h("tbody", { role: "rowgroup" }, rows.map(([name, state, age, failed]) => h("tr", { role: "row" },
      h("td", { role: "cell", class: "name" }, name),
      h("td", { role: "cell", "data-label": "State" }, failed ? badge("failing", "bad") : null, failed ? ` ${state}` : state),
      h("td", { role: "cell", "data-label": "Age" }, age))))));
}

// ---- events ----

let lastEvent = null;

function addEvent(entry) {
  const date = new Date(entry.at_ms);
  const time = date.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", second: "2-digit", hour12: false });
  const severity = entry.severity === "info" ? null : h("span", { class: "visually-hidden" }, `${entry.severity}: `);
  const item = h("li", { "data-severity": entry.severity },
    h("time", { datetime: date.toISOString(), title: date.toLocaleString() }, time),
    h("span", { class: "tick", "aria-hidden": "true" }),
    h("span", { class: "what", title: `${entry.kind} · ${entry.subject}` }, severity, entry.message));
  const list = byId("events");
  list.prepend(item);
  while (list.children.length > MAX_EVENTS) list.lastChild.remove();
  byId("events-empty").hidden = true;
}

/** Follows the log for ever; goes on after the last event seen when the connection breaks. */
async function followEvents() {
  for (;;) {
    while (isLocked) await sleep(REFRESH_MS);
    try {
      const headers = lastEvent === null ? {} : { "Last-Event-ID": String(lastEvent) };
      const response = await call("/api/events", headers);
      setText("events-note", "live");
      for await (const block of blocks(response.body)) takeEvent(block);
    } catch (error) {
      // The next try says more; the page's banner tells when the monitor itself is gone.
    }
    setText("events-note", "reconnecting");
    await sleep(2000);
  }
}

function takeEvent(block) {
  let data = "";
  let kind = "message";
  for (const line of block.split("\n")) {
    if (line.startsWith("id:")) lastEvent = Number(line.slice(3).trim());
    else if (line.startsWith("event:")) kind = line.slice(6).trim();
    else if (line.startsWith("data:")) data += line.slice(5).trim();
  }
  if (kind === "log" && data) addEvent(JSON.parse(data));
}

/** Blocks of an event stream, which end with an empty line. */
async function* blocks(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let pending = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    pending += value;
    for (let end = pending.indexOf("\n\n"); end >= 0; end = pending.indexOf("\n\n")) {
      yield pending.slice(0, end);
      pending = pending.slice(end + 2);
    }
  }
}

// ---- the loop ----

const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

class KeyWanted extends Error {}

async function call(path, headers = {}) {
  const key = sessionStorage.getItem("hone-key");
  const response = await fetch(path, { headers: key ? { ...headers, Authorization: `Bearer ${key}` } : headers, cache: "no-store" });
  if (response.status === 401) throw new KeyWanted();
  if (!response.ok) throw new Error(`HTTP ${response.status}`);
  return response;
}

let lastAnswer = null;

async function refresh() {
  try {
    const unified = await (await call("/api/unified")).json();
    clockSkewMs = unified.at_ms - Date.now();
    lastAnswer = Date.now();
    wantKey(false);
    lost(null);
    render(unified);
  } catch (error) {
    if (error instanceof KeyWanted) return wantKey(true);
    const when = lastAnswer ? ` Shown is what it said at ${new Date(lastAnswer).toLocaleTimeString()}.` : "";
    lost(`The monitor does not answer.${when}`);
  }
}

function render({ sources, version }) {
  showNow(sources.training_status);
  showServing(sources.deployments, sources.inference);
  showCheckpoints(sources.checkpoints, sources.deployments);
  const training = sources.training_status.data;
  showQueue(sources.queue, Boolean(training && training.daemon.alive));
  showFiles(sources.datasets);
  showPreviews(sources.training_status);
  showHost(sources.system);
  showSources(sources);
  setText("version", `hone ${version}`);
  for (const element of document.querySelectorAll("[data-since]")) {
    const text = ago(Number(element.dataset.since));
    if (element.textContent !== text) element.textContent = text;
  }
}

function lost(message) {
  byId("banner").hidden = !message;
  if (message) {
    setText("banner", message);
    byId("pill").dataset.state = "lost";
    setText("pill-text", "Disconnected");
  }
  document.body.toggleAttribute("data-lost", Boolean(message));
}

let isLocked = false;

function wantKey(isWanted) {
  byId("key-note").hidden = !isWanted || !sessionStorage.getItem("hone-key");
  isLocked = isWanted;
  byId("key-form").hidden = !isWanted;
  byId("main").hidden = isWanted;
  document.querySelector(".foot").hidden = isWanted;
  if (isWanted) { byId("pill").dataset.state = "unknown"; setText("pill-text", "Locked"); }
}

byId("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem("hone-key", byId("key").value);
  byId("key").value = "";
  refresh();
});

async function main() {
  followEvents();
  for (;;) {
    if (!isLocked) await refresh();
    await sleep(document.hidden ? HIDDEN_REFRESH_MS : REFRESH_MS);
  }
}

main();
