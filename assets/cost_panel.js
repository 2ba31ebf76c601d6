// What the runs cost. The value is the dict of tokviz/ui/costs.py: numbers for bars, words as they are written. All text
// through textContent.

const root = element.querySelector(".tc-root");
const at = (name) => root.querySelector(`.tc-${name}`);
const SVG = "http://www.w3.org/2000/svg";
// Okabe and Ito's colours, then the same with dashes.
const COLOURS = ["#62676e", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b58900", "#56b4e9", "#7a5195"];
const DASHES = ["", "7 4", "2 3"];
let which = "all";

function make(tag, className, text) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text !== undefined) node.textContent = text;
  return node;
}

function svg(tag, attributes, className = "", text) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  if (className) node.setAttribute("class", className);
  if (text !== undefined) node.textContent = text;
  return node;
}

// One row of bars: name, pieces [[class, value, words]], number and what it is beside no pruning.
function barRow(label, pieces, most, [value, beside], tell) {
  const row = make("div", "tc-row");
  const track = make("div", "tc-track");
  track.setAttribute("aria-hidden", "true");
  pieces.filter(([, size]) => size > 0).forEach(([className, size, words]) => {
    const piece = make("span", `tc-piece ${className}`);
    piece.style.width = `${Math.max((100 * size) / most, 0.15)}%`;
    if (tell) piece.addEventListener("pointerenter", () => tell(words));
    track.append(piece);
  });
  if (tell) row.addEventListener("pointerleave", () => tell(""));
  const numbers = make("div", "tc-value");
  numbers.append(make("b", "", value), make("span", beside.endsWith("faster") || /×$/.test(beside) || !/slower|more|larger/.test(beside) ? "" : "tc-slower", beside));
  row.append(Object.assign(make("span", "tc-name", label), { title: label }), track, numbers);
  return row;
}

function drawTimes({ parts, runs, how, device }) {
  const counts = (part) => which === "all" || part !== "encode";
  const told = at("told");
  const rest = runs.some((run) => run.parts[0].shared) && which === "all" ? "Hatched: the image is encoded once, and all runs share it." : "";
  const tell = (words) => { told.textContent = words || rest; };
  const sum = (run) => run.parts.reduce((all, part, i) => all + (counts(parts[i][0]) ? part.ms || 0 : 0), 0);
  const most = Math.max(...runs.map(sum), 1e-9);
  at("how").textContent = [how, device].filter(Boolean).join(" · ");
  at("key").replaceChildren(...parts.filter(([part]) => counts(part)).map(([part, name, why]) => {
    const item = make("li");
    item.title = why;
    item.append(make("i", `tc-swatch tc-${part}`), make("span", "", name));
    return item;
  }));
  at("times").replaceChildren(...runs.map((run) => barRow(run.label, run.error ? [] : run.parts.flatMap((part, i) => {
    const [name, shown] = parts[i];
    return counts(name) ? [[`tc-${name}`, part.ms || 0, `${run.label} · ${shown} ${part.told}${part.shared ? ", shared by all runs" : ""}`]] : [];
  }), most, run.error ? ["not run", ""] : run[which], tell)));
  tell("");
  at("times-table").replaceChildren(folded("numbers", () => tableOf(["run", ...parts.map(([, name]) => name), "total", "beside no pruning"],
    runs.map((run) => [run.label, ...run.parts.map((part) => part.told), ...run[which]]))));
}

function drawWork({ parts, runs }) {
  const done = runs.filter((run) => !run.error);
  const total = (run) => run.parts.reduce((all, part) => all + (part.flops || 0), 0);
  const most = Math.max(...done.map(total), 1e-9);
  at("flops").replaceChildren(...done.map((run) => barRow(run.label, run.parts.map((part, i) => [`tc-${parts[i][0]}`, part.flops || 0, ""]), most, run.compute)));
  const largest = Math.max(...done.map((run) => run.kv || 0), 1e-9);
  at("kv").replaceChildren(...done.map((run) => barRow(run.label, [["tc-only", run.kv || 0, ""]], largest, run.kv_told)));
}

// Tokens per layer as steps: each layer has the tokens that it processed.
function drawSteps({ runs, n_tokens: all }) {
  const done = runs.filter((run) => run.layers.length);
  const holder = at("steps");
  if (!done.length) {
    holder.replaceChildren(make("p", "tc-note", "No run has told its layers."));
    return;
  }
  const width = Math.round(Math.min(Math.max(holder.clientWidth, 260), 720)); // letters stay as large as all others
  const [height, left, right, top, bottom] = [236, 42, 10, 12, 36];
  const layers = Math.max(...done.map((run) => run.layers.length));
  const most = Math.max(all, ...done.flatMap((run) => run.layers));
  const px = (layer) => left + (layer / layers) * (width - left - right);
  const py = (tokens) => height - bottom - (tokens / most) * (height - top - bottom);
  const drawing = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": "Visual tokens that each layer processes, one line per run. The numbers are in the table below." }, "tc-plot");
  const unit = [1, 2, 5].flatMap((step) => [1, 10, 100, 1000, 10000].map((scale) => step * scale)).sort((a, b) => a - b).find((step) => most / step <= 5);
  for (let tokens = 0; tokens <= most; tokens += unit) {
    drawing.append(svg("line", { x1: left, x2: width - right, y1: py(tokens), y2: py(tokens) }, "tc-grid"), svg("text", { x: left - 6, y: py(tokens) + 4, "text-anchor": "end" }, "", tokens.toLocaleString("en-US")));
  }
  const each = Math.ceil(layers / 12);
  for (let layer = 0; layer < layers; layer += each) drawing.append(svg("text", { x: (px(layer) + px(layer + 1)) / 2, y: height - bottom + 15, "text-anchor": "middle" }, "", String(layer)));
  drawing.append(svg("text", { x: (left + width - right) / 2, y: height - 4, "text-anchor": "middle" }, "", "layer of the LLM"));
  const list = make("ul", "tc-lines");
  done.forEach((run, i) => {
    const look = { style: `color:${COLOURS[i % COLOURS.length]}` };
    const dash = DASHES[Math.floor(i / COLOURS.length) % DASHES.length];
    const path = run.layers.map((tokens, layer) => `${layer ? "V" : `M${px(0)} `}${py(tokens).toFixed(1)}H${px(layer + 1).toFixed(1)}`).join("");
    const group = svg("g", look, "tc-series");
    group.append(svg("path", { d: path, "stroke-dasharray": dash }, "tc-line"));
    drawing.append(group);
    const button = make("button", "");
    button.type = "button";
    const swatch = svg("svg", { viewBox: "0 0 26 10", "aria-hidden": "true", ...look }, "tc-series");
    swatch.append(svg("path", { d: "M0 5H26", "stroke-dasharray": dash }, "tc-line"));
    button.append(swatch, make("span", "", `${run.label} ${stairs(run.layers)}`));
    const light = (on) => { drawing.classList.toggle("tc-fade", on); group.classList.toggle("tc-hot", on); };
    for (const [type, on] of [["pointerenter", true], ["focus", true], ["pointerleave", false], ["blur", false]]) button.addEventListener(type, () => light(on));
    const item = make("li");
    item.append(button);
    list.append(item);
  });
  holder.replaceChildren(drawing, list, folded("numbers", () => tableOf(["run", ...Array.from({ length: layers }, (_, i) => `layer ${i}`)], done.map((run) => [run.label, ...run.layers]))));
}

// 96 → 32: what the steps are, as long as they are few.
function stairs(layers) {
  const steps = layers.filter((tokens, i) => tokens !== layers[i - 1]);
  const shown = steps.map((tokens) => tokens.toLocaleString("en-US"));
  return (shown.length > 4 ? [...shown.slice(0, 2), "…", shown.at(-1)] : shown).join(" → ");
}

function tableOf(headers, rows, classes = []) {
  const table = make("table");
  const head = make("tr");
  const isNumber = headers.map((_, i) => rows.length > 0 && rows.every((row) => typeof row[i] === "number" || row[i] === null) && rows.some((row) => row[i] !== null));
  headers.forEach((name, i) => {
    const cell = Object.assign(make("th", [isNumber[i] ? "tc-number" : "", classes[i] || ""].join(" ").trim(), name), { scope: "col" });
    const [, before, letter, index] = name.match(/^(.*)\((\w)_(\w+)\)$/) || [];
    if (letter) cell.replaceChildren(`${before}(`, make("i", "", letter), make("sub", "", index), ")");
    head.append(cell);
  });
  const body = make("tbody");
  body.append(...rows.map((row) => {
    const line = make("tr");
    line.append(...row.map((value, i) => make("td", [isNumber[i] ? "tc-number" : "", classes[i] || ""].join(" ").trim(), value === null || value === undefined ? "–" : typeof value === "number" ? value.toLocaleString("en-US") : value)));
    return line;
  }));
  const top = make("thead");
  top.append(head);
  table.append(top, body);
  const frame = make("div", "tc-frame");
  frame.tabIndex = 0;
  frame.setAttribute("role", "region");
  frame.setAttribute("aria-label", "Table");
  frame.append(table);
  return frame;
}

function folded(name, fill) {
  const details = make("details");
  details.append(make("summary", "", name));
  details.addEventListener("toggle", () => { if (details.open && details.children.length === 1) details.append(fill()); });
  return details;
}

// The same budget in three meanings; the one that was asked for is marked.
function drawMeanings({ runs, budget, n_tokens: all, counted_as: as, counted }) {
  root.querySelector("#tc-budget").textContent = `What the budget of ${budget.toLocaleString("en-US")} means`;
  at("counted").textContent = `Of ${all.toLocaleString("en-US")} visual tokens. Counted ${as === "published" ? "as published" : as === "final" ? "after the last stage" : "on average"}: ${counted}.`;
  const marked = { final: 1, average: 2 }[as];
  const differs = (run) => run.planned && run.actual && run.planned.some((value, i) => Math.abs(value - run.actual[i]) >= 0.05);
  const some = runs.some(differs);
  const headers = ["run", "left after the last stage (F)", "mean that layers process (A_in)", "mean left after each layer (A_log)", ...(some ? ["planned instead"] : [])];
  const rows = runs.filter((run) => run.actual).map((run) => [run.label, ...run.actual, ...(some ? [differs(run) ? run.planned.map((value) => value.toLocaleString("en-US")).join(" · ") : ""] : [])]);
  at("meanings").replaceChildren(tableOf(headers, rows, headers.map((_, i) => (i === marked ? "tc-asked" : ""))));
}

function drawPublished({ published }) {
  root.querySelector(".tc-printed").hidden = !published.length;
  if (!published.length) return;
  const computed = published.some((line) => line.computed);
  const rows = published.map((line) => [line.label, line.what, line.speed + (line.computed ? " *" : ""), line.values, line.model, line.kept, line.device, line.source, line.here || "–"]);
  const headers = ["method", "what", "published", "printed times", "model", "tokens", "device", "source", "here"];
  at("published").replaceChildren(tableOf(headers, rows, headers.map((name) => (name === "here" ? "tc-here" : ""))), ...(computed ? [make("p", "tc-note", "* computed from the two printed times; the paper prints no ratio.")] : []));
}

function draw() {
  const value = props.value;
  root.hidden = !value || !value.runs;
  if (root.hidden) return;
  drawTimes(value);
  drawSteps(value);
  drawWork(value);
  drawMeanings(value);
  drawPublished(value);
  root.classList.add("tc-ready");
}

let drawnWidth = 0;
new ResizeObserver(() => {
  if (!props.value?.runs || Math.abs(at("steps").clientWidth - drawnWidth) < 2) return;
  drawnWidth = at("steps").clientWidth;
  drawSteps(props.value);
}).observe(root);
root.querySelectorAll("input[name=tc-time]").forEach((radio) => radio.addEventListener("change", () => { which = radio.value; drawTimes(props.value); }));
watch("value", draw);
draw();
