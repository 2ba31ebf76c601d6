// Curves of several series over one axis as SVG; text only through textContent.

const PLOT = { width: 720, height: 320, left: 52, right: 16, top: 14, bottom: 40 };

// Words with what "nats" are where they say so.
function withHint(node, words) {
  const [before, after] = words.split("nats");
  if (after === undefined) node.textContent = words;
  else {
    const term = Object.assign(make("span", "", "nats"), { tabIndex: 0 });
    term.dataset.term = "nats";
    node.append(before, term, after);
  }
  return node;
}

// chart: {name, xs: values of the axis, log, ticks: [[x, words]], x_label, y_label, series: [{label, colour, dash, points:
// [[x, y, detail]], band: [[x, low, high]], rings: [[x, y]]}], lines: [[y, words]], low, high, small}
// on: {words(series, point) -> text, pick(series, point) or null}. Points are dots that a key or a press reaches.
function lineChart(chart, on) {
  const size = chart.small || innerWidth < 640 ? { ...PLOT, width: chart.width || 420, height: chart.small ? 250 : 340 } : PLOT;
  const { width, height, left, right, top, bottom } = size;
  const bend = chart.log ? Math.log : (value) => value;
  const [x0, x1] = [Math.min(...chart.xs), Math.max(...chart.xs)].map(bend);
  const ys = chart.series.flatMap((one) => [...one.points.map((p) => p[1]), ...(one.band || []).flatMap(([, low, high]) => [low, high])])
    .concat(chart.lines.map(([y]) => y)).filter((y) => y !== null);
  let [y0, y1] = lanes().rangeOf(ys, 0.06);
  if (chart.low !== undefined) y0 = Math.min(chart.low, y0);
  if (chart.high !== undefined) y1 = Math.max(chart.high, y1);
  const px = (x) => (x1 === x0 ? (left + width - right) / 2 : left + ((bend(x) - x0) / (x1 - x0)) * (width - left - right));
  const py = (y) => height - bottom - ((y - y0) / (y1 - y0)) * (height - top - bottom);

  const root = make("figure", "ts-chart");
  root.append(make("figcaption", "ts-chart-name", chart.name));
  const drawing = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "group", "aria-label": `${chart.name}. The numbers are in the table below.` }, "ts-plot");
  lanes().ticksOf(y0, y1, chart.small ? 4 : 5).forEach((y) => {
    drawing.append(svg("line", { x1: left, x2: width - right, y1: py(y), y2: py(y) }, "ts-grid"),
      svg("text", { x: left - 7, y: py(y) + 4, "text-anchor": "end" }, "ts-tick", number(Number(y.toPrecision(8)))));
  });
  let free = -Infinity;
  [...chart.ticks].sort((a, b) => px(a[0]) - px(b[0])).forEach(([x, words]) => {
    const half = words.length * 3.4 + 4;
    const at = Math.min(Math.max(px(x), left + half - 20), width - half);
    if (at - half < free) return;
    free = at + half;
    drawing.append(svg("text", { x: at, y: height - bottom + 16, "text-anchor": "middle" }, "ts-tick", words));
  });
  drawing.append(svg("text", { x: (left + width - right) / 2, y: height - 6, "text-anchor": "middle" }, "ts-axis", chart.x_label));
  chart.lines.forEach(([y, words]) => {
    drawing.append(svg("line", { x1: left, x2: width - right, y1: py(y), y2: py(y) }, "ts-line"),
      svg("text", { x: width - right, y: py(y) - 5, "text-anchor": "end" }, "ts-line-words", words));
  });
  (chart.verticals || []).forEach(([x, words]) => {
    drawing.append(svg("line", { x1: px(x), x2: px(x), y1: top, y2: height - bottom }, "ts-line"),
      svg("text", { x: px(x) > width / 2 ? px(x) - 5 : px(x) + 5, y: height - bottom - 7, "text-anchor": px(x) > width / 2 ? "end" : "start" }, "ts-line-words", words));
  });
  const told = make("p", "ts-note ts-chart-told");
  told.setAttribute("aria-live", "polite");
  const dots = [];
  chart.series.forEach((one, s) => {
    const group = svg("g", { style: `color:${one.colour}` }, "ts-series");
    if (one.band && one.band.length) {
      const line = [...one.band.map(([x, low]) => [x, low]), ...[...one.band].reverse().map(([x, , high]) => [x, high])];
      group.append(svg("polygon", { points: line.map(([x, y]) => `${px(x)},${py(y)}`).join(" ") }, "ts-band"));
    }
    const curve = one.points.filter((p) => p[1] !== null);
    let path = "";
    one.points.forEach((p, i) => {
      if (p[1] === null) return;
      path += `${path && one.points[i - 1] && one.points[i - 1][1] !== null ? "L" : "M"}${px(p[0]).toFixed(1)} ${py(p[1]).toFixed(1)}`;
    });
    group.append(svg("path", { d: path, "stroke-dasharray": one.dash }, "ts-curve"));
    curve.forEach((p) => {
      const dot = svg("circle", { cx: px(p[0]), cy: py(p[1]), r: chart.small ? 2.6 : 4 }, p[2] && p[2].open ? "ts-dot ts-open" : "ts-dot");
      const hit = svg("circle", { cx: px(p[0]), cy: py(p[1]), r: 11 }, "ts-hit");
      dots.push({ s, p, dot, hit });
      group.append(dot, hit);
    });
    (one.rings || []).forEach(([x, y]) => group.append(svg("path", { d: `M${px(x) - 8} ${py(y)}L${px(x)} ${py(y) - 8}L${px(x) + 8} ${py(y)}L${px(x)} ${py(y) + 8}Z` }, "ts-ring")));
    drawing.append(group);
  });
  const say = ({ s, p }) => {
    told.textContent = on.words(chart.series[s], p);
    dots.forEach((one) => one.dot.classList.toggle("ts-hot", one.p === p));
  };
  const quiet = () => {
    told.textContent = chart.rest || "";
    dots.forEach((one) => one.dot.classList.remove("ts-hot"));
  };
  // One dot is in the order of the Tab key; arrows walk along a series and from one to the next.
  dots.forEach((one, i) => {
    one.hit.setAttribute("role", on.pick ? "button" : "img");
    one.hit.setAttribute("aria-label", on.words(chart.series[one.s], one.p));
    one.hit.setAttribute("tabindex", i === 0 ? "0" : "-1");
    one.hit.addEventListener("pointerenter", () => say(one));
    one.hit.addEventListener("pointerleave", quiet);
    one.hit.addEventListener("focus", () => say(one));
    one.hit.addEventListener("blur", quiet);
    if (on.pick) one.hit.addEventListener("click", () => on.pick(chart.series[one.s], one.p));
    one.hit.addEventListener("keydown", (event) => {
      if (on.pick && (event.key === "Enter" || event.key === " ")) {
        event.preventDefault();
        on.pick(chart.series[one.s], one.p);
        return;
      }
      const mine = dots.filter((other) => other.s === one.s);
      const near = (s) => dots.filter((other) => other.s === s).sort((a, b) => Math.abs(px(a.p[0]) - px(one.p[0])) - Math.abs(px(b.p[0]) - px(one.p[0])))[0];
      const next = { ArrowRight: mine[mine.indexOf(one) + 1], ArrowLeft: mine[mine.indexOf(one) - 1], ArrowDown: near(one.s + 1), ArrowUp: near(one.s - 1) };
      if (!(event.key in next)) return;
      event.preventDefault();
      if (!next[event.key]) return;
      dots.forEach((other) => other.hit.setAttribute("tabindex", "-1"));
      next[event.key].hit.setAttribute("tabindex", "0");
      next[event.key].hit.focus();
    });
  });
  quiet();
  root.append(withHint(make("p", "ts-y-label"), chart.y_label), drawing, told);
  if (chart.series.length > 1 || chart.key) root.append(chartKey(chart));
  return root;
}

function chartKey(chart) {
  const list = make("ul", "ts-key");
  chart.series.forEach((one) => {
    const item = make("li");
    const swatch = svg("svg", { viewBox: "0 0 26 10", "aria-hidden": "true", style: `color:${one.colour}` }, "ts-swatch");
    swatch.append(svg("path", { d: "M0 5H26", "stroke-dasharray": one.dash }, "ts-curve"), svg("circle", { cx: 13, cy: 5, r: 3 }, "ts-dot"));
    item.append(swatch, make("span", "", one.label));
    list.append(item);
  });
  (chart.key || []).forEach(([kind, words]) => {
    const item = make("li");
    const swatch = svg("svg", { viewBox: "0 0 16 16", "aria-hidden": "true" }, "ts-swatch ts-swatch-square");
    if (kind === "ring") swatch.append(svg("path", { d: "M1 8L8 1L15 8L8 15Z" }, "ts-ring"));
    else swatch.append(svg("circle", { cx: 8, cy: 8, r: 4 }, kind === "open" ? "ts-dot ts-open" : "ts-dot"));
    item.append(swatch, make("span", "", words));
    list.append(item);
  });
  return list;
}

// The numbers behind a chart, built when they are opened.
function numbersTable(headers, rows) {
  const root = make("details", "ts-numbers");
  root.append(make("summary", "", "numbers"));
  root.addEventListener("toggle", () => {
    if (!root.open || root.querySelector("table")) return;
    const table = make("table");
    const head = make("tr");
    headers.forEach((name) => head.append(Object.assign(make("th", "", name), { scope: "col" })));
    table.append(head, ...rows().map((row) => {
      const line = make("tr");
      line.append(...row.map((value) => make("td", "", value === null || value === undefined ? "–" : typeof value === "number" ? number(value) : value)));
      return line;
    }));
    const frame = make("div", "ts-table-frame");
    Object.assign(frame, { tabIndex: 0 });
    frame.setAttribute("role", "region");
    frame.setAttribute("aria-label", "The numbers behind the chart");
    frame.append(table);
    root.append(frame);
  });
  return root;
}
