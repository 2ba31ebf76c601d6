// Charts of the panel "Why" that are made of the maps of a stage: score against position, two scores against each other,
// histogram with threshold, and how far the lanes agree.

const BINS = 24;
const SCATTER_MOST = 3000; // points drawn; more cannot be told apart

// Ranks from 1, equal values at the middle of their places.
function midRanks(values) {
  const order = values.map((value, i) => [value, i]).sort((a, b) => a[0] - b[0]);
  const ranks = new Array(values.length);
  for (let start = 0; start < order.length;) {
    let end = start;
    while (end + 1 < order.length && order[end + 1][0] === order[start][0]) end += 1;
    for (let i = start; i <= end; i++) ranks[order[i][1]] = (start + end) / 2 + 1;
    start = end + 1;
  }
  return ranks;
}

// Spearman's correlation of paired numbers; null where one of them is constant, or there are fewer than three.
function spearman(xs, ys) {
  if (xs.length < 3) return null;
  const [a, b] = [midRanks(xs), midRanks(ys)];
  const mean = (xs.length + 1) / 2;
  let [ab, aa, bb] = [0, 0, 0];
  a.forEach((rank, i) => {
    ab += (rank - mean) * (b[i] - mean);
    aa += (rank - mean) ** 2;
    bb += (b[i] - mean) ** 2;
  });
  return aa && bb ? ab / Math.sqrt(aa * bb) : null;
}

function correlationWords(value) {
  return value === null ? "" : `Spearman’s ρ ${value < 0 ? "−" : ""}${Math.abs(value).toFixed(2)}`;
}

// The tokens that have a number in all of some maps.
function tokensOf(...maps) {
  return maps[0].values.map((_, token) => token).filter((token) => maps.every((map) => map.values[token] !== null));
}

// Beyond what can be told apart, every so many are drawn; the correlation is of all.
function thinned(tokens, marked) {
  if (tokens.length <= SCATTER_MOST) return tokens;
  const each = Math.ceil(tokens.length / SCATTER_MOST);
  return tokens.filter((token, i) => i % each === 0 || marked.has(token));
}

function scatterOf(label, tokens, x, y, xLabel, yLabel) {
  const shows = new Set(state.grid.shows);
  const shown = thinned(tokens, shows);
  const rho = correlationWords(spearman(tokens.map(x), tokens.map(y)));
  return {
    kind: "scatter", label: rho ? `${label} · ${rho}` : label, x: shown.map(x), y: shown.map(y), x_label: xLabel, y_label: yLabel,
    line: null, names: [], tokens: shown, marked: shown.flatMap((token, i) => (shows.has(token) ? [i] : [])), markedName: "evidence",
  };
}

function labelWithUnit({ label, unit }) {
  return unit ? `${label}, ${unit}` : label;
}

// Numbers as they are drawn: where a few are many times the others, by their logarithm, or all others would be one dot.
const SKEWED = 20;

function axisOf(map) {
  const known = map.values.filter((value) => value !== null).sort((a, b) => a - b);
  const log = known.length > 0 && known[0] > 0 && (map.scale === "log" || known.at(-1) > SKEWED * known[Math.floor(known.length / 2)]);
  const of = (token) => (log && map.values[token] !== null ? Math.log10(map.values[token]) : map.values[token]);
  return { log, of, label: log ? `log₁₀ of ${labelWithUnit(map)}` : labelWithUnit(map) };
}

// The score against the place in the sequence: a method that goes by position shows as a slope.
function positionChart(stage) {
  const map = stage.scored ? stage.maps[0] : null;
  if (!map) return [];
  const tokens = tokensOf(map);
  if (tokens.length < 3) return [];
  return [scatterOf("Score against position", tokens, (token) => token + 1, axisOf(map).of, "position in the sequence", axisOf(map).label)];
}

// Attention beside error, as ApET's Figure 2: from one stage, or from two lanes of the run that saw the same tokens.
const IS_ATTENTION = /attention/i;
const IS_ERROR = /approximation error/i;

function mapsNamed(pattern) {
  return state.lanes.flatMap((lane) => lane.data.stages.slice(0, 1).flatMap((stage) => stage.maps.filter((map) => pattern.test(map.label)).map((map) => ({ lane, map }))));
}

function attentionBesideError(lane) {
  const errors = mapsNamed(IS_ERROR);
  const attentions = mapsNamed(IS_ATTENTION);
  for (const error of errors) {
    for (const attention of attentions) {
      if (![error.lane, attention.lane].includes(lane)) continue;
      const tokens = tokensOf(attention.map, error.map);
      if (tokens.length < 3) continue;
      return [scatterOf(`${attention.map.label} (${attention.lane.data.label}) beside ${error.map.label.toLowerCase()} (${error.lane.data.label})`, tokens,
        axisOf(attention.map).of, axisOf(error.map).of, axisOf(attention.map).label, axisOf(error.map).label)];
    }
  }
  return [];
}

// How the scores are spread, by kept and dropped. Where the stage keeps the highest, the threshold is the lowest of them.
function histogramOf(values, kept, bins = BINS) {
  const known = values.flatMap((value, token) => (value === null ? [] : [token]));
  let [low, high] = [Infinity, -Infinity];
  known.forEach((token) => { low = Math.min(low, values[token]); high = Math.max(high, values[token]); });
  if (!known.length || low === high) return null;
  const width = (high - low) / bins;
  const counts = Array.from({ length: bins }, () => [0, 0]);
  let [least, most] = [Infinity, -Infinity];
  known.forEach((token) => {
    counts[Math.min(Math.floor((values[token] - low) / width), bins - 1)][kept[token] ? 0 : 1] += 1;
    if (kept[token]) least = Math.min(least, values[token]);
    else most = Math.max(most, values[token]);
  });
  return { low, high, width, counts, threshold: least >= most && Number.isFinite(least) && Number.isFinite(most) ? least : null };
}

function histogramCard(stage, kept) {
  const map = stage.scored ? stage.maps[0] : null;
  const axis = map && axisOf(map);
  const bars = map && histogramOf(map.values.map((_, token) => axis.of(token)), kept);
  if (!bars) return [];
  const shown = (place) => shortNumber(axis.log ? 10 ** place : place);
  const { width, height, left, right, top, bottom } = CHART;
  const root = make("figure", "tv-chart");
  const tallest = Math.max(...bars.counts.map(([a, b]) => a + b));
  const px = (value) => left + ((value - bars.low) / (bars.high - bars.low)) * (width - left - right);
  const py = (count) => height - bottom - (count / tallest) * (height - top - bottom);
  const svg = svgNode("svg", { viewBox: `0 0 ${width} ${height}`, role: "img" }, "tv-chart-drawing");
  const words = bars.threshold === null ? "kept and dropped overlap: there is no threshold" : `threshold ${shown(bars.threshold)}: what is below is dropped`;
  svg.setAttribute("aria-label", `Histogram of ${map.label}; ${words}. The numbers are in the table below.`);
  const at = { y0: 0, y1: tallest, py, x0: bars.low, x1: bars.high, px, bars: false, xs: [], n: 0, wide: 1 };
  drawAxes(svg, { x: [1], names: [], x_label: axis.label, y_label: "tokens" }, { ...at, xs: [0.5] });
  const wide = Math.max((width - left - right) / bars.counts.length - 1.5, 1);
  bars.counts.forEach(([stays, goes], i) => {
    const x = px(bars.low + i * bars.width) + 0.75;
    for (const [from, count, kind] of [[0, goes, "dropped"], [goes, stays, "kept"]]) {
      if (count) svg.append(svgNode("rect", { x, y: py(from + count), width: wide, height: py(from) - py(from + count) }, kind === "kept" ? "tv-column" : "tv-column tv-column-dropped"));
    }
  });
  if (bars.threshold !== null) {
    const x = px(bars.threshold);
    svg.append(svgNode("line", { x1: x, x2: x, y1: top, y2: height - bottom }, "tv-threshold"));
    const node = svgNode("text", { x: x > width / 2 ? x - 5 : x + 5, y: top + 9, "text-anchor": x > width / 2 ? "end" : "start" }, "tv-threshold-label");
    node.textContent = shown(bars.threshold);
    svg.append(node);
  }
  const key = make("ul", "tv-legend tv-chart-key");
  for (const [kind, name] of [["column", "kept"], ["column-dropped", "dropped"]]) {
    const item = make("li");
    const swatch = svgNode("svg", { viewBox: "0 0 12 12", "aria-hidden": "true" }, "tv-key-swatch");
    swatch.append(svgNode("rect", { width: 12, height: 12 }, `tv-column tv-${kind}`));
    item.append(swatch, make("span", "", name));
    key.append(item);
  }
  root.append(make("figcaption", "tv-chart-label", "How the scores are spread"), svg, make("p", "tv-note tv-chart-told", words), key,
    tableOf([`${map.label} from`, "to", "kept", "dropped"], bars.counts.length, (i) => [shown(bars.low + i * bars.width),
      shown(bars.low + (i + 1) * bars.width), String(bars.counts[i][0]), String(bars.counts[i][1])]));
  return [root];
}

function reasonCard(lane) {
  return lane.data.why ? [make("p", "tv-why-reason", lane.data.why)] : [];
}
