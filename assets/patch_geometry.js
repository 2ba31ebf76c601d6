// Geometry and numbers of the patch view. No DOM here. Boxes and points are in pixels of the original image.
// The files that tokviz/ui/components.py lists are joined in that order into one function body; this is the first.

function boxOf(grid, token) {
  const i = 4 * token;
  return [grid.box[i], grid.box[i + 1], grid.box[i + 2], grid.box[i + 3]];
}

function hasArea(box) {
  return box[2] > box[0] && box[3] > box[1];
}

function centreOf(grid, token) {
  const [x0, y0, x1, y1] = boxOf(grid, token);
  return [(x0 + x1) / 2, (y0 + y1) / 2];
}

// An image may be looked at twice: whole (level 0) and in crops of a larger copy (level 1). The levels in order, each
// with its name.
function levelsOf(grid) {
  const levels = [...new Set(grid.views.map((view) => view.level || 0))].sort((a, b) => a - b);
  return levels.map((level) => {
    const views = grid.views.filter((view) => (view.level || 0) === level);
    return { level, name: views.length === 1 ? views[0].name : `${views.length} crops` };
  });
}

// The grid as one level of it is drawn: its views are one grid of rows and columns, and tokens of other levels are
// no patches. A grid with a single view is drawn as it is.
function levelGrid(grid, level) {
  if (grid.views.length < 2) return grid;
  const views = grid.views.filter((view) => (view.level || 0) === level);
  const viewOf = (token) => grid.views[grid.view[token]];
  const here = grid.row.map((row, token) => row >= 0 && views.includes(viewOf(token)));
  const placed = (places, edge) => places.map((place, token) => (here[token] ? place + (viewOf(token)[edge] || 0) : -1));
  return {
    ...grid,
    views,
    view: here.map((drawn) => (drawn ? level : -1)),
    row: placed(grid.row, "top"),
    col: placed(grid.col, "left"),
    box: grid.box.map((edge, i) => (here[Math.floor(i / 4)] ? edge : 0)),
  };
}

// Where boxes overlap, the smallest one under the point is meant.
function tokenAt(grid, x, y) {
  let best = -1;
  let bestArea = Infinity;
  for (let token = 0; token < grid.row.length; token++) {
    const [x0, y0, x1, y1] = boxOf(grid, token);
    const area = (x1 - x0) * (y1 - y0);
    if (area > 0 && area < bestArea && x >= x0 && x < x1 && y >= y0 && y < y1) {
      best = token;
      bestArea = area;
    }
  }
  return best;
}

// The neighbour in the same view, or the token itself at the border.
function step(grid, token, rows, cols) {
  if (token < 0) return grid.row.findIndex((row) => row >= 0);
  for (let other = 0; other < grid.row.length; other++) {
    if (grid.view[other] === grid.view[token]
      && grid.row[other] === grid.row[token] + rows && grid.col[other] === grid.col[token] + cols) return other;
  }
  return token;
}

// The four neighbours of each token in its own view (above, right, below, left), -1 where there is none; once per grid.
const neighbourhoods = new WeakMap();

function neighboursOf(grid) {
  if (!neighbourhoods.has(grid)) {
    const at = new Map();
    const place = (token, rows, cols) => `${grid.view[token]}/${grid.row[token] + rows}/${grid.col[token] + cols}`;
    grid.row.forEach((_, token) => { if (hasArea(boxOf(grid, token))) at.set(place(token, 0, 0), token); });
    neighbourhoods.set(grid, grid.row.map((_, token) => [[-1, 0], [0, 1], [1, 0], [0, -1]]
      .map(([rows, cols]) => at.get(place(token, rows, cols)) ?? -1)));
  }
  return neighbourhoods.get(grid);
}

// What the views show together: crops of one image lie side by side. Views that hold padding only show nothing.
function seenTogether(grid) {
  const seen = grid.views.map((view) => view.seen).filter(hasArea);
  return seen.length ? [0, 1, 2, 3].map((k) => seen.map((box) => box[k]).reduce((a, b) => (k < 2 ? Math.min(a, b) : Math.max(a, b)))) : null;
}

function hasUnseenMargin(payload) {
  if (payload.grid.apart) return false;
  const [width, height] = payload.size;
  const seen = seenTogether(payload.grid);
  return !seen || !(seen[0] <= 0.5 && seen[1] <= 0.5 && seen[2] >= width - 0.5 && seen[3] >= height - 0.5);
}

// The payload says of a stage only what it changed, on the tokens it was given. Here every list gets its N entries:
// kept (indices), order, maps, and carriers: who carries each token after this stage, through all merges so far, or,
// where nothing was merged and the stage says so (covers), who stands for it: of this stage alone.
function unpackStages(stages, nTokens) {
  let alive = Array.from({ length: nTokens }, (_, token) => token);
  let carriers = null;
  return stages.map((stage) => {
    const spread = (values, missing) => {
      const full = new Array(nTokens).fill(missing);
      alive.forEach((token, i) => { full[token] = values[i]; });
      return full;
    };
    const gone = new Set(stage.gone);
    const kept = alive.filter((token) => !gone.has(token));
    const order = stage.order && spread(stage.order, -1);
    const maps = stage.maps.map((map) => ({ ...map, values: spread(map.values, null) }));
    if (stage.absorbed || carriers) carriers = nextCarriers(carriers, kept, stage.absorbed || [], nTokens);
    alive = kept;
    const covers = Boolean(stage.covered) && !carriers;
    const groups = covers ? nextCarriers(null, kept, stage.covered, nTokens) : carriers;
    return { ...stage, kept, order, maps, carriers: groups, merges: Boolean(stage.absorbed), covers };
  });
}

function nextCarriers(before, kept, absorbed, nTokens) {
  const step = new Array(nTokens).fill(-1);
  kept.forEach((token) => { step[token] = token; });
  for (let i = 0; i < absorbed.length; i += 2) step[absorbed[i]] = absorbed[i + 1];
  if (!before) return step;
  return before.map((carrier) => (carrier < 0 ? -1 : step[carrier]));
}

// How many stages each token survived; as many as there are for those kept to the end.
function survivalOf(stages, nTokens) {
  const depth = new Array(nTokens).fill(stages.length);
  stages.forEach((stage, at) => stage.gone.forEach((token) => { depth[token] = at; }));
  return depth;
}

// The orders of a stage that can be drawn: in which step a token was picked, and where it stands in the sequence behind it.
function orderingsOf(stage, nTokens, ranks) {
  const orderings = [];
  if (stage.order && stage.order.some((step) => step >= 0)) {
    orderings.push({ label: "step at which it was picked", places: stage.order.map((step) => (step < 0 ? null : step + 1)) });
  }
  if (stage.sequence) {
    const places = new Array(nTokens).fill(null);
    stage.sequence.forEach((token, i) => { if (token >= 0) places[token] = i + 1; });
    orderings.push({ label: "place in the sequence behind this stage", places });
  }
  return orderings.length || !ranks ? orderings : byRank(stage, ranks);
}

// A stage that takes the highest scores at once has an order all the same: with a smaller budget, the last would go.
function byRank(stage, { ranks }) {
  const { length } = stage.kept;
  if (!length || !stage.kept.every((token) => ranks[token] !== null && ranks[token] <= length)) return [];
  return [{ label: "all at once, by rank of the score", places: ranks.map((rank) => (rank !== null && rank <= length ? rank : null)) }];
}

// Everything about a stage that is looked up per patch while the pointer moves, computed once.
function indexStage(stage, nTokens) {
  const kept = new Uint8Array(nTokens);
  stage.kept.forEach((token) => { kept[token] = 1; });
  const basis = new Uint8Array(nTokens);
  stage.basis.forEach((token) => { basis[token] = 1; });
  const groups = new Map();
  if (stage.carriers) {
    stage.carriers.forEach((absorber, token) => {
      if (absorber < 0) return;
      if (!groups.has(absorber)) groups.set(absorber, []);
      groups.get(absorber).push(token);
    });
  }
  // By size, the largest first: the number of a group's colour is also its place among the largest.
  const hues = new Map();
  [...groups].filter(([, members]) => members.length > 1)
    .sort(([a, one], [b, other]) => other.length - one.length || a - b).forEach(([absorber], i) => hues.set(absorber, i));
  const ranks = stage.scored ? ranksOf(stage.maps[0].values) : null;
  return { kept, basis, groups, hues, ranks, orderings: orderingsOf(stage, nTokens, ranks) };
}

// Rank 1 is the highest score; ties go to the lowest index, as in the pruners.
function ranksOf(values) {
  const alive = values.map((value, token) => [value, token]).filter(([value]) => value !== null);
  alive.sort((a, b) => b[0] - a[0] || a[1] - b[1]);
  const ranks = new Array(values.length).fill(null);
  alive.forEach(([, token], place) => { ranks[token] = place + 1; });
  return { ranks, of: alive.length };
}

// Maps a value to 0..1. A log scale spans three decades at most, as in the exported figure: a basis token's error is
// rounding noise near zero, and would take all the contrast. Everything below (and zero) sits at the low end.
const LOG_DECADES = 3;

// scale: "linear", "log" or "rank", or null for the one that the method gave its map. Returns what was used: a log scale
// needs a value above zero.
function scaleOf(map, scale = null) {
  const wanted = scale || map.scale;
  const used = wanted === "log" && !map.values.some((value) => value > 0) ? "linear" : wanted;
  const log = used === "log";
  const usable = map.values.filter((value) => value !== null && (!log || value > 0));
  let low = Infinity;
  let high = -Infinity;
  usable.forEach((value) => { low = Math.min(low, value); high = Math.max(high, value); });
  if (!usable.length) return { used, low: null, high: null, clipped: false, at: () => 0 };
  if (used === "rank") return { used, low, high, clipped: false, at: rankShares(usable) };
  const clipped = log && low < high / 10 ** LOG_DECADES;
  if (clipped) low = high / 10 ** LOG_DECADES;
  const bend = log ? Math.log : (value) => value;
  const span = bend(high) - bend(low);
  return {
    used,
    low,
    high,
    clipped,
    at: (value) => (log && value <= low ? 0 : span > 0 ? (bend(value) - bend(low)) / span : 0.5),
  };
}

// The share of the values below a value, equal ones in the middle of their places.
function rankShares(values) {
  const sorted = Float64Array.from(values).sort();
  const first = new Map();
  const last = new Map();
  sorted.forEach((value, at) => {
    if (!first.has(value)) first.set(value, at);
    last.set(value, at);
  });
  const span = sorted.length - 1;
  return (value) => (span > 0 ? (first.get(value) + last.get(value)) / 2 / span : 0.5);
}

function orderShare(place, last) {
  return last > 1 ? 1 - (0.9 * (place - 1)) / (last - 1) : 1;
}

// The dark end of the map stays readable against black images.
function depthShare(survived, stages) {
  return 0.1 + (0.85 * survived) / stages;
}

function shortNumber(value) {
  if (value === null || value === undefined) return "–";
  if (value === 0) return "0";
  const size = Math.abs(value);
  const words = size >= 10000 || size < 0.001 ? value.toExponential(1) : String(Number(value.toPrecision(3)));
  return words.replaceAll("-", "−");
}

// Inferno (perceptually uniform), 17 anchors.
const INFERNO = ("000004 0b0724 210c4a 3d0965 57106e 71196e 8a226a a32c61 bc3754 d24644 e45a31 f1731d f98e09 fcac11 "
  + "f9cb35 f2ea69 fcffa4").split(" ");

function heat(t) {
  return between(INFERNO, Math.min(Math.max(t, 0), 1));
}

function between(colours, share) {
  const place = share * (colours.length - 1);
  const i = Math.min(Math.floor(place), colours.length - 2);
  const part = (hex, k) => parseInt(hex.slice(2 * k, 2 * k + 2), 16);
  return [0, 1, 2].map((k) => Math.round(
    part(colours[i], k) + (place - i) * (part(colours[i + 1], k) - part(colours[i], k))));
}

// Purple to orange over a light grey (ColorBrewer's PuOr), for -1 to 1.
const DIVERGING = "3b1a5e 5e3c99 8d7fbb b9b0d6 e6e4ec f4f2ef f9dcb5 f3b26a e08214 b35806 6f3504".split(" ");

function diverge(t) {
  return between(DIVERGING, (Math.min(Math.max(t, -1), 1) + 1) / 2);
}

// Golden-angle hues keep neighbouring group numbers apart; two lightness steps help where hues are close.
function groupColour(i, alpha) {
  return `hsla(${Math.round((i * 137.508 + 200) % 360)}, 62%, ${i % 2 ? 44 : 62}%, ${alpha})`;
}
