// The pages "Data", "Checkpoints", "System" and "Events".
"use strict";

// ---- Data ----

const JOB_BADGES = { running: "good", queued: null, completed: "info", failed: "bad", skipped: "warn", cancelled: null };

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
    h("div", { class: "muted small" }, [files, steps, job.waits_for, job.tries ? plural(job.tries, "failed try", "failed tries") : null].filter(Boolean).join(" · ")),
    bar,
    job.reason && h("ul", { class: "reasons" }, h("li", {}, job.reason)),
    jobButtons(job));
}

function jobButtons(job) {
  if (session.control === "off" || location.hash !== "#data") return null;
  const number = Number(job.id.replace("job-", ""));
  const button = (text, act) => h("button", { type: "button", class: "quiet small", "aria-label": `${text}: ${job.id}`, onclick: act }, text);
  const move = (priority) => command(() => ({ command: "move_job", job: number, priority }), { title: `Move ${job.id} to ${priority}?`, yes: "Move" });
  const buttons = [];
  if (job.state === "queued") {
    for (const priority of ["high", "normal", "low"]) if (priority !== job.priority) buttons.push(button(priority, () => move(priority)));
    buttons.push(button("Cancel", () => command(() => ({ command: "cancel_job", job: number }), { title: `Take ${job.id} out of the queue?`, yes: "Take it out" })));
  }
  if (["failed", "skipped", "cancelled"].includes(job.state)) {
    buttons.push(button("Retry", () => command(() => ({ command: "retry_job", job: number }), { title: `Queue ${job.id} again?`, yes: "Queue it" })));
  }
  return buttons.length ? h("div", { class: "row-buttons" }, buttons) : null;
}

const FILE_BADGES = { accepted: ["accepted", "good"], rejected: ["refused", "bad"], duplicate: ["duplicate", "warn"], arriving: ["arriving", null], checking: ["checking", "info"], vanished: ["vanished", "warn"] };
const FILE_STATES = [["", "All"], ["accepted", "Accepted"], ["rejected", "Refused"], ["duplicate", "Duplicates"]];
let fileState = "";

function showData({ queue, datasets, inbox, training_status: training }) {
  const data = queue.data;
  const isAlive = Boolean(training.data && training.data.daemon.alive);
  setText("queue-note", data ? `${plural(data.num_open, "open job", "open jobs")}` : "");
  show("queue", [keyOf(queue), isAlive, session.control, keyOf(inbox)], () => {
    const jobs = data ? [...data.open.slice(0, 40), ...data.ended.slice(0, 10)] : [];
    return [
      inboxLine(inbox),
      data && data.queue_full && note("The queue is full: arriving files wait in the inbox.", "warn"),
      jobs.length ? h("ul", { class: "rows" }, jobs.map((job) => jobRow(job, isAlive))) : empty(queue, "No jobs yet. Drop a JSONL file into inbox/."),
      trouble(queue)];
  });
  choices("file-states", FILE_STATES, fileState, (value) => { fileState = value; showData({ queue, datasets, inbox, training_status: training }); });
  refreshFiles(JSON.stringify(datasets.data && datasets.data.counts));
}

function inboxLine(inbox) {
  const data = inbox && inbox.data;
  if (!data || !data.num_files) return null;
  const names = data.files.map((file) => `${file.name} (${bytes(file.size_bytes)})`).join(", ");
  return h("p", { class: "small" }, badge(plural(data.num_files, "file in the inbox", "files in the inbox"), "info"), " ", h("span", { class: "muted" }, names));
}

const FILES_SHOWN = 60;
const MAX_FILES = 480;
let numFiles = FILES_SHOWN;
let filesKey = null;
let fileCounts = null;

/** Asks anew when the choice, the length of the list or the counts of files are other ones than those shown. */
async function refreshFiles(counts = fileCounts) {
  fileCounts = counts;
  const wanted = `${fileState} ${numFiles} ${counts}`;
  if (wanted === filesKey) return;
  filesKey = wanted;
  try {
    const answer = await json(`/api/datasets?limit=${numFiles}&state=${fileState}`.replace(/&state=$/, ""));
    show("files", answer, () => answer.datasets.length
      ? h("ul", { class: "rows" }, answer.datasets.map(fileRow), answer.next && numFiles < MAX_FILES ? h("li", {}, h("button", { type: "button", class: "quiet", onclick: () => { numFiles += FILES_SHOWN; refreshFiles(); } }, "Show older")) : null)
      : h("p", { class: "empty" }, "No such files yet."));
  } catch (error) {
    filesKey = null;
  }
}

function fileRow(file) {
  const [word, kind] = FILE_BADGES[file.state] || [file.state, null];
  const from = file.provenance ? `generated by ${file.provenance.skill || "a skill"}${file.provenance.level ? `, level ${file.provenance.level}` : ""}` : null;
  const parts = [file.id, file.rows ? plural(file.rows, "row", "rows") : null, file.schema_id, from, file.duplicate_of && `same bytes as ${file.duplicate_of}`];
  const isJudged = file.state === "accepted" || file.state === "rejected";
  const details = isJudged
    ? h("details", { ontoggle: (event) => loadReport(event.target, file.id) }, h("summary", {}, "Report of both gates"), h("div", { class: "report" }, "…")) : null;
  return h("li", {},
    h("div", { class: "row-head" },
      h("span", {}, h("span", { class: "name" }, file.file_name), " ", h("span", { class: "badges" }, badge(word, kind))),
      h("span", { class: "muted" }, since(file.arrived_ms))),
    h("div", { class: "muted small" }, parts.filter(Boolean).join(" · ")),
    file.reasons.length > 0 && h("ul", { class: "reasons" }, file.reasons.slice(0, 5).map((reason) => h("li", {}, reason))),
    details, isJudged && rowsOf(file));
}

async function loadReport(details, id) {
  if (!details.open || details.dataset.loaded) return;
  details.dataset.loaded = "yes";
  const box = details.querySelector(".report");
  try {
    const { report } = await json(`/api/datasets/${id.replace("dataset-", "")}/report`);
    box.replaceChildren(...reportParts(report, id).filter(Boolean));
  } catch (error) {
    box.replaceChildren(note(`No report: ${error.message}`, "warn"));
    delete details.dataset.loaded;
  }
}

function reportParts(report, id) {
  const findings = report.findings || [];
  const link = (line) => h("button", { type: "button", class: "link", title: `Show line ${line} as it would be trained`, onclick: () => showRow(id, line) }, String(line));
  const lines = (finding) => {
    const named = (finding.lines && finding.lines.length ? finding.lines : [finding.line]).filter(isNumber).slice(0, 8);
    return named.length ? ["line ", ...named.flatMap((line, i) => (i ? [", ", link(line)] : [link(line)])), finding.count > 8 ? " …" : ""] : "";
  };
  const numbers = Object.entries(report.stats || {}).filter(([, value]) => isNumber(value));
  return [
    facts([["Schema", `${report.schema_id || "–"}${report.schema_origin ? ` (${typeof report.schema_origin === "string" ? report.schema_origin : "named"})` : ""}`],
      report.level && ["Level", report.level], isNumber(report.rows) && ["Rows", count(report.rows)], isNumber(report.elapsed_ms) && ["Took", duration(report.elapsed_ms)]]),
    findings.length ? table("Findings", [["Finding"], ["Where"], ["Times", "num"], ["What to do"]], findings.map((finding) => [
      [badge(finding.severity || "error", finding.severity === "warning" ? "warn" : "bad"), " ", finding.message], lines(finding), isNumber(finding.count) ? count(finding.count) : "", finding.hint || ""]))
      : h("p", { class: "empty" }, "No findings."),
    numbers.length ? facts(numbers.map(([name, value]) => [name.replaceAll("_", " "), short(value)])) : null,
  ];
}

// ---- Checkpoints ----

const OUTCOMES = { promote: ["promoted", "good"], worse: ["worse", "bad"], cannot_tell: ["cannot tell", "warn"], manual: ["by hand", "info"] };
const SUITE_METRICS = [["mean_nll", "Response loss"], ["token_accuracy", "Token accuracy"], ["share_right", "Right answers"]];
let suiteMetric = "mean_nll";
let olderCheckpoints = [];
let nextCheckpoints = null;

function showCheckpoints({ checkpoints: source, deployments }) {
  const live = new Set(((deployments.data && deployments.data.targets) || []).map((t) => t.live && t.live.checkpoint));
  setText("checkpoints-note", source.data ? plural(source.data.num_published, "published", "published") : "");
  show("checkpoints", [keyOf(source), [...live], olderCheckpoints.length, nextCheckpoints, session.control], () => {
    const items = [...((source.data && source.data.items) || []), ...olderCheckpoints];
    if (!items.length) return [empty(source, "None yet. checkpoint-0 is the base model."), trouble(source)];
    const columns = [["Checkpoint", "name"], ["Made"], ["Response loss", "num"], ["Token accuracy", "num"], ["Right answers", "num"], ["Verdict", "verdict"]];
    const total = source.data ? source.data.total : items.length;
    const last = items[items.length - 1];
    const hasMore = nextCheckpoints !== false && items.length < total;
    return [table("Checkpoints", columns, items.map((item) => checkpointCells(item, live))),
      hasMore ? h("button", { type: "button", class: "quiet", onclick: () => loadOlder(last.number) }, "Show older") : null, trouble(source)];
  });
  refreshSuites(JSON.stringify([source.data && source.data.items.length, source.data && source.data.items[0]]));
}

async function loadOlder(before) {
  const answer = await json(`/api/checkpoints?before=${before}&limit=100`);
  olderCheckpoints = [...olderCheckpoints, ...answer.checkpoints];
  nextCheckpoints = answer.next === null ? false : answer.next;
}

function checkpointCells(item, live) {
  const badges = [
    live.has(item.id) && badge("serving", "good"), item.is_champion && badge("champion", "info"),
    item.state !== "published" && badge(item.state, item.state === "refused" ? "bad" : null),
  ].filter(Boolean);
  const suites = (item.evaluation && item.evaluation.suites) || [];
  const figures = (name, pick) => {
    const measured = suites.filter((suite) => isNumber(suite[name]));
    return measured.length ? h("div", { class: "suites" }, measured.map((suite) => h("span", { title: scoreTitle(suite) }, pick(suite)))) : null;
  };
  const named = (suite, figure) => (suites.length > 1 ? [h("span", { class: "muted" }, `${suite.suite} `), figure] : figure);
  return [
    [item.id, badges.length ? h("span", { class: "badges" }, badges) : null],
    h("div", { class: "made" }, h("span", {}, since(item.created_ms)), item.job && h("span", { class: "muted" }, `by ${item.job}`)),
    figures("mean_nll", (suite) => named(suite, fixed(suite.mean_nll, 4))),
    figures("token_accuracy", (suite) => percent(suite.token_accuracy)),
    figures("share_right", (suite) => [named(suite, percent(suite.share_right)), unusable(suite)]),
    h("div", {}, verdict(item), h("details", { ontoggle: (event) => loadStory(event.target, item.number) }, h("summary", {}, "What led to it"), h("div", { class: "report" }, "…"))),
  ];
}

/** How sure a score is, for who points at it. */
function scoreTitle({ suite, interval, share_right: right }) {
  const bound = (value) => (isNumber(right) ? percent(value) : fixed(value, 4));
  return interval ? `${suite}: 95 % between ${interval.map(bound).join(" and ")}` : suite;
}

/** Which answers are no evidence, where there are any. */
function unusable({ shares }) {
  const parts = Object.entries(shares || {}).filter(([, share]) => share > 0).map(([name, share]) => `${percent(share, 0)} ${name}`);
  return parts.length ? h("span", { class: "muted small block" }, parts.join(", ")) : null;
}

function verdict(item) {
  if (item.reason) return [badge("refused", "bad"), item.reason];
  if (item.verdict) {
    const [word, kind] = OUTCOMES[item.verdict.outcome] || [item.verdict.outcome, null];
    return [badge(word, kind), item.verdict.reason];
  }
  if (item.evaluation && item.evaluation.error) return [badge("not evaluated", "bad"), item.evaluation.error];
  return h("span", { class: "muted" }, item.evaluation ? "evaluated" : "not evaluated yet");
}

async function loadStory(details, number) {
  if (!details.open || details.dataset.loaded) return;
  details.dataset.loaded = "yes";
  const box = details.querySelector(".report");
  try {
    box.replaceChildren(...storyParts(await json(`/api/checkpoints/${number}`), number).filter(Boolean));
  } catch (error) {
    box.replaceChildren(note(error.message, "warn"));
    delete details.dataset.loaded;
  }
}

function storyParts(story, number) {
  const chain = story.lineage.map((ancestor) => ancestor.id);
  const settings = story.settings ? ["learning_rate", "batch_size", "gradient_accumulation", "epochs", "max_length", "lr_schedule"].filter((name) => story.settings[name] !== undefined).map((name) => `${name} ${story.settings[name]}`).join(", ") : null;
  const canDeploy = session.control !== "off" && story.checkpoint.state === "published";
  return [
    facts([
      ["Trained from", chain.length ? chain.join(" ← ") : "nothing: it is the base model"],
      story.job && ["By", `${story.job.id}, ${plural(story.rows_trained, "row", "rows")} so far`],
      story.files.length > 0 && ["On", story.files.map((file) => `${file.file_name} (${file.id})`).join(", ")],
      settings && ["With", settings],
      story.deployments.length > 0 && ["Deployments", story.deployments.map((d) => `${d.target}: ${d.state}`).join(", ")],
      ["Manifest", h("code", {}, story.manifest_hash.slice(0, 16))],
    ]),
    evidencePart(story.checkpoint.verdict),
    canDeploy ? h("div", { class: "row-buttons" }, h("button", { type: "button", class: "quiet", onclick: () =>
      command((reason) => ({ command: "deploy", checkpoint: number, reason: reason || byPage }), { title: `Serve checkpoint-${number}?`, text: "On every target, by your decision.", yes: "Serve it", ...reasonField }) }, "Serve this one")) : null,
  ];
}

/** What decided between the checkpoint and the champion: per suite the gain, its interval, the share of chance. */
function evidencePart(verdict) {
  const rows = ((verdict && verdict.evidence) || []).filter((line) => isNumber(line.gain));
  if (!rows.length) return null;
  return table(`Against ${verdict.champion || "the champion"}`, [["Suite", "name"], ["Gain", "num"], ["95 % between", "num"], ["p", "num"]], rows.map((line) => [
    line.suite, short(line.gain), line.interval ? line.interval.map(short).join(" and ") : "–", isNumber(line.p_value) ? short(line.p_value) : "–"]));
}

let suitesKey = null;

async function refreshSuites(key) {
  choices("suite-metrics", SUITE_METRICS, suiteMetric, (value) => { suiteMetric = value; suitesKey = null; refreshSuites(key); });
  const wanted = `${suiteMetric} ${key} ${byId("suite-curve").clientWidth}`;
  if (wanted === suitesKey) return;
  suitesKey = wanted;
  try {
    const { suites } = await json("/api/history/evaluations?points=500");
    const format = suiteMetric === "mean_nll" ? (value) => fixed(value, 4) : (value) => percent(value);
    const measured = suites.filter((suite) => suite[suiteMetric].some(isNumber));
    const lines = measured.slice(0, 5).map((suite, colour) => ({ label: suite.suite, xs: suite.checkpoints, ys: suite[suiteMetric], kind: "side", colour }));
    drawChart("suite-curve", { lines, name: "Evaluation of each checkpoint", format, xLabel: "checkpoint" });
    if (!lines.length) byId("suite-curve").replaceChildren(h("p", { class: "empty" }, "No checkpoint has been evaluated on such a suite yet."));
  } catch (error) {
    suitesKey = null;
  }
}

// ---- System ----

function meter(name, value, share, text) {
  return h("div", {}, h("dt", {}, name), h("dd", {}, value,
    isNumber(share) ? h("meter", { min: 0, max: 1, high: 0.9, optimum: 0.2, value: share, "aria-label": `${name}: ${text || value}` }) : null));
}

function showSystem(sources) {
  const system = sources.system;
  const data = system && system.data;
  show("host", keyOf(system), () => {
    if (!data) return [empty(system, ""), trouble(system)];
    const { cpu, memory, disk, gpus } = data;
    const used = (part) => (part && part.total_bytes ? 1 - part.available_bytes / part.total_bytes : null);
    return [
      meter("Processor", isNumber(cpu.busy) ? `${percent(cpu.busy, 0)} of ${plural(cpu.cores, "core", "cores")}` : plural(cpu.cores, "core", "cores"), cpu.busy),
      meter("Memory", `${bytes(memory.available_bytes)} free of ${bytes(memory.total_bytes)}`, used(memory)),
      meter("Disk", disk ? `${bytes(disk.available_bytes)} free of ${bytes(disk.total_bytes)}` : "unknown", used(disk)),
      ...(gpus && gpus.length ? gpus.map((gpu) => meter(gpu.name, `${percent(gpu.busy, 0)} busy, ${bytes(gpu.used_bytes)} of ${bytes(gpu.total_bytes)}`, gpu.busy)) : [meter("GPU", "unknown", null)]),
      trouble(system)];
  });
  showRoles(sources);
  const rows = Object.entries(sources).map(([name, s]) => [name, s.error ? [badge("failing", "bad"), ` ${s.error}`] : "fine", isNumber(s.age_ms) ? duration(s.age_ms) : "never"]);
  show("sources", rows.map((row) => [row[0], String(row[1]), row[2]]), () => table("Sources", [["Source", "name"], ["State"], ["Age", "num"]], rows));
}

function showRoles({ training_status: training, daemon: told, inference, skill_servers: skills, system }) {
  const daemon = training.data && training.data.daemon;
  const sign = training.data && training.data.last_sign_ms;
  const server = inference && inference.data;
  const isDown = inference && (inference.error || !server);
  const age = (source) => (source && isNumber(source.age_ms) ? `${duration(source.age_ms)} ago` : "never");
  const rows = [
    ["daemon", daemon ? (daemon.alive ? badge("alive", "good") : badge("not running", "bad")) : badge("unknown"), age(told && told.data && told.data.answers ? told : training),
      [daemon && daemon.holder, isNumber(sign) ? ["worker's last sign ", since(sign)] : null].filter(Boolean).flatMap((part, i) => (i ? ["; ", part] : [part])).flat()],
    ["server", server && server.configured === false ? badge("not watched") : isDown ? badge("does not answer", "bad") : badge(server.ready ? "ready" : "loading", server.ready ? "good" : "warn"), age(inference),
      server && isNumber(server.latency_ms) ? `health in ${server.latency_ms} ms` : "–"],
    ...((skills && skills.data && skills.data.servers) || []).map((skill) =>
      [`skill ${skill.name}`, skill.answers ? badge("alive", "good") : badge("does not answer", "bad"), age(skills), skill.answers ? `health in ${skill.latency_ms} ms` : skill.error]),
    ["monitor", badge("alive", "good"), "now", "this page"],
  ];
  show("roles", [daemon, sign, told && told.age_ms, inference && [inference.error, inference.age_ms], server && server.ready, skills && [skills.data, skills.age_ms], system && system.error], () =>
    table("Roles", [["Role", "name"], ["State"], ["Last heard"], ["More"]], rows));
}

let logRole = null;

async function refreshLogs() {
  try {
    const { logs } = await json("/api/logs?limit=200");
    if (!logs.length) {
      setText("log", "No role has written a log here.");
      return;
    }
    if (!logs.some((log) => log.role === logRole)) logRole = logs[0].role;
    choices("log-roles", logs.map((log) => [log.role, log.role]), logRole, (role) => { logRole = role; refreshLogs(); });
    const chosen = logs.find((log) => log.role === logRole);
    const box = byId("log");
    const atEnd = box.scrollHeight - box.scrollTop - box.clientHeight < 20;
    setText("log", chosen.lines.join("\n"));
    if (atEnd) box.scrollTop = box.scrollHeight;
  } catch (error) {
    setText("log", `Cannot be read: ${error.message}`);
  }
}

// ---- Events ----

const MAX_EVENTS = 500;
const SEVERITIES = [["", "All"], ["warning,error", "Warnings"], ["error", "Errors"]];
let severity = "";
let eventText = "";
let lastEvent = null;
let oldestEvent = null;

function eventItem(entry) {
  const date = new Date(entry.at_ms);
  const time = date.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", second: "2-digit", hour12: false });
  const severe = entry.severity === "info" ? null : h("span", { class: "severity" }, `${entry.severity} `);
  return h("li", { "data-severity": entry.severity },
    h("time", { datetime: date.toISOString(), title: date.toLocaleString() }, time),
    h("span", { class: "tick", "aria-hidden": "true" }),
    h("span", { class: "what", title: `${entry.kind} · ${entry.subject}` }, severe, entry.message));
}

const passes = (entry) => (!severity || severity.split(",").includes(entry.severity))
  && (!eventText || `${entry.kind} ${entry.subject} ${entry.message}`.toLowerCase().includes(eventText.toLowerCase()));

function addEvent(entry) {
  if (!passes(entry)) return;
  const list = byId("events");
  list.prepend(eventItem(entry));
  if (oldestEvent === null) oldestEvent = entry.seq;
  while (list.children.length > MAX_EVENTS) list.lastChild.remove();
  byId("events-empty").hidden = true;
}

/** The newest events that pass the filter, or the page before the oldest one shown. */
async function loadEvents(isOlder) {
  const before = isOlder && oldestEvent !== null ? `&before=${oldestEvent}` : "";
  const { events, next } = await json(`/api/history/events?limit=100&severity=${encodeURIComponent(severity)}&text=${encodeURIComponent(eventText)}${before}`);
  const list = byId("events");
  if (!isOlder) list.replaceChildren();
  for (const entry of events) list.append(eventItem(entry));
  if (events.length) oldestEvent = events[events.length - 1].seq;
  else if (!isOlder) oldestEvent = null;
  if (!isOlder && events.length && !severity && !eventText) lastEvent = Math.max(lastEvent ?? 0, events[0].seq);
  byId("events-older").hidden = next === null;
  byId("events-empty").hidden = list.children.length > 0;
  setText("events-empty", severity || eventText ? "No such event." : "Nothing has happened yet.");
}

function showEventFilters() {
  choices("severities", SEVERITIES, severity, (value) => { severity = value; showEventFilters(); loadEvents(false); });
}

let typing = null;
byId("event-text").addEventListener("input", (event) => {
  clearTimeout(typing);
  typing = setTimeout(() => { eventText = event.target.value; loadEvents(false); }, 250);
});
byId("event-filters").addEventListener("submit", (event) => event.preventDefault());
byId("events-older").addEventListener("click", () => loadEvents(true));

/** Follows the log for ever; goes on after the last event seen when the connection breaks. */
async function followEvents() {
  for (;;) {
    while (isLocked) await sleep(1000);
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
  let id = null;
  for (const line of block.split("\n")) {
    if (line.startsWith("id:")) id = Number(line.slice(3).trim());
    else if (line.startsWith("event:")) kind = line.slice(6).trim();
    else if (line.startsWith("data:")) data += line.slice(5).trim();
  }
  if (kind !== "log" || !data || (id !== null && lastEvent !== null && id <= lastEvent)) return;
  if (id !== null) lastEvent = id;
  addEvent(JSON.parse(data));
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
