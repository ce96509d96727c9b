// Charts: a thin layer over uPlot with the page's colours, a readout in words and a name for screen readers.
"use strict";

const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const PALETTE = ["--accent", "--series-2", "--series-3", "--series-4", "--series-5"];
const charts = new Map();

/**
 * Draws lines over a common axis into the element `id`.
 * lines: [{label, xs, ys, kind: "main" | "band" | "old" | "side", low, high}]; marks: xs with a figure that is not finite.
 */
function drawChart(id, { lines, name, format, xLabel, marks = [], height }) {
  const box = byId(id);
  const key = JSON.stringify([lines, marks, box.clientWidth, css("--accent")]);
  const old = charts.get(id);
  if (old && old.key === key) return;
  if (old) old.destroy();
  if (!lines.length || lines.every((line) => line.xs.length === 0)) {
    box.replaceChildren();
    charts.delete(id);
    return;
  }
  const readout = h("span", { class: "readout" });
  const figure = h("figure", { class: "chart" });
  const canvas = h("div", { role: "img", "aria-label": `${name}. ${summary(lines, format, xLabel)}` });
  figure.append(h("figcaption", {}, h("span", {}, legend(lines)), readout), canvas);
  box.replaceChildren(figure);
  const plot = new uPlot(options(lines, { width: Math.max(240, box.clientWidth), height: height || chartHeight(), format, marks, readout, xLabel }),
    aligned(lines), canvas);
  charts.set(id, { key, destroy: () => plot.destroy() });
  say(readout, lines, null, format, xLabel);
}

const chartHeight = () => (window.innerWidth <= 640 ? 190 : 250);

/** All lines on one axis: uPlot wants columns of equal length. */
function aligned(lines) {
  const tables = lines.map((line) => (line.low ? [line.xs, line.ys, line.low, line.high] : [line.xs, line.ys]));
  return uPlot.join(tables);
}

function options(lines, { width, height, format, marks, readout, xLabel }) {
  const series = [{}];
  const bands = [];
  lines.forEach((line, i) => {
    const colour = css(line.kind === "old" ? "--muted" : PALETTE[(line.colour ?? i) % PALETTE.length]);
    const isOld = line.kind === "old";
    series.push({ label: line.label, stroke: colour, width: isOld ? 1.25 : 2, dash: isOld ? [4, 4] : undefined, spanGaps: false, points: { show: line.xs.length < 2 } });
    if (line.low) {
      const edge = { stroke: "transparent", width: 0, points: { show: false }, spanGaps: false };
      const from = series.length;
      series.push({ ...edge, label: "least" }, { ...edge, label: "greatest" });
      bands.push({ series: [from + 1, from], fill: `color-mix(in srgb, ${colour} 16%, transparent)` });
    }
  });
  const axis = { stroke: css("--muted"), grid: { stroke: css("--line"), width: 1 }, ticks: { show: false }, font: "12px system-ui, sans-serif" };
  return {
    width, height, series, bands, padding: [10, 14, 0, 0],
    legend: { show: false },
    cursor: { y: false, points: { size: 7 }, drag: { x: false, y: false } },
    scales: { x: { time: false } },
    axes: [{ ...axis, size: 28, grid: { show: false }, values: (_, ticks) => ticks.map((tick) => count(tick)) },
      { ...axis, size: 58, values: (_, ticks) => ticks.map((tick) => format(tick)) }],
    hooks: {
      setCursor: [(plot) => say(readout, lines, plot.cursor.left >= 0 ? plot.posToVal(plot.cursor.left, "x") : null, format, xLabel)],
      draw: [(plot) => drawMarks(plot, marks)],
    },
  };
}

/** A cross on the axis for every step whose figure is not finite. */
function drawMarks(plot, marks) {
  if (!marks.length) return;
  const { ctx, bbox } = plot;
  ctx.save();
  ctx.strokeStyle = css("--bad");
  ctx.lineWidth = 2 * devicePixelRatio;
  const size = 4 * devicePixelRatio;
  for (const mark of marks) {
    const x = plot.valToPos(mark, "x", true);
    if (x < bbox.left || x > bbox.left + bbox.width) continue;
    const y = bbox.top + bbox.height - 2 * size;
    ctx.beginPath();
    ctx.moveTo(x - size, y - size); ctx.lineTo(x + size, y + size);
    ctx.moveTo(x - size, y + size); ctx.lineTo(x + size, y - size);
    ctx.stroke();
  }
  ctx.restore();
}

function nearest(xs, x) {
  let [low, high] = [0, xs.length - 1];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (xs[middle] < x) low = middle + 1; else high = middle;
  }
  return low > 0 && x - xs[low - 1] < xs[low] - x ? low - 1 : low;
}

/** Words for the point under the cursor, or for the newest one. */
function say(readout, lines, x, format, xLabel) {
  const main = lines.filter((line) => line.kind !== "old" && line.xs.length);
  if (!main.length) return;
  const at = x === null ? Math.max(...main.map((line) => line.xs[line.xs.length - 1])) : x;
  const parts = main.map((line) => {
    const i = nearest(line.xs, at);
    const range = line.low && isNumber(line.low[i]) && line.low[i] !== line.high[i] ? ` (${format(line.low[i])} to ${format(line.high[i])})` : "";
    return (main.length > 1 ? `${line.label} ` : "") + (isNumber(line.ys[i]) ? format(line.ys[i]) + range : "not finite");
  });
  const first = main[0];
  readout.textContent = `${xLabel} ${count(first.xs[nearest(first.xs, at)])}: ${parts.join(", ")}`;
}

function legend(lines) {
  return lines.filter((line, i) => line.kind !== "old" || lines.findIndex((other) => other.kind === "old") === i).map((line, i) =>
    h("span", { class: "key-line", "data-colour": line.kind === "old" ? "old" : String((line.colour ?? i) % PALETTE.length) }, line.label));
}

function summary(lines, format, xLabel) {
  return lines.filter((line) => line.kind !== "old" && line.xs.length).map((line) => {
    const last = line.xs.length - 1;
    return `${line.label} from ${format(line.ys[0])} at ${xLabel} ${line.xs[0]} to ${format(line.ys[last])} at ${xLabel} ${line.xs[last]}`;
  }).join("; ");
}

/** A line of small bars, for a few figures between 0 and 1. */
function sparkline(values, label) {
  const bars = values.map((value) => {
    const bar = h("span", { class: "spark-bar" });
    bar.style.height = `${Math.max(6, Math.round((isNumber(value) ? value : 0) * 100))}%`;
    return bar;
  });
  return h("span", { class: "spark", role: "img", "aria-label": label }, bars);
}

let resized = null;
function onResize(redraw) {
  window.addEventListener("resize", () => { clearTimeout(resized); resized = setTimeout(redraw, 150); });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
}
