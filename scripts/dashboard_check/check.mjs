// See `run`. Every check says what it found; the first that fails ends the run with 1.
import { spawn, execFileSync } from "node:child_process";
import { createRequire } from "node:module";
import fs from "node:fs";
import net from "node:net";
import path from "node:path";

const { HONE, WORK, OUT, CHROMIUM, FILL, MODULES, ACCESSIBILITY, UPDATE } = process.env;
const require = createRequire(path.join(MODULES, "x"));
const { chromium } = require("playwright-core");
const axeSource = fs.readFileSync(require.resolve("axe-core/axe.min.js"), "utf8");

const PAGES = ["now", "data", "checkpoints", "skills", "serving", "system", "events"];
const HOSTILE = `<img src=x onerror="window.broken=1">.jsonl`;
const ADMIN_KEY = "the-admin-key";
/** How long the browser may take for anything that has no limit of its own. */
const GENEROUS_MS = 180000;
const root = path.join(WORK, "root");
const children = [];

const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const say = (text) => console.log(`   ${text}`);
const step = (text) => console.log(`== ${text}`);
function check(isRight, text) {
  if (!isRight) throw new Error(text);
  say(text);
}

async function until(what, limitMs, test) {
  const start = Date.now();
  for (;;) {
    const found = await test();
    if (found) return { found, ms: Date.now() - start };
    if (Date.now() - start > limitMs) throw new Error(`${what}: not within ${limitMs} ms`);
    await sleep(50);
  }
}

function freePort() {
  return new Promise((resolve) => {
    const server = net.createServer().listen(0, "127.0.0.1", () => {
      const { port } = server.address();
      server.close(() => resolve(port));
    });
  });
}

function start(...args) {
  const log = fs.openSync(path.join(WORK, `${args[0]}.log`), "a");
  const child = spawn(HONE, ["--root", root, ...args], { stdio: ["pipe", log, log], env: { ...process.env, HONE_ADMIN_KEY: ADMIN_KEY } });
  children.push(child);
  return child;
}

function rows(count, from = 0) {
  return Array.from({ length: count }, (_, n) => n + from).map((i) => JSON.stringify({ messages: [
    { role: "user", content: `What comes after ${i}?` }, { role: "assistant", content: `${i + 1} comes after ${i}.` }] })).join("\n") + "\n";
}

async function openPage(browser, url, options = {}) {
  const context = await browser.newContext({ viewport: { width: 1280, height: 900 }, ...options });
  context.setDefaultTimeout(GENEROUS_MS);
  const page = await context.newPage();
  const problems = [];
  page.on("console", (message) => message.type() === "error" && problems.push(`console: ${message.text()}`));
  page.on("pageerror", (error) => problems.push(`page: ${error}`));
  page.on("request", (request) => { if (!request.url().startsWith(url) && !request.url().startsWith("data:")) problems.push(`request to ${request.url()}`); });
  return { context, page, problems };
}

/** Rows to train on: enough steps that training goes on until the daemon is killed. */
const ROWS = 60000;

const headline = (page) => page.textContent("#headline");

/** What a screen reader finds to go to: roles and names that do not change with the data, once each, in their order. */
function outline(snapshot) {
  const lasting = snapshot.split("\n").map((line) => line.trim().replace(/:.*$/, "").replaceAll(/\d+/g, "N"))
    .filter((line) => /^- (region|heading|group|table|columnheader|textbox|searchbox|log) /.test(line) && !/checkpoint-N|job-N|level N|: N/.test(line));
  return [...new Set(lasting)].join("\n");
}

/** The outline of a page when all of it is there: a slice's answers are shown from its first preview on. */
async function wholeOutline(page, name) {
  const whole = async () => {
    const found = outline(await page.locator("#main").ariaSnapshot());
    return (name !== "now" || found.includes("What it answers")) && found;
  };
  return (await until(`all parts of the page ${name}`, GENEROUS_MS, whole)).found;
}

function sameOutlines(trees) {
  const found = trees.join("\n");
  if (UPDATE) fs.writeFileSync(ACCESSIBILITY, found);
  const wanted = fs.readFileSync(ACCESSIBILITY, "utf8");
  if (found !== wanted) {
    fs.writeFileSync(path.join(OUT, "accessibility.txt"), found);
    const lines = (text) => new Set(text.split("\n"));
    const only = (a, b) => [...lines(a)].filter((line) => !lines(b).has(line));
    throw new Error(`the accessibility tree differs from accessibility.txt (UPDATE=1 rewrites it).\nmissing: ${only(wanted, found).join("; ")}\nnew: ${only(found, wanted).join("; ")}`);
  }
  say(`the accessibility tree of ${trees.length} pages is as written down`);
}

async function looks(browser, url) {
  step("every page, at 1280 and 400 pixels, light and dark");
  const trees = [];
  for (const [width, colorScheme] of [[1280, "light"], [1280, "dark"], [400, "light"], [400, "dark"]]) {
    const { context, page, problems } = await openPage(browser, url, { viewport: { width, height: 900 }, colorScheme, bypassCSP: true });
    for (const name of PAGES) {
      await page.goto(`${url}/#${name}`);
      await page.waitForFunction((name) => !document.getElementById(`page-${name}`).hidden && document.getElementById("version").textContent, name);
      await sleep(500);
      const tooWide = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
      if (tooWide > 0) throw new Error(`${name} at ${width} px is ${tooWide} px too wide`);
      await page.evaluate(axeSource);
      const found = await page.evaluate(() => window.axe.run(document, { resultTypes: ["violations"] }));
      const serious = found.violations.filter((v) => ["serious", "critical"].includes(v.impact));
      if (serious.length) throw new Error(`${name} at ${width} ${colorScheme}: ${serious.map((v) => `${v.id}: ${v.nodes.map((n) => n.target.join(" ") + " " + n.failureSummary).slice(0, 3).join("; ")}`).join("\n")}`);
      await page.screenshot({ path: path.join(OUT, `${name}-${width}-${colorScheme}.png`), fullPage: true });
      if (width === 1280 && colorScheme === "light") trees.push(`# ${name}\n${await wholeOutline(page, name)}\n`);
    }
    if (problems.length) throw new Error(problems.join("\n"));
    say(`${width} px ${colorScheme}: nothing too wide, nothing leaves the origin, console silent, axe finds nothing serious`);
    await context.close();
  }
  sameOutlines(trees);
}

/** The newest step that a worker wrote down. */
function newestStep() {
  const runs = path.join(root, "runs");
  let newest = 0;
  for (const job of fs.readdirSync(runs).filter((name) => name.startsWith("job-"))) {
    for (const lease of fs.readdirSync(path.join(runs, job))) {
      const file = path.join(runs, job, lease, "events.jsonl");
      if (!fs.existsSync(file)) continue;
      for (const line of fs.readFileSync(file, "utf8").split("\n")) {
        if (line.includes('"type":"step"')) newest = Math.max(newest, JSON.parse(line).job_step);
      }
    }
  }
  return newest;
}

async function live(browser, url) {
  step("live");
  const { context, page } = await openPage(browser, url);
  await page.goto(`${url}/#now`);
  await until("the page shows training", 30000, async () => (await headline(page)).startsWith("Training job-"));
  const shownStep = async () => Number(((await page.textContent("#stats")).match(/Step([\d,]+) \//) || ["", "0"])[1].replaceAll(",", ""));
  await until("a first step on the page", 60000, async () => (await shownStep()) > 0);
  // A machine that has a slow moment gets two more tries; the way there is the same each time.
  const waits = [];
  while (waits.length < 3 && !(waits.at(-1) <= 2000)) {
    const written = newestStep();
    waits.push((await until(`step ${written} on the page`, 15000, async () => (await shownStep()) >= written)).ms);
  }
  check(waits.at(-1) <= 2000, `a step was on the page within 2000 ms after it was found in the worker's file: ${waits.join(", ")} ms`);
  await until("the curve", 10000, async () => page.$("#curve canvas"));
  const name = await page.getAttribute("#curve [role=img]", "aria-label");
  check(/Loss of job-\d+ from [\d.]+ at step \d+ to/.test(name), `the curve has a name for screen readers: ${name}`);
  await context.close();
}

async function commands(browser, url) {
  step("commands");
  const refused = await fetch(`${url}/api/control`, { method: "POST", headers: { "content-type": "application/json" }, body: `{"command":{"command":"pause","reason":"x"}}` });
  check(refused.status === 401, "a command without the key is refused");
  const { context, page, problems } = await openPage(browser, url);
  await page.goto(`${url}/#now`);
  await page.getByRole("button", { name: "Pause" }).click();
  await page.fill("#ask-input", "wrong");
  await page.click("#ask-yes");
  await page.getByText("That is not the admin key.").waitFor();
  await page.getByRole("button", { name: "Pause" }).click();
  await page.fill("#ask-input", ADMIN_KEY);
  await page.keyboard.press("Enter");
  await page.getByRole("heading", { name: "Pause training?" }).waitFor();
  await page.fill("#ask-input", "to look at it");
  await page.keyboard.press("Enter");
  await until("paused", 60000, async () => (await headline(page)) === "Paused");
  check((await page.textContent("#detail")).includes("to look at it"), "paused from the page, with its reason");
  await truth(page, url);
  await page.getByRole("button", { name: "Resume" }).click();
  await page.click("#ask-yes");
  await until("training again", 60000, async () => (await headline(page)).startsWith("Training"));
  say("resumed from the page");
  const rest = problems.filter((problem) => !problem.includes("401"));
  if (rest.length) throw new Error(rest.join("\n"));
  await context.close();
}

/** While nothing moves: what the page says is what the API says. */
async function truth(page, url) {
  const { sources } = await (await fetch(`${url}/api/unified`)).json();
  const { job, progress, previews } = sources.training_status.data;
  const stats = Object.fromEntries(await page.$$eval("#stats > div", (parts) => parts.map((part) => [part.querySelector("dt").textContent, part.querySelector("dd").textContent])));
  const same = (what, shown, told) => { if (shown !== told) throw new Error(`${what}: the page says ${shown}, the API ${told}`); };
  const count = (value) => Math.round(value).toLocaleString("en");
  same("loss", stats.Loss, progress.loss.toFixed(4));
  same("step", stats.Step, `${count(job.job_step)} / ${count(job.total_steps)}`);
  same("previews", await page.$$eval("#previews li", (items) => items.length), previews.length);
  await page.goto(`${url}/#checkpoints`);
  await page.waitForSelector("#checkpoints tbody tr");
  const { checkpoints } = (await (await fetch(`${url}/api/unified`)).json()).sources;
  const shown = await page.$$eval("#checkpoints tbody tr", (rows) => rows.map((row) => [...row.querySelectorAll("td")].map((cell) => cell.textContent)));
  checkpoints.data.items.forEach((item, i) => {
    if (!shown[i][0].startsWith(item.id)) throw new Error(`row ${i} is ${shown[i][0]} on the page and ${item.id} by the API`);
    for (const suite of (item.evaluation && item.evaluation.suites) || []) {
      if (typeof suite.mean_nll === "number" && !shown[i][2].includes(suite.mean_nll.toFixed(4))) throw new Error(`${item.id}: ${shown[i][2]} on the page, ${suite.mean_nll} by the API`);
    }
  });
  await page.goto(`${url}/#data`);
  await page.waitForSelector("#queue li");
  const { queue } = (await (await fetch(`${url}/api/unified`)).json()).sources;
  const jobs = await page.$$eval("#queue li", (items) => items.map((item) => item.textContent));
  for (const [i, job] of queue.data.open.entries()) if (!jobs[i].includes(job.waits_for)) throw new Error(`${job.id} waits for ${job.waits_for} by the API; the page: ${jobs[i]}`);
  await page.goto(`${url}/#now`);
  await until("the page Now", 10000, async () => (await headline(page)) === "Paused");
  say(`figures of the step, ${shown.length} checkpoints and ${queue.data.open.length} waiting jobs are those of the API`);
}

async function hostile(browser, url) {
  step("hostile names");
  fs.writeFileSync(path.join(root, "inbox", "high", HOSTILE), `{"messages":[{"role":"user","content":"<script>window.broken=2</script>"}]}\n`);
  const { context, page } = await openPage(browser, url);
  await page.goto(`${url}/#data`);
  const row = page.locator("#files li", { hasText: HOSTILE }).first();
  await row.waitFor({ timeout: 60000 });
  await row.locator("summary", { hasText: "Report" }).click();
  await row.locator(".report table").waitFor({ timeout: 10000 });
  for (const name of PAGES) {
    await page.goto(`${url}/#${name}`);
    await sleep(300);
  }
  check((await page.evaluate(() => window.broken)) === undefined, "a file name and rows with markup stay text");
  await context.close();
}

async function rowsAsTrained(browser, url) {
  step("rows as they are trained");
  const { context, page, problems } = await openPage(browser, url);
  await page.goto(`${url}/#data`);
  const rows = page.locator("#files > ul > li", { hasText: "numbers.jsonl" }).first().locator("details", { hasText: "Rows as they are trained" });
  await rows.locator("summary").click();
  await rows.locator(".tokens").waitFor({ timeout: 30000 });
  const texts = async () => {
    const [all, trained] = await rows.locator(".tokens").evaluate((box) => [box.textContent, [...box.querySelectorAll("mark")].map((mark) => mark.textContent).join("")]);
    return { all, trained };
  };
  const first = await texts();
  check(first.all.includes("What comes after 0?") && first.trained.startsWith("1 comes after 0.") && !first.trained.includes("What"), `of the first row is trained: ${JSON.stringify(first.trained)}`);
  await rows.getByRole("button", { name: "The next line" }).press("Enter");
  const { found } = await until("the second row", 30000, async () => { const now = await texts(); return now.all !== first.all && now; });
  check(found.trained.startsWith("2 comes after 1."), "by keyboard to the next row");
  await page.screenshot({ path: path.join(OUT, "rows-1280-light.png"), fullPage: true });
  await rows.locator("input").fill(String(ROWS + 1));
  await rows.locator("input").press("Enter");
  await rows.getByText(`line ${ROWS + 1} cannot be shown`).waitFor({ timeout: 30000 });
  say("a row that is not there is told");
  // From a finding to its row.
  const refused = page.locator("#files > ul > li", { hasText: HOSTILE }).first();
  await refused.locator("summary", { hasText: "Report" }).click();
  await refused.locator("button.link").first().click({ timeout: 10000 });
  await refused.locator(".row-view .note").waitFor({ timeout: 30000 });
  check((await page.evaluate(() => window.broken)) === undefined, "the line of a finding leads to its row, and markup in it stays text");
  const rest = problems.filter((problem) => !problem.includes("422"));
  if (rest.length) throw new Error(rest.join("\n"));
  await context.close();
}

/** A job of 100,000 steps, some of whose losses are no numbers. */
async function longCurve(browser, url) {
  step("a curve of 100,000 steps with figures that are not finite");
  const { sources } = await (await fetch(`${url}/api/unified`)).json();
  const folder = path.join(root, "runs", sources.training_status.data.job.id);
  const newest = fs.readdirSync(folder).sort((a, b) => Number(a.slice(6)) - Number(b.slice(6))).pop();
  const file = path.join(folder, newest, "events.jsonl");
  // The worker outlives its daemon for a moment, and a step of its own after these would make all of them an older attempt.
  let size = -1;
  while (size !== fs.statSync(file).size) {
    size = fs.statSync(file).size;
    await sleep(3000);
  }
  const last = newestStep();
  const token = Number(newest.slice(6));
  const line = (n) => JSON.stringify({ token, type: "step", step: n, job_step: n, total_steps: 200000, loss: n % 1000 ? 2 + Math.sin(n / 5000) : null,
    learning_rate: 0.001, grad_norm: 1, tokens_per_s: 900, trained_tokens_per_s: 400, memory_bytes: 1e8, at_ms: Date.now() });
  fs.appendFileSync(file, "\n" + Array.from({ length: 100000 }, (_, i) => line(last + 1 + i)).join("\n") + "\n");
  const { context, page, problems } = await openPage(browser, url);
  await page.goto(`${url}/#now`);
  const { ms } = await until("the marks", 30000, async () => /^1?\d{2} steps with a figure that is not finite/.test(await page.textContent("#curve-note")));
  const name = await page.getAttribute("#curve [role=img]", "aria-label");
  check(!/NaN|Infinity|null/.test(name), `drawn ${ms} ms after the page was opened, the marks told: ${name}`);
  const frames = await page.evaluate(async () => {
    const box = document.querySelector("#curve .u-over").getBoundingClientRect();
    const over = document.querySelector("#curve .u-over");
    const times = [];
    for (let i = 0; i < 60; i += 1) {
      const started = performance.now();
      over.dispatchEvent(new MouseEvent("mousemove", { clientX: box.left + (box.width * i) / 60, clientY: box.top + 20, bubbles: true }));
      await new Promise(requestAnimationFrame);
      times.push(performance.now() - started);
    }
    return times.sort((a, b) => a - b);
  });
  check(frames[30] < 50, `the cursor moves over it in ${frames[30].toFixed(1)} ms a frame (median)`);
  await page.screenshot({ path: path.join(OUT, "long-curve-1280-light.png") });
  if (problems.length) throw new Error(problems.join("\n"));
  await context.close();
}

async function chat(browser, url) {
  step("chat");
  const { context, page } = await openPage(browser, url);
  await page.goto(`${url}/#serving`);
  await page.evaluate((key) => sessionStorage.setItem("hone-key", key), ADMIN_KEY);
  await page.fill("#chat-text", "What comes after 5?");
  await page.keyboard.press("Enter");
  const stamp = page.locator("#chat .bubble.assistant .small");
  await until("the whole answer", 60000, async () => (await page.textContent("#chat-send")) === "Send" && (await page.$("#chat .bubble.assistant")));
  if (!(await stamp.count())) throw new Error(`no stamped answer: ${await page.textContent("#chat")}`);
  check((await stamp.textContent()).startsWith("checkpoint-"), `an answer came, stamped ${await stamp.textContent()}`);
  await context.close();
}

/** Sends a signal to the process that trains; slices of training are processes of their own, so it may just be gone. */
async function signalWorker(daemon, signal) {
  const { found } = await until(`a worker to send ${signal} to`, 60000, () => {
    try {
      const pid = Number(execFileSync("pgrep", ["-P", String(daemon.pid), "-f", " child train"], { encoding: "utf8" }).trim().split("\n")[0]);
      process.kill(pid, signal);
      return pid;
    } catch (error) {
      return null;
    }
  });
  return found;
}

async function death(browser, url, daemon) {
  step("a silent worker, a killed worker, a killed daemon");
  // Enough to train on, however long everything before this took.
  fs.writeFileSync(path.join(root, "inbox", "more.jsonl"), rows(ROWS, 2000000));
  const { context, page } = await openPage(browser, url);
  await page.goto(`${url}/#now`);
  await until("training", 60000, async () => (await headline(page)).startsWith("Training"));
  const worker = await signalWorker(daemon, "SIGSTOP");
  const stopped = await until("the page says that the worker is silent", 10000, async () => (await headline(page)).startsWith("No sign of life"));
  say(`a stopped worker is shown as silent after ${stopped.ms} ms`);
  process.kill(worker, "SIGCONT");
  await until("training again", 60000, async () => (await headline(page)).startsWith("Training"));
  const { last } = await newestEvent(url);
  await signalWorker(daemon, "SIGKILL");
  const told = await until("an event tells of the killed worker", 10000, async () => (await newestEvent(url, last)).told);
  say(`a killed worker is told after ${told.ms} ms: ${told.found}`);
  await until("training again", 60000, async () => (await headline(page)).startsWith("Training"));
  daemon.kill("SIGKILL");
  const { ms } = await until("the page says so", 10000, async () => (await headline(page)) === "The daemon is not running");
  check((await page.textContent("#pill-text")) === "Not running", `shown as not running after ${ms} ms`);
  check((await page.textContent("#wrong")).includes("hone up"), "and what to do about it");
  await context.close();
}

/** The number of the newest event, and what was told as a warning or worse after another one. */
async function newestEvent(url, after = Infinity) {
  const { events } = await (await fetch(`${url}/api/history/events?limit=50`)).json();
  const told = events.find((event) => event.seq > after && event.severity !== "info");
  return { last: Math.max(...events.map((event) => event.seq)), told: told && told.message };
}

async function bulk(browser, url) {
  step("5,000 jobs, 10,000 checkpoints, 100,000 events");
  execFileSync("python3", [FILL, path.join(root, "hone.db"), "5000", "10000", "100000"]);
  const { context, page, problems } = await openPage(browser, url);
  // The first look after such a change parses all of it: until then the page shows what it knew, with its age.
  const { ms } = await until("the monitor knows all of it", 60000, async () => {
    const { sources } = await (await fetch(`${url}/api/unified`)).json();
    return sources.checkpoints.data && sources.checkpoints.data.total > 10000 && !sources.checkpoints.error;
  });
  say(`read by the monitor ${ms} ms after it was asked`);
  for (const name of ["now", "checkpoints", "events"]) {
    await page.goto("about:blank");
    await page.goto(`${url}/#${name}`);
    // Figures of a step are no sign: whether the newest job has one depends on when the daemon was killed.
    const ready = name === "now" ? "#waits li" : name === "checkpoints" ? "#checkpoints tr" : "#events li";
    await page.waitForSelector(ready, { timeout: 10000 });
    const paint = await page.evaluate(() => performance.getEntriesByName("first-contentful-paint")[0].startTime);
    const filled = await page.evaluate(() => performance.now());
    check(paint < 1000, `${name}: first paint after ${Math.round(paint)} ms, filled after ${Math.round(filled)} ms`);
  }
  await page.goto(`${url}/#checkpoints`);
  await page.waitForSelector("#suite-curve canvas");
  const mib = await page.evaluate(() => performance.memory.usedJSHeapSize / 1048576);
  check(mib < 100, `the page holds ${Math.round(mib)} MiB`);
  if (problems.length) throw new Error(problems.join("\n"));
  await context.close();
}

async function main() {
  step("a workspace with a tiny model");
  execFileSync(HONE, ["--root", root, "init", "--tiny"], { stdio: ["ignore", "ignore", "inherit"] });
  const [serve, monitor] = [await freePort(), await freePort()];
  const common = ["--set", `serve.listen=127.0.0.1:${serve}`, "--set", `monitor.listen=127.0.0.1:${monitor}`,
    "--set", "save_steps=60", "--set", "preview_steps=20", "--set", "learning_rate=0.001", "--set", "queue.settle_sec=0.2", "--set", "max_length=128",
    // A checkpoint that is a little worse must not pause this training.
    "--set", "promotion.on_regression=continue"];
  // Other numbers than those that are trained, and a row of markup that previews will show.
  const markup = JSON.stringify({ messages: [{ role: "user", content: `<img src=x onerror="window.broken=3">` }, { role: "assistant", content: "<b onclick=alert(1)>bold</b>" }] });
  fs.writeFileSync(path.join(root, "validation", "held-out.jsonl"), markup + "\n" + rows(12, 1000000));
  start("serve", ...common);
  start("monitor", ...common);
  const daemon = start("daemon", ...common);
  const url = `http://127.0.0.1:${monitor}`;
  await until("the monitor answers", 30000, () => fetch(`${url}/api/health`).then(() => true, () => false));
  fs.writeFileSync(path.join(root, "inbox", "numbers.jsonl"), rows(ROWS));
  const browser = await chromium.launch({ executablePath: CHROMIUM, args: [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--enable-precise-memory-info"] });
  await live(browser, url);
  await commands(browser, url);
  await hostile(browser, url);
  await rowsAsTrained(browser, url);
  await until("a checkpoint is served", 120000, async () => {
    const { sources } = await (await fetch(`${url}/api/unified`)).json();
    return sources.deployments.data && sources.deployments.data.targets.some((target) => target.live);
  });
  await chat(browser, url);
  await looks(browser, url);
  await death(browser, url, daemon);
  await longCurve(browser, url);
  await bulk(browser, url);
  await browser.close();
  console.log("== dashboard check: passed");
}

main().then(() => 0, (error) => { console.error(`dashboard check: ${error.message}`); return 1; }).then(async (code) => {
  for (const child of children) child.kill("SIGTERM");
  await sleep(500);
  for (const child of children) child.kill("SIGKILL");
  process.exit(code);
});
