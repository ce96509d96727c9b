// The page "Skills": where the model stands in each, how that came about, and what training brought.
"use strict";

function showSkills({ skill_metrics: metrics, curriculum }) {
  const standings = new Map(((curriculum.data && curriculum.data.skills) || []).map((entry) => [entry.skill, entry]));
  const items = (metrics.data && metrics.data.skills) || [];
  setText("skills-note", items.length ? plural(items.length, "skill", "skills") : "");
  show("skills", [keyOf(metrics), keyOf(curriculum)], () => {
    const troubles = [trouble(metrics), trouble(curriculum)];
    if (!items.length) return [empty(metrics, "No skill has been evaluated yet. Name skill servers under `skills` in config.json."), ...troubles];
    return [...items.map((item, i) => skillPart(item, standings.get(item.skill), curveId(i))), ...troubles];
  });
  items.forEach((item, i) => drawSkill(item, curveId(i)));
}

const curveId = (i) => `skill-curve-${i}`;

function skillPart({ skill, levels }, standing, id) {
  const rows = levels.map((entry) => [
    `level ${entry.level}`,
    sparkline(entry.history.slice(-20).map((point) => point.accuracy), `Accuracy of ${skill}, level ${entry.level}: ${entry.history.slice(-20).map((point) => percent(point.accuracy, 0)).join(", ")}`),
    percent(entry.latest), count(entry.num_questions), percent(entry.base), isNumber(entry.trained) ? h("span", { title: entry.trained_checkpoint }, percent(entry.trained)) : "–"]);
  return h("section", { class: "skill", "aria-label": skill },
    h("div", { class: "row-head" }, h("h3", {}, skill), standing && badge(`level ${standing.level}${standing.total_levels ? ` of ${standing.total_levels}` : ""}`, "info")),
    h("div", { id }),
    rows.length ? table(`Accuracy of ${skill}`, [["Level", "name"], ["Last evaluations"], ["Now, fresh questions", "num"], ["Questions", "num"], ["Base, sealed questions", "num"], ["Champion, the same", "num"]], rows) : null,
    standing && standing.moves.length > 0 ? movesPart(standing.moves) : h("p", { class: "muted small" }, "Its level has not moved yet."));
}

function movesPart(moves) {
  return h("ul", { class: "rows" }, moves.map((step) => h("li", {},
    h("div", { class: "row-head" },
      h("span", {}, badge(step.to > step.from ? "up" : "down", step.to > step.from ? "good" : "warn"), ` level ${step.from} to ${step.to}`),
      h("span", { class: "muted" }, since(step.at_ms))),
    h("div", { class: "muted small" }, [step.checkpoint, step.reason].filter(Boolean).join(" · ")))));
}

/** Accuracy on fresh questions by checkpoint, a line per level. */
function drawSkill({ skill, levels }, id) {
  // The part may have been built anew around the same figures.
  if (!byId(id).firstChild) charts.delete(id);
  const lines = levels.map((entry, colour) => ({
    label: `level ${entry.level}`, xs: entry.history.map((point) => point.checkpoint), ys: entry.history.map((point) => point.accuracy), kind: "side", colour }));
  drawChart(id, { lines, name: `Accuracy of ${skill} on fresh questions`, format: (value) => percent(value, 0), xLabel: "checkpoint", height: 200 });
}
