// The conformance table by OpenAI's own Node client: client.mjs PATH_OF_OPENAI URL cases.json. Prints failing cases, then
// a count. It holds status, expectations, and that a stream says what a whole answer says.

import { readFileSync } from "node:fs";
import { isDeepStrictEqual } from "node:util";
import { createRequire } from "node:module";

const [modules, url, path] = process.argv.slice(2);
const { default: OpenAI } = createRequire(import.meta.url)(modules);
const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: "none", maxRetries: 0, timeout: 60000 });
const cases = JSON.parse(readFileSync(path, "utf8")).filter((c) => c.only.length === 0 || c.only.includes("node"));

function matches(expected, body, path) {
  let value = body;
  for (const part of path.split(".")) value = Array.isArray(value) ? value.at(Number(part)) : value?.[part];
  const rules = {
    absent: () => value === undefined,
    starts: (w) => value.startsWith(w),
    ends: (w) => value.endsWith(w),
    has: (w) => value.includes(w),
    len: (w) => (typeof value === "string" ? [...value].length : Array.isArray(value) ? value.length : Object.keys(value).length) === w,
    type: (w) => (w === "null" ? value === null : typeof value === w),
    near: (w) => Math.abs(value - w) < 0.005,
    in: (w) => w.includes(value),
    below: (w) => value < w,
    json: () => JSON.parse(value) !== undefined,
  };
  const entries = expected && typeof expected === "object" && !Array.isArray(expected) ? Object.entries(expected) : [];
  if (entries.length === 1 && entries[0][0] in rules) {
    return entries[0][0] === "absent" ? rules.absent() : value !== undefined && rules[entries[0][0]](entries[0][1]);
  }
  return isDeepStrictEqual(value, expected);
}

function call(c, body) {
  if (c.method === "GET") return c.path === "/v1/models" ? client.models.list() : client.models.retrieve(c.path.slice("/v1/models/".length));
  return c.path.includes("chat") ? client.chat.completions.create(body) : client.completions.create(body);
}

async function collect(stream) {
  const events = [];
  const joined = [];
  for await (const event of stream) {
    events.push(event);
    for (const choice of event.choices) {
      const one = (joined[choice.index] ??= { content: "", finish_reason: null, tool_calls: [] });
      one.content += choice.delta?.content ?? choice.text ?? "";
      one.finish_reason = choice.finish_reason ?? one.finish_reason;
      for (const part of choice.delta?.tool_calls ?? []) {
        const made = (one.tool_calls[part.index] ??= { name: part.function.name, arguments: "" });
        made.arguments += part.function.arguments ?? "";
      }
    }
  }
  return { events, joined, content: joined[0]?.content ?? "" };
}

function check(holds, problem) {
  if (!holds) throw new Error(problem);
}

async function run(c) {
  let status = 200;
  let body;
  try {
    const answer = await call(c, c.body ?? {});
    if (c.body?.stream === true) body = await collect(answer);
    else body = c.path === "/v1/models" ? { object: answer.object ?? "list", data: answer.data } : answer;
  } catch (error) {
    if (!(error instanceof OpenAI.APIError)) throw error;
    status = error.status;
    body = { error: error.error };
  }
  check(status === c.status, `status ${status}, expected ${c.status}: ${JSON.stringify(body)}`);
  for (const [path, expected] of Object.entries(c.expect)) {
    check(matches(expected, body, path), `${path}: expected ${JSON.stringify(expected)} in ${JSON.stringify(body)}`);
  }
  const repeats = c.body?.seed != null || c.body?.temperature === 0;
  if (status === 200 && c.method === "POST" && c.body.stream !== true && repeats) {
    const stream = await collect(await call(c, { ...c.body, stream: true }));
    check(stream.joined.length === body.choices.length, "streamed choices are missing");
    body.choices.forEach((choice, index) => {
      const streamed = stream.joined[index];
      check((choice.message?.content ?? choice.text ?? "") === streamed.content, `streamed ${JSON.stringify(streamed.content)}`);
      check(choice.finish_reason === streamed.finish_reason, `streamed finish_reason ${streamed.finish_reason}`);
      const calls = (choice.message?.tool_calls ?? []).map((one) => ({ name: one.function.name, arguments: one.function.arguments }));
      check(isDeepStrictEqual(calls, streamed.tool_calls), `streamed tool calls ${JSON.stringify(streamed.tool_calls)}`);
    });
  }
}

let held = 0;
for (const c of cases) {
  try {
    await run(c);
    held += 1;
  } catch (error) {
    console.log(`${c.name}: ${error.message}`);
  }
}
console.log(`${held} of ${cases.length} cases hold for openai ${client.constructor.VERSION ?? "(node)"}`);
process.exit(held < cases.length ? 1 : 0);
