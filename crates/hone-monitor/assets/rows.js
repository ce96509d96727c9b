// One row of a file as the trainer sees it: its tokens, and which of them are trained.
"use strict";

const MAX_TOKENS_SHOWN = 4000;

/** A file's rows, one at a time: closed until someone opens it. */
function rowsOf(file) {
  const input = h("input", { type: "number", min: 1, value: 1, inputmode: "numeric", "aria-label": `Line of ${file.file_name}` });
  const box = h("div", { class: "row-view", "aria-live": "polite" });
  const step = (by) => { input.value = Math.max(1, (Number(input.value) || 1) + by); loadRow(details); };
  const turn = (text, label, by) => h("button", { type: "button", class: "quiet small", "aria-label": label, onclick: () => step(by) }, text);
  const details = h("details", { id: `rows-${file.id}`, "data-file": file.id, ontoggle: () => details.open && !box.firstChild && loadRow(details) },
    h("summary", {}, "Rows as they are trained"),
    h("div", { class: "row-picker" }, h("span", { class: "muted small" }, "Line"), turn("‹", "The line before", -1), input, turn("›", "The next line", 1)), box);
  input.addEventListener("change", () => loadRow(details));
  return details;
}

/** Opens a row from elsewhere on the page. */
function showRow(id, line) {
  const details = byId(`rows-${id}`);
  if (!details) return;
  details.querySelector("input").value = line;
  loadRow(details);
  details.open = true;
  details.scrollIntoView({ block: "nearest" });
}

async function loadRow(details) {
  const box = details.querySelector(".row-view");
  const line = Math.max(1, Math.floor(Number(details.querySelector("input").value)) || 1);
  details.dataset.line = line;
  if (!box.firstChild) box.replaceChildren(h("p", { class: "muted small" }, "…"));
  let parts;
  try {
    parts = rowParts(await json(`/api/datasets/${details.dataset.file.replace("dataset-", "")}/rows/${line}`));
  } catch (error) {
    parts = [note(error.message, "warn")];
  }
  // A slower answer to an earlier question is not shown.
  if (details.dataset.line === String(line)) box.replaceChildren(...parts);
}

function rowParts({ row, schema_id: schema, profile, max_length: limit }) {
  if (row.refused) return [note(`This row is not trained: ${row.refused.message}`, "warn")];
  return row.examples.flatMap((example, i) => {
    const total = example.tokens.length;
    const figures = [plural(total, "token", "tokens"), `${count(example.num_trained)} trained (${percent(example.num_trained / total, 0)})`,
      `schema ${schema}`, `profile ${profile}`, total > limit && `longer than max_length ${count(limit)}`];
    const title = row.examples.length > 1 ? [h("strong", {}, `Example ${i + 1} of ${row.examples.length}`), " · "] : [];
    return [
      h("p", { class: "muted small" }, title, figures.filter(Boolean).join(" · "), " · ", h("mark", { class: "tok" }, "trained"), " ", h("span", { class: "tok" }, "only read")),
      h("div", { class: "tokens", tabindex: 0, role: "group", "aria-label": "Tokens; marked ones are trained" }, example.tokens.slice(0, MAX_TOKENS_SHOWN).map(token)),
      total > MAX_TOKENS_SHOWN ? h("p", { class: "muted small" }, `${count(total - MAX_TOKENS_SHOWN)} more tokens: hone data show --row ${row.line}`) : null].filter(Boolean);
  });
}

/** One token. Line breaks are seen and break the line; a token that shares a character with the next has no text. */
function token({ id, text, trained }) {
  const parts = text.split("\n").flatMap((part, i) => (i ? [h("span", { class: "line-end", "aria-hidden": "true" }, "↵"), "\n", part] : [part]));
  return h(trained ? "mark" : "span", { class: "tok", title: `token ${id}${trained ? ", trained" : ""}` }, text ? parts : "·");
}
