// The page "Serving": targets, deployments, traffic, and a chat with the served model.
"use strict";

const DEPLOYMENT_BADGES = { live: "good", pending: "info", superseded: null, failed: "bad" };

function showServing({ deployments, inference }) {
  show("targets", [keyOf(deployments), inference && inference.error, servedBy(inference), session.control], () => {
    const targets = (deployments.data && deployments.data.targets) || [];
    const back = session.control !== "off" && targets.some((entry) => entry.live)
      ? h("div", { class: "row-buttons" }, h("button", { type: "button", class: "quiet", onclick: () =>
        command(withReason("rollback"), { title: "Serve what was served before?", text: "On every target, in one step.", yes: "Roll back", ...reasonField }) }, "Roll back")) : null;
    return [targets.length ? targets.map((entry) => targetPart(entry)) : empty(deployments, "Nothing has been deployed yet."),
      inferenceLine(inference, targets), back, trouble(deployments)].flat();
  });
  show("deployments", keyOf(deployments), () => {
    const items = (deployments.data && deployments.data.items) || [];
    if (!items.length) return [empty(deployments, "None yet.")];
    const took = (item) => {
      const last = item.steps[item.steps.length - 1];
      if (!last) return "";
      const ms = last[1] - item.created_ms;
      return ms < 10000 ? `${count(ms)} ms` : duration(ms);
    };
    const steps = (item) => item.steps.map(([name, at], i) => `${name} ${Math.max(0, at - (i ? item.steps[i - 1][1] : item.created_ms))} ms`).join(", ");
    return table("Deployments", [["Checkpoint", "name"], ["Target"], ["State"], ["Asked for"], ["Took", "num"], ["Why"]], items.map((item) => [
      item.checkpoint, item.target, badge(item.state, DEPLOYMENT_BADGES[item.state]), since(item.created_ms), took(item),
      [item.error ? h("span", { class: "bad-text" }, item.error) : item.reason, item.steps.length ? h("span", { class: "muted small block" }, steps(item)) : null]]));
  });
  showTraffic(inference);
}

// ---- traffic ----

const traffic = [];
const MAX_TRAFFIC = 1800;

/** Remembers what the server said; called with every answer of the monitor, whichever page is open. */
function rememberTraffic(inference) {
  const data = inference && inference.data;
  if (!data || inference.error || !data.metrics || !isNumber(inference.age_ms)) return;
  const at = Math.round((now() - inference.age_ms) / 1000);
  const last = traffic[traffic.length - 1];
  if (last && last.at >= at) return;
  traffic.push({ at, ...data.metrics });
  if (traffic.length > MAX_TRAFFIC) traffic.shift();
}

function showTraffic(inference) {
  const last = traffic[traffic.length - 1];
  const data = inference && inference.data;
  const figures = [
    ["Answers with", servedBy(inference) || "–"],
    ["Health answers in", data && isNumber(data.latency_ms) ? `${data.latency_ms} ms` : "–"],
    ["Running", last ? count(last.running) : "–"], ["Waiting", last ? count(last.waiting) : "–"],
    ["Requests", last ? count(last.requests) : "–"], ["Errors", last ? count(last.errors) : "–"],
    ["Generated tokens", last ? count(last.generated_tokens) : "–"],
    ["First token after", last && last.first_tokens ? `${count((1000 * last.first_token_seconds) / last.first_tokens)} ms` : "–"],
    ["Answer takes", last && last.answers ? `${count((1000 * last.answer_seconds) / last.answers)} ms` : "–"],
  ];
  show("traffic", figures, () => figures.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))));
  const answers = (data && data.metrics && data.metrics.by_checkpoint) || [];
  show("traffic-by-checkpoint", answers, () => answers.length ? table("Answers by checkpoint", [["Checkpoint", "name"], ["Complete", "num"], ["Failed", "num"]],
    answers.slice().reverse().map((entry) => [entry.checkpoint, count(entry.complete || 0), entry.failed ? badge(count(entry.failed), "bad") : "0"])) : null);
  const rates = traffic.slice(1).map((point, i) => {
    const seconds = Math.max(1, point.at - traffic[i].at);
    return Math.max(0, (point.generated_tokens - traffic[i].generated_tokens) / seconds);
  });
  if (rates.length < 2 || !rates.every(isNumber)) return;
  const start = traffic[1].at;
  const xs = traffic.slice(1).map((point) => point.at - start);
  drawChart("traffic-curve", { lines: [{ label: "Generated tokens/s", xs, ys: rates, kind: "main", colour: 0 }], name: "Generated tokens per second", format: short, xLabel: "second" });
}

// ---- chat ----

let conversation = [];
let chatStop = null;

function bubble(role, text, stamp) {
  return h("div", { class: `bubble ${role}` }, h("p", {}, text), stamp ? h("p", { class: "muted small" }, stamp) : null);
}

function showChat() {
  const box = byId("chat");
  if (!conversation.length) {
    box.replaceChildren(h("p", { class: "empty" }, session.chat === "off" ? "This monitor knows no inference server." : "Every answer is stamped with the checkpoint that gave it."));
  }
}

byId("chat-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  if (chatStop) return chatStop.abort();
  const field = byId("chat-text");
  const text = field.value.trim();
  if (!text) return;
  field.value = "";
  const box = byId("chat");
  if (!conversation.length) box.replaceChildren();
  conversation.push({ role: "user", content: text });
  box.append(bubble("user", text));
  const answer = bubble("assistant", "");
  box.append(answer);
  box.scrollTop = box.scrollHeight;
  await answerChat(answer);
  box.scrollTop = box.scrollHeight;
  field.focus();
});

async function answerChat(element) {
  const paragraph = element.querySelector("p");
  // A reset begins another conversation meanwhile: this answer belongs to the one that asked.
  const mine = conversation;
  const stop = new AbortController();
  chatStop = stop;
  setText("chat-send", "Stop");
  let text = "";
  let stamp = null;
  try {
    const response = await fetch("/api/chat", {
      method: "POST", signal: stop.signal, headers: { "Content-Type": "application/json", ...keyHeaders() },
      body: JSON.stringify({ messages: mine, stream: true }),
    });
    if (!response.ok) throw new Error(await refusal(response));
    for await (const block of blocks(response.body)) {
      const line = block.split("\n").find((part) => part.startsWith("data:"));
      const data = line ? line.slice(5).trim() : "";
      if (!data || data === "[DONE]") continue;
      const chunk = JSON.parse(data);
      if (chunk.error) throw new Error(chunk.error.message);
      stamp = chunk.system_fingerprint || stamp;
      const delta = chunk.choices && chunk.choices[0] && chunk.choices[0].delta;
      if (delta && delta.content) { text += delta.content; paragraph.textContent = text; }
    }
    mine.push({ role: "assistant", content: text });
  } catch (error) {
    if (error.name === "AbortError") mine.push({ role: "assistant", content: text });
    else { element.append(note(`No answer: ${error.message}`, "bad")); mine.pop(); }
  }
  if (!text && !element.querySelector(".note")) paragraph.textContent = "(nothing)";
  if (stamp) element.append(h("p", { class: "muted small" }, stamp));
  if (chatStop === stop) chatEnded();
}

function chatEnded() {
  chatStop = null;
  setText("chat-send", "Send");
}

byId("chat-text").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    byId("chat-form").requestSubmit();
  }
});
byId("chat-reset").addEventListener("click", () => {
  if (chatStop) chatStop.abort();
  chatEnded();
  conversation = [];
  showChat();
});
