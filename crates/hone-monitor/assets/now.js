// The page "Now": what trains, the curve, what waits, what is wrong, what the model answers. And the commands to the daemon.
"use strict";

const STATES = {
  training: "Training", evaluating: "Evaluating", idle: "Idle", paused: "Paused", stopping: "Stopping",
  stalled: "Stalled", dead: "Not running",
};

/** What the header shows on every page. */
function showHeader(source) {
  const data = source.data;
  mainError = source.error;
  const state = data ? data.state : "unknown";
  byId("pill").dataset.state = isAbsent() ? "unknown" : source.error ? "lost" : state;
  setText("pill-text", source.error ? (isAbsent() ? "No workspace" : "Unreadable") : STATES[state] || state);
  setText("model", data && data.model_name ? data.model_name : "");
  document.title = data && data.job && isNumber(data.job.share) && state === "training"
    ? `${Math.floor(data.job.share * 100)} % · hone` : "hone";
}

function showNow({ training_status: source, queue, deployments, inference, datasets, inbox, ...others }) {
  const data = source.data;
  const state = data ? data.state : "unknown";
  const isDead = (!data && !isAbsent()) || state === "dead" || state === "stalled";
  byId("now-title").closest("section").toggleAttribute("data-dead", isDead);
  setText("headline", data ? data.headline : isAbsent() ? "No workspace yet" : "The workspace cannot be read");
  const job = data && data.job;
  const isOpen = Boolean(job && (job.state === "running" || job.state === "queued"));
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
  showControls(data, isOpen);
  showServed(deployments, inference);
  showWaits(queue, inbox, Boolean(data && data.daemon.alive));
  showWrong({ training_status: source, queue, deployments, inference, datasets, inbox, ...others });
  showPreviews(source);
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
    ["Loss", isNumber(progress.loss) ? fixed(progress.loss, 4) : "not finite"],
    ["Step", job.total_steps ? `${count(job.job_step)} / ${count(job.total_steps)}` : count(job.job_step)],
    ["Tokens/s", isLive ? count(progress.tokens_per_s) : "–"],
    ["Time left", isLive && isNumber(job.eta_ms) ? duration(job.eta_ms) : "–"],
    ["Learning rate", rate(progress.learning_rate)],
    ["Memory", isLive ? bytes(progress.memory_bytes) : "–"],
    ["Last report", since(progress.at_ms)],
  ];
  return figures.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value)));
}

// ---- the curve ----

const METRICS = [["loss", "Loss"], ["learning_rate", "Learning rate"], ["grad_norm", "Gradient norm"], ["tokens_per_s", "Tokens/s"], ["memory_bytes", "Memory"]];
const METRIC_FORMATS = { loss: (value) => fixed(value, 4), learning_rate: rate, grad_norm: short, tokens_per_s: count, memory_bytes: bytes };
let metric = "loss";

async function refreshCurve(job) {
  choices("metrics", METRICS, metric, (value) => { metric = value; refreshCurve(job); });
  if (!job) {
    drawChart("curve", { lines: [] });
    setText("curve-note", "No job has been trained yet.");
    return;
  }
  const number = job.id.replace("job-", "");
  const answer = await json(`/api/history/run?job=${number}&metric=${metric}&points=600`);
  const format = METRIC_FORMATS[metric];
  const label = METRICS.find(([value]) => value === metric)[1];
  const old = answer.superseded.map((part) => ({ label: "before a restart", xs: part.steps, ys: part.mean, kind: "old" }));
  const lines = [{ label: `${label} of ${answer.job}`, xs: answer.steps, ys: answer.mean, low: answer.min, high: answer.max, kind: "main", colour: 0 }, ...old];
  setText("curve-title", `Training of ${answer.job}`);
  drawChart("curve", { lines, name: `${label} of ${answer.job}`, format, xLabel: "step", marks: answer.non_finite });
  const notes = [];
  if (answer.num_non_finite) notes.push(`${plural(answer.num_non_finite, "step", "steps")} with a figure that is not finite: ${answer.non_finite.slice(0, 8).map(count).join(", ")}${answer.num_non_finite > 8 ? " …" : ""}.`);
  if (old.length) notes.push("Dashed: steps that were run again after a restart.");
  setText("curve-note", notes.join(" "));
}

// ---- what is served ----

const servedBy = (inference) => inference && inference.data && inference.data.model && inference.data.model.checkpoint;

function showServed(deployments, inference) {
  show("served", [keyOf(deployments), inference && inference.error, servedBy(inference), inference && inference.data && inference.data.configured], () => {
    const targets = (deployments.data && deployments.data.targets) || [];
    const server = inferenceLine(inference, targets);
    if (!targets.length) {
      const served = servedBy(inference);
      return [served ? h("p", { class: "serving-name" }, served) : empty(deployments, "Nothing is served yet."), server, trouble(deployments)];
    }
    return [...targets.map((entry) => targetPart(entry)), server, trouble(deployments)];
  });
}

function targetPart({ target: name, live, pending }) {
  return h("div", { class: "target" },
    h("p", { class: live ? "serving-name" : "serving-name muted" }, live ? live.checkpoint : "Nothing yet"),
    facts([
      live && ["Since", since(live.live_since_ms || live.created_ms)],
      live && ["Why", live.reason || "–"],
      ["Where", name],
    ]),
    pending && note(`${pending.checkpoint} is on its way${pending.tries ? `, try ${pending.tries + 1}` : ""}`));
}

function inferenceLine(inference, targets) {
  if (!inference || (inference.data && inference.data.configured === false)) return null;
  if (inference.error) return note("The inference server does not answer.", "bad");
  const served = servedBy(inference);
  if (inference.data && inference.data.key_refused) return note("The inference server wants a key that this monitor does not have (HONE_READ_KEY).", "warn");
  if (!served) return note("The inference server answers, but serves no model yet.");
  const isKnown = !targets.length || targets.some((t) => t.live && t.live.checkpoint === served);
  return isKnown ? note(`The server confirms: it answers with ${served}.`)
    : note(`The server answers with ${served}, which is not what was deployed.`, "bad");
}

// ---- what waits, what is wrong, previews ----

function showWaits(queue, inbox, isAlive) {
  const data = queue.data;
  const files = (inbox && inbox.data && inbox.data.num_files) || 0;
  setText("waits-note", data ? plural(data.num_open, "open job", "open jobs") : "");
  show("waits", [keyOf(queue), files, isAlive], () => {
    const open = data ? data.open.slice(0, 6) : [];
    return [
      data && data.queue_full && note("The queue is full: arriving files wait in the inbox.", "warn"),
      open.length ? h("ul", { class: "rows" }, open.map((job) => jobRow(job, isAlive))) : empty(queue, "Nothing waits. Drop a JSONL file into inbox/."),
      data && data.num_open > open.length && h("p", { class: "muted small" }, `and ${count(data.num_open - open.length)} more`),
      files > 0 && h("p", { class: "muted small" }, `${plural(files, "file", "files")} in the inbox`),
      trouble(queue)];
  });
}

/** Everything that a person should know or do, worst first. */
function showWrong(sources) {
  const items = [];
  const add = (kind, text, where) => items.push({ kind, text, where });
  const training = sources.training_status.data;
  if (training && training.state === "dead") add("bad", "The daemon is not running. `hone up` starts it.");
  if (training && training.state === "stalled") add("bad", training.headline);
  if (training && training.state === "paused") add("warn", `Training is paused: ${training.detail}`);
  for (const [name, source] of Object.entries(sources)) {
    if (source && source.error && source.error !== mainError) add(source.critical ? "bad" : "warn", `${name}: ${source.error}`, "#system");
  }
  if (mainError && !isAbsent()) add("bad", mainError);
  const daemon = (training && training.daemon.alive && sources.daemon && sources.daemon.data) || {};
  if (daemon.config_error) add("bad", `config.json is not valid, the values of before apply: ${daemon.config_error}`);
  if (daemon.disk_low) add("bad", `The disk is nearly full (${bytes(daemon.free_bytes)} free): nothing new is begun until there is room.`, "#system");
  for (const { what, error, tries } of (daemon.troubles || []).slice(0, 5)) add("warn", `${what}: ${error} (${plural(tries, "try", "tries")})`);
  for (const change of (daemon.config_changes || []).slice(0, 5)) add("warn", `config.json was changed; the next job takes it: ${change}`);
  for (const server of ((sources.skill_servers && sources.skill_servers.data) || { servers: [] }).servers) if (!server.answers) add("warn", `The skill server ${server.name} does not answer: ${server.error}`, "#system");
  const rejected = (sources.datasets.data && sources.datasets.data.rejected) || [];
  for (const file of rejected.slice(0, 3)) add("warn", `${file.file_name} was refused: ${file.reasons[0] || "see its report"}`, "#data");
  const failed = ((sources.queue.data && sources.queue.data.ended) || []).filter((job) => job.state === "failed");
  for (const job of failed.slice(0, 3)) add("bad", `${job.id} failed: ${job.reason}`, "#data");
  const lost = ((sources.deployments.data && sources.deployments.data.items) || []).filter((item) => item.state === "failed");
  for (const item of lost.slice(0, 2)) add("warn", `${item.checkpoint} could not be deployed to ${item.target}: ${item.error}`, "#serving");
  for (const warning of ((training && training.warnings) || []).slice(-3).reverse()) add("warn", warning.message);
  show("wrong", items, () => items.length
    ? h("ul", { class: "rows wrong" }, items.map(({ kind, text, where }) => h("li", {},
      badge(kind === "bad" ? "act" : "look", kind), " ", where ? h("a", { href: where }, text) : text)))
    : h("p", { class: "empty" }, "Nothing that we know of."));
}

function showPreviews(source) {
  const previews = ((source.data && source.data.previews) || []).slice().reverse();
  byId("previews-card").hidden = !previews.length;
  show("previews", previews, () => h("ul", { class: "rows" }, previews.map((preview) => {
    const isRight = preview.answer.trim() === preview.expected.trim();
    return h("li", {},
      h("div", { class: "row-head" }, h("span", {}, badge(isRight ? "as expected" : "different", isRight ? "good" : null)),
        h("span", { class: "muted" }, `step ${count(preview.step)}`)),
      h("dl", { class: "preview" },
        h("dt", {}, "Asked"), h("dd", {}, preview.prompt), h("dt", {}, "Answered"), h("dd", {}, preview.answer || "(nothing)"),
        h("dt", {}, "Right answer"), h("dd", {}, preview.expected)));
  })));
}

// ---- commands ----

let session = { control: "off", chat: "off" };

async function refreshSession() {
  try {
    session = await json("/api/session");
  } catch (error) {
    session = { control: "off", chat: "off" };
  }
}

/** Asks, sends one command to the daemon and says what it answered. */
async function command(body, question) {
  if (session.control === "key_required" && !(await unlock())) return;
  const answer = await ask(question);
  if (answer === null) return;
  const response = await post("/api/control", { command: body(answer) });
  if (response.ok) toast((await response.json()).message);
  else toast(await refusal(response), "bad");
}

async function unlock() {
  const key = await ask({ title: "Commands want the admin key", text: "It is kept in this tab only.", yes: "Unlock", field: "Admin key", isSecret: true, isRequired: true });
  if (!key) return false;
  sessionStorage.setItem("hone-key", key);
  await refreshSession();
  if (session.control !== "open") toast("That is not the admin key.", "bad");
  return session.control === "open";
}

function toast(text, kind) {
  const old = document.querySelector(".toast");
  if (old) old.remove();
  const element = h("p", { class: kind ? `toast ${kind}` : "toast", role: "status" }, text);
  document.body.append(element);
  setTimeout(() => element.remove(), 6000);
}

const byPage = "by hand, on the dashboard";
const withReason = (name) => (reason) => ({ command: name, reason: reason || byPage });
const reasonField = { field: "Why", value: "" };

const COMMANDS = {
  pause: () => command(withReason("pause"), { title: "Pause training?", text: "It writes a checkpoint at the next step and frees the device.", yes: "Pause", ...reasonField }),
  resume: () => command(() => ({ command: "resume" }), { title: "Go on training?", yes: "Resume" }),
  skip: () => command(withReason("skip"), { title: "Skip the running job?", text: "It ends at its next checkpoint; what it has learnt stays.", yes: "Skip", ...reasonField }),
};

function showControls(data, isOpen) {
  const mode = data && data.control ? data.control.mode : null;
  const isAlive = Boolean(data && data.daemon.alive);
  show("controls", [session.control, mode, isAlive, isOpen], () => {
    if (session.control === "off") return [h("p", { class: "muted small" }, "This page only reads: no admin key is configured.")];
    if (!isAlive) return [];
    const button = (name, text) => h("button", { type: "button", class: "quiet", onclick: COMMANDS[name] }, text);
    return [
      mode === "running" ? button("pause", "Pause") : null,
      mode === "paused" ? button("resume", "Resume") : null,
      isOpen ? button("skip", "Skip this job") : null,
      session.control === "key_required" ? h("span", { class: "muted small" }, "wants the admin key") : null,
    ];
  });
}
