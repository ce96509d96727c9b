// Which page is open, and the loop: /api/unified about once a second, /api/events all the time, curves when they are seen.
"use strict";

const REFRESH_MS = 1000;
const HIDDEN_REFRESH_MS = 10000;
const PAGES = ["now", "data", "checkpoints", "skills", "serving", "system", "events"];
const SLOW_EVERY = 3;

let page = null;
let lastUnified = null;
let lastAnswer = null;
let isLocked = false;
let turn = 0;

function openPage() {
  const wanted = location.hash.slice(1);
  const next = PAGES.includes(wanted) ? wanted : "now";
  if (next === page) return;
  const isFirst = page === null;
  page = next;
  for (const name of PAGES) {
    byId(`page-${name}`).hidden = name !== page;
    const tab = byId(`tab-${name}`);
    if (name === page) tab.setAttribute("aria-current", "page"); else tab.removeAttribute("aria-current");
  }
  byId(`tab-${page}`).scrollIntoView({ block: "nearest", inline: "center" });
  if (!isFirst) window.scrollTo(0, 0);
  if (page === "events") { showEventFilters(); loadEvents(false).catch(() => {}); }
  if (page === "serving") showChat();
  redraw();
}

/** Draws the open page anew, also what has not changed: its size or colours have. */
function redraw() {
  shown.clear();
  suitesKey = null;
  filesKey = null;
  if (lastUnified) render(lastUnified);
  slow();
}

function render({ sources, version }) {
  showHeader(sources.training_status);
  rememberTraffic(sources.inference);
  const rejected = (sources.datasets.data && sources.datasets.data.counts.rejected) || 0;
  byId("count-data").hidden = !rejected;
  setText("count-data", rejected ? ` ${count(rejected)} refused` : "");
  if (page === "now") showNow(sources);
  if (page === "data") showData(sources);
  if (page === "checkpoints") showCheckpoints(sources);
  if (page === "skills") showSkills(sources);
  if (page === "serving") showServing(sources);
  if (page === "system") showSystem(sources);
  setText("version", `hone ${version}`);
  for (const element of document.querySelectorAll("[data-since]")) {
    const text = ago(Number(element.dataset.since));
    if (element.textContent !== text) element.textContent = text;
  }
}

/** What is asked for less often. */
async function slow() {
  try {
    const training = lastUnified && lastUnified.sources.training_status.data;
    if (page === "now" && lastUnified) await refreshCurve(training && training.job);
    if (page === "system") await refreshLogs();
  } catch (error) {
    // The banner tells when the monitor is gone; a curve that cannot be read stays as it was.
  }
}

async function refresh() {
  try {
    const unified = await json("/api/unified");
    clockSkewMs = unified.at_ms - Date.now();
    lastAnswer = Date.now();
    wantKey(false);
    lost(null);
    const isFirst = lastUnified === null;
    lastUnified = unified;
    render(unified);
    if (isFirst || turn % SLOW_EVERY === 0) await slow();
    if (turn % 10 === 0) await refreshSession();
    turn += 1;
  } catch (error) {
    if (error instanceof KeyWanted) return wantKey(true);
    const when = lastAnswer ? ` Shown is what it said at ${new Date(lastAnswer).toLocaleTimeString()}.` : "";
    lost(`The monitor does not answer.${when}`);
  }
}

function lost(message) {
  byId("banner").hidden = !message;
  document.body.toggleAttribute("data-lost", Boolean(message));
  if (message) {
    setText("banner", message);
    byId("pill").dataset.state = "lost";
    setText("pill-text", "Disconnected");
  }
}

function wantKey(isWanted) {
  byId("key-note").hidden = !isWanted || !sessionStorage.getItem("hone-key");
  isLocked = isWanted;
  byId("key-form").hidden = !isWanted;
  byId("main").hidden = isWanted;
  document.querySelector(".tabs").hidden = isWanted;
  if (isWanted) { byId("pill").dataset.state = "unknown"; setText("pill-text", "Locked"); }
}

byId("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem("hone-key", byId("key").value);
  byId("key").value = "";
  refresh();
});
window.addEventListener("hashchange", openPage);

async function main() {
  openPage();
  onResize(redraw);
  refreshSession();
  followEvents();
  for (;;) {
    if (!isLocked) await refresh();
    await sleep(document.hidden ? HIDDEN_REFRESH_MS : REFRESH_MS);
  }
}

main();
