// Small diagrams as SVG from plain numbers: line, scatter, bars. They know no method; text only through textContent.

const CHART = { width: 340, height: 218, left: 44, right: 12, top: 24, bottom: 34 };
const TABLE_ROWS = 600;

function shortened(text, most) {
  return text.length > most ? `${text.slice(0, most - 1)}…` : text;
}

function ticksOf(low, high, wanted) {
  const raw = (high - low) / wanted;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= raw * 0.999);
  // Counted: where numbers are so large that adding one changes nothing, counting up to `high` would never end.
  const first = Math.ceil(low / step - 1e-9);
  return Array.from({ length: 4 * wanted }, (_, i) => (first + i) * step).filter((tick) => tick <= high + step * 1e-9);
}

function rangeOf(values, margin) {
  const known = values.filter((value) => value !== null && value !== undefined);
  if (!known.length) return [0, 1];
  let low = Infinity;
  let high = -Infinity;
  known.forEach((value) => { low = Math.min(low, value); high = Math.max(high, value); });
  if (low === high) return [low - (Math.abs(low) || 1) / 2, high + (Math.abs(high) || 1) / 2];
  const room = (high - low) * margin;
  return [low - (low === 0 ? 0 : room), high + room];
}

// Where everything lies. chart: an entry of a stage's charts; `lines` may replace `line` by one threshold per point.
function layOut(chart) {
  const { width, height, left, right, top, bottom } = CHART;
  const n = chart.y.length;
  const xs = chart.kind === "bars" || !chart.x.length ? chart.y.map((_, i) => i + 1) : chart.x;
  const lines = chart.lines || (chart.line === null ? [] : chart.y.map(() => chart.line));
  const bars = chart.kind === "bars";
  const [x0, x1] = bars ? [0.5, n + 0.5] : rangeOf(xs, 0.03);
  const [y0, y1] = rangeOf([...chart.y, ...lines, ...(bars ? [0] : [])], 0.06);
  const px = (x) => left + ((x - x0) / (x1 - x0)) * (width - left - right);
  const py = (y) => height - bottom - ((y - y0) / (y1 - y0)) * (height - top - bottom);
  return { xs, lines, x0, x1, y0, y1, px, py, n, bars, wide: (width - left - right) / Math.max(n, 1) };
}

function drawAxes(svg, chart, at) {
  const { width, height, left, right, bottom } = CHART;
  const text = (x, y, words, anchor, className = "tv-tick") => {
    const node = svgNode("text", { x, y, "text-anchor": anchor }, className);
    node.textContent = words;
    svg.append(node);
  };
  ticksOf(at.y0, at.y1, 4).forEach((y) => {
    svg.append(svgNode("line", { x1: left, x2: width - right, y1: at.py(y), y2: at.py(y) }, "tv-gridline"));
    text(left - 6, at.py(y) + 3.5, shortNumber(Number(y.toPrecision(12))), "end");
  });
  const whole = !chart.x.length || at.bars || at.xs.every((x) => Number.isInteger(x));
  const longest = Math.max(0, ...chart.names.map((name) => name.length));
  if (at.bars && longest && (at.n <= 6 || longest * 6.5 + 4 <= at.wide)) {
    chart.names.forEach((name, i) => text(at.px(i + 1), height - bottom + 14, shortened(name, Math.max(Math.floor(at.wide / 6.5), 2)), "middle"));
  } else {
    ticksOf(at.x0, at.x1, 5).filter((x) => !whole || (Number.isInteger(x) && x >= 1 - (at.bars ? 0 : Infinity)))
      .forEach((x) => text(at.px(x), height - bottom + 14, shortNumber(Number(x.toPrecision(12))), "middle"));
  }
  text((left + width - right) / 2, height - 5, shortened(chart.x_label || "", 52), "middle", "tv-axis");
  text(left - 38, 11, shortened(chart.y_label || "", 56), "start", "tv-axis");
}

function drawThreshold(svg, chart, at) {
  if (!at.lines.length) return;
  const { width, left, right } = CHART;
  const flat = at.lines.every((value) => value === at.lines[0]);
  const points = flat ? [[left, at.py(at.lines[0])], [width - right, at.py(at.lines[0])]]
    : at.lines.map((value, i) => [at.px(at.xs[i]), value === null ? null : at.py(value)]).filter(([, y]) => y !== null);
  svg.append(svgNode("polyline", { points: points.map((p) => p.join()).join(" ") }, "tv-threshold"));
  if (!flat || at.lines[0] === null) return;
  const node = svgNode("text", { x: width - right, y: at.py(at.lines[0]) - 4, "text-anchor": "end" }, "tv-threshold-label");
  node.textContent = shortNumber(at.lines[0]);
  svg.append(node);
}

// Shape tells as much as colour: filled kept, hollow dropped, a diamond where the method marked.
function dot(x, y, kind, crowd = Infinity) {
  const radius = (kind === "dropped" ? 2 : 2.6) + (crowd < 60 ? 1 : 0);
  if (kind !== "marked") return svgNode("circle", { cx: x, cy: y, r: radius }, `tv-dot tv-dot-${kind}`);
  const r = 5;
  return svgNode("path", { d: `M${x} ${y - r}L${x + r} ${y}L${x} ${y + r}L${x - r} ${y}Z` }, "tv-dot tv-dot-marked");
}

function drawMarksOf(svg, chart, at, kept) {
  const marked = new Set(chart.marked);
  const kindOf = (i) => {
    if (marked.has(i)) return "marked";
    return kept && chart.tokens.length && !kept[chart.tokens[i]] ? "dropped" : "kept";
  };
  if (at.bars) {
    const width = Math.max(at.wide * 0.76, 1);
    chart.y.forEach((y, i) => {
      if (y === null) return;
      const [top, base] = [Math.min(at.py(y), at.py(0)), Math.max(at.py(y), at.py(0))];
      svg.append(svgNode("rect", { x: at.px(i + 1) - width / 2, y: top, width, height: Math.max(base - top, 0.5) },
        `tv-column tv-column-${kindOf(i)}`));
    });
    return;
  }
  if (chart.kind === "line") {
    let path = "";
    chart.y.forEach((y, i) => {
      if (y === null || at.xs[i] === null) return;
      path += `${path && chart.y[i - 1] !== null ? "L" : "M"}${at.px(at.xs[i])} ${at.py(y)}`;
    });
    svg.append(svgNode("path", { d: path }, "tv-curve"));
  }
  const places = chart.y.map((_, i) => i).filter((i) => chart.y[i] !== null && at.xs[i] !== null);
  const shown = chart.kind === "line" && at.n > 40 ? places.filter((i) => marked.has(i)) : places;
  // Marked points last: they lie on top.
  [...shown.filter((i) => !marked.has(i)), ...shown.filter((i) => marked.has(i))]
    .forEach((i) => svg.append(dot(at.px(at.xs[i]), at.py(chart.y[i]), kindOf(i), chart.kind === "scatter" ? at.n : Infinity)));
}

// The mark that is meant by a pointer position, in units of the drawing: for points the nearest, else by x alone.
function nearestMark(chart, at, x, y) {
  let best = -1;
  let bestDistance = chart.kind === "scatter" ? 14 : Math.max(at.wide, 14);
  chart.y.forEach((value, i) => {
    if (value === null || at.xs[i] === null) return;
    const dx = at.px(at.bars ? i + 1 : at.xs[i]) - x;
    const distance = chart.kind === "scatter" ? Math.hypot(dx, at.py(value) - y) : Math.abs(dx);
    if (distance < bestDistance) [best, bestDistance] = [i, distance];
  });
  return best;
}

function markWords(chart, at, i) {
  const name = chart.names.length ? chart.names[i] : "";
  const x = at.bars || (!chart.x.length && !chart.x_label) ? "" : `${chart.x_label || "x"} ${shortNumber(at.xs[i])}`;
  const y = `${chart.y_label || "value"} ${shortNumber(chart.y[i])}`;
  return [name, x, y, chart.marked.includes(i) && chart.tokens.length ? chart.markedName || "marked" : ""].filter(Boolean).join(" · ");
}

// on: {hover(token), place(token) -> words, pick(i) or null}. Returns {root, setHot(token)}.
function buildChart(chart, kept, on) {
  const root = make("figure", "tv-chart");
  const caption = make("figcaption", "tv-chart-label", chart.label);
  const at = layOut(chart);
  const svg = svgNode("svg", { viewBox: `0 0 ${CHART.width} ${CHART.height}`, role: "img" }, "tv-chart-drawing");
  svg.setAttribute("aria-label", `${chart.label}: ${at.n} values, ${chart.marked.length} marked. The numbers are in the table below.`);
  drawAxes(svg, chart, at);
  drawMarksOf(svg, chart, at, kept);
  drawThreshold(svg, chart, at);
  const hot = svgNode("g", {}, "tv-hot");
  svg.append(hot);
  const told = make("p", "tv-note tv-chart-told");
  const rest = chart.lines ? "dashed: threshold" : chart.line === null ? "" : `dashed: ${shortNumber(chart.line)}`;
  const light = (i) => {
    hot.replaceChildren();
    told.textContent = i < 0 ? rest : markWords(chart, at, i) + (chart.tokens.length ? ` · ${on.place(chart.tokens[i])}` : "");
    if (i < 0 || chart.y[i] === null) return;
    const x = at.px(at.bars ? i + 1 : at.xs[i]);
    if (at.bars) hot.append(svgNode("rect", { x: x - Math.max(at.wide, 5) / 2, y: CHART.top, width: Math.max(at.wide, 5), height: CHART.height - CHART.top - CHART.bottom }, "tv-hot-band"));
    else hot.append(svgNode("circle", { cx: x, cy: at.py(chart.y[i]), r: 7.5 }, "tv-hot-casing"), svgNode("circle", { cx: x, cy: at.py(chart.y[i]), r: 7.5 }, "tv-hot-ring"));
  };
  const markAt = (event) => {
    const frame = svg.getBoundingClientRect();
    return nearestMark(chart, at, ((event.clientX - frame.left) / frame.width) * CHART.width, ((event.clientY - frame.top) / frame.height) * CHART.height);
  };
  svg.addEventListener("pointermove", (event) => {
    const i = markAt(event);
    light(i);
    if (chart.tokens.length) on.hover(i < 0 ? -1 : chart.tokens[i]);
  });
  svg.addEventListener("pointerleave", () => { light(-1); if (chart.tokens.length) on.hover(-1); });
  if (on.pick) svg.addEventListener("click", (event) => { const i = markAt(event); if (i >= 0) on.pick(i); });
  light(-1);
  root.append(caption, svg, told, ...keyOf(chart, kept), numbersOf(chart, at));
  return { root, setHot: (token) => { if (chart.tokens.length) light(token < 0 ? -1 : chart.tokens.indexOf(token)); } };
}

function keyOf(chart, kept) {
  if (chart.kind === "bars" || !chart.tokens.length) return [];
  const list = make("ul", "tv-legend tv-chart-key");
  const marked = new Set(chart.marked);
  const there = (isKept) => chart.tokens.some((token, i) => !marked.has(i) && Boolean(!kept || kept[token]) === isKept);
  const kinds = [["kept", "kept", there(true)], ["dropped", "dropped", there(false)], ["marked", chart.markedName || "marked", marked.size > 0]];
  for (const [kind, words] of kinds.filter(([, , shown]) => shown)) {
    const item = make("li");
    const swatch = svgNode("svg", { viewBox: "0 0 12 12", "aria-hidden": "true" }, "tv-key-swatch");
    swatch.append(dot(6, 6, kind));
    item.append(swatch, make("span", "", words));
    list.append(item);
  }
  return [list];
}

// The same numbers as a table; filled when it is opened.
function numbersOf(chart, at) {
  const header = [chart.names.length ? "name" : "", at.bars ? "" : chart.x_label || "x", chart.y_label || "value", chart.lines ? "threshold" : ""];
  return tableOf(header, at.n, (i) => [chart.names.length ? chart.names[i] : "", at.bars ? "" : shortNumber(at.xs[i]),
    shortNumber(chart.y[i]), chart.lines ? shortNumber(chart.lines[i]) : ""]);
}

function tableOf(header, n, cells) {
  const root = make("details", "tv-numbers-table");
  root.append(make("summary", "", "numbers"));
  const columns = header.map((name, i) => [name, i]).filter(([name]) => name);
  root.addEventListener("toggle", () => {
    if (!root.open || root.querySelector("table")) return;
    const table = make("table");
    const head = make("tr");
    columns.forEach(([name]) => head.append(make("th", "", name)));
    table.append(head);
    for (let i = 0; i < Math.min(n, TABLE_ROWS); i++) {
      const row = make("tr");
      const values = cells(i);
      columns.forEach(([, column]) => row.append(make("td", "", values[column])));
      table.append(row);
    }
    const frame = make("div", "tv-table-frame");
    frame.tabIndex = 0;
    frame.setAttribute("role", "region");
    frame.setAttribute("aria-label", "The numbers of this chart");
    frame.append(table);
    root.append(frame);
  });
  return root;
}
