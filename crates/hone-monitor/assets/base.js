// What every part of the page uses: building elements, words and numbers, requests, the key.
// Text from the workspace reaches the page through textContent only.
"use strict";

const byId = (id) => document.getElementById(id);

// ---- building the page ----

/** An element with attributes and children (nodes or texts; null and false are left out). */
function h(tag, attributes, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "onclick" || name === "ontoggle") element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  for (const child of children.flat()) {
    if (child === null || child === undefined || child === false) continue;
    element.append(child instanceof Node ? child : document.createTextNode(String(child)));
  }
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

/** Buttons of which one is chosen. */
function choices(id, items, chosen, choose) {
  show(id, [items, chosen], () => items.map(([value, label]) =>
    h("button", { type: "button", class: "choice", "aria-pressed": String(value === chosen), onclick: () => choose(value) }, label)));
}

/** A table that becomes a list of cards on a narrow screen. Columns: [title, class]; rows: lists of contents. */
function table(label, columns, rows) {
  const header = columns.map(([title, kind]) => h("th", { scope: "col", role: "columnheader", class: kind || null }, title));
  const body = rows.map((cells) => h("tr", { role: "row" }, cells.map((content, i) => {
    const isEmpty = content === null || content === undefined || content === "";
    const kind = [columns[i][1], isEmpty && "empty-cell"].filter(Boolean).join(" ");
    return h("td", { role: "cell", "data-label": columns[i][0], class: kind || null }, content);
  })));
  return h("table", { role: "table", "aria-label": label },
    h("thead", { role: "rowgroup" }, h("tr", { role: "row" }, header)), h("tbody", { role: "rowgroup" }, body));
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

/** At most about five digits, whatever the size. */
function short(value) {
  if (!isNumber(value)) return "–";
  const size = Math.abs(value);
  if (size !== 0 && (size < 0.001 || size >= 1e6)) return value.toExponential(2).replace(/e([+-])0*/, "e$1");
  return String(Number(value.toPrecision(5)));
}

// ---- small pieces ----

function badge(text, kind) { return h("span", { class: kind ? `badge ${kind}` : "badge" }, text); }

function note(text, kind) { return h("p", { class: kind ? `note ${kind}` : "note" }, text); }

/** What the first card says already is not said again by every other one. */
let mainError = null;
const isAbsent = () => /no workspace/.test(mainError || "");

/** A line for a source that could not be read, or nothing. */
function trouble(source) {
  if (!source || !source.error || source.error === mainError) return null;
  const age = isNumber(source.age_ms) ? `. Shown is what it said ${duration(source.age_ms)} ago.` : "";
  return note(`Cannot be read: ${source.error}${age}`, "warn");
}

/** What an empty part says: why it is empty, or that nobody knows. */
const empty = (source, text) => h("p", { class: "empty" }, source.data || isAbsent() ? text : "Not known.");

/** What a part shows of a source: its data, and its error without the running age. */
const keyOf = (source) => [source && source.data, source && source.error, mainError];

const facts = (pairs) => h("dl", { class: "facts" },
  pairs.filter(Boolean).map(([term, value]) => h("div", {}, h("dt", {}, term), h("dd", {}, value))));

// ---- requests ----

const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

class KeyWanted extends Error {}

function keyHeaders() {
  const key = sessionStorage.getItem("hone-key");
  return key ? { Authorization: `Bearer ${key}` } : {};
}

async function call(path, headers = {}) {
  const response = await fetch(path, { headers: { ...headers, ...keyHeaders() }, cache: "no-store" });
  if (response.status === 401) throw new KeyWanted();
  if (!response.ok) throw new Error(await refusal(response));
  return response;
}

const json = async (path) => (await call(path)).json();

async function post(path, body) {
  const headers = { "Content-Type": "application/json", ...keyHeaders() };
  return fetch(path, { method: "POST", headers, body: JSON.stringify(body), cache: "no-store" });
}

/** The sentence of a refused request. */
async function refusal(response) {
  try {
    return (await response.json()).error.message;
  } catch (error) {
    return `HTTP ${response.status}`;
  }
}

// ---- questions to the person ----

/** Asks before something is done. Resolves to the text of the field (or true without one), or to null. */
function ask({ title, text, yes, field, isSecret, isRequired, value }) {
  const dialog = byId("ask");
  setText("ask-title", title);
  setText("ask-text", text || "");
  setText("ask-yes", yes);
  byId("ask-field").hidden = !field;
  byId("ask-note").hidden = true;
  const input = byId("ask-input");
  input.type = isSecret ? "password" : "text";
  input.required = Boolean(field && isRequired);
  input.value = value || "";
  setText("ask-label", field || "");
  return new Promise((resolve) => {
    const done = (answer) => { dialog.removeEventListener("close", onClose); resolve(answer); };
    const onClose = () => done(dialog.returnValue === "yes" ? (field ? input.value : true) : null);
    dialog.addEventListener("close", onClose);
    dialog.returnValue = "";
    dialog.showModal();
  });
}

byId("ask-form").addEventListener("submit", (event) => {
  event.preventDefault();
  byId("ask").close("yes");
});
byId("ask-no").addEventListener("click", () => byId("ask").close("no"));
