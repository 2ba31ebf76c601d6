// Painting of one lane: the canvas (image, cells) and the SVG above it (evidence, hovered and pinned patch, links).

const MOST_PIXELS = 4e7; // of all canvases together, four bytes each
const SVG = "http://www.w3.org/2000/svg";

function palette(element) {
  const style = getComputedStyle(element);
  const read = (name) => style.getPropertyValue(name).trim();
  return { kept: read("--tv-kept"), basis: read("--tv-basis"), veil: read("--tv-veil"), hatch: read("--tv-hatch") };
}

function hatchPattern(context, colour, spacing, ratio) {
  const tile = document.createElement("canvas");
  tile.width = tile.height = Math.round(spacing * ratio);
  const pen = tile.getContext("2d");
  pen.strokeStyle = colour;
  pen.lineWidth = Math.max(ratio * 0.8, 0.8);
  const n = tile.width;
  pen.beginPath();
  for (const shift of [-n, 0, n]) {
    pen.moveTo(shift - 1, n + 1);
    pen.lineTo(shift + n + 1, -1);
  }
  pen.stroke();
  return context.createPattern(tile, "repeat");
}

// scene: {payload, image (loaded HTMLImageElement or null), stage, index, view, map, ordering, survival, opacity, colours,
// settings (of the views, see view_settings.js), sides (A vs B: N letters), chance (of randomDifference)}
function paint(canvas, scene) {
  // Zoomed in, a canvas is as large as the whole image would be; what is drawn of it is limited, for all lanes together.
  const [across, down] = scene.box;
  const area = Math.max(across * down, 1);
  const ratio = Math.min(window.devicePixelRatio || 1, Math.sqrt(MOST_PIXELS / Math.max(scene.lanes || 1, 4) / area));
  const width = Math.max(Math.round(across * ratio), 1);
  const height = Math.max(Math.round(down * ratio), 1);
  if (canvas.width !== width || canvas.height !== height) {
    canvas.width = width;
    canvas.height = height;
  }
  const context = canvas.getContext("2d");
  const [imageWidth, imageHeight] = scene.payload.size;
  const brush = { context, ratio, sx: width / imageWidth, sy: height / imageHeight, grid: scene.payload.grid };
  context.setTransform(1, 0, 0, 1, 0, 0);
  context.clearRect(0, 0, width, height);
  if (scene.image) drawPieces(brush, scene);
  if (scene.view === "ab" && scene.sides) {
    paintSides(brush, scene);
  } else if (scene.stage) {
    if (scene.view === "score" && scene.map) paintScore(brush, scene);
    else if (scene.view === "clusters" && scene.stage.carriers) paintClusters(brush, scene);
    else if (scene.view === "order" && scene.ordering) paintOrder(brush, scene);
    else if (scene.view === "chance" && scene.chance) paintChance(brush, scene);
    else if (scene.view === "dropped" && scene.survival.stages > 1) paintSurvival(brush, scene);
    else paintKept(brush, scene);
  }
  if (hasUnseenMargin(scene.payload)) paintUnseen(brush, scene, width, height);
  if (scene.stage && scene.view === "kept" && scene.payload.grid.apart) paintShares(brush, scene);
}

// On every view that stands by itself, the share of its tokens that were kept.
function paintShares(brush, { index, payload }) {
  const { context, ratio } = brush;
  const counts = new Map(payload.pieces.map((piece) => [piece.at, { kept: 0, all: 0 }]));
  payload.grid.row.forEach((row, token) => {
    const count = row >= 0 ? counts.get(payload.grid.view[token]) : null;
    if (!count) return;
    count.all += 1;
    count.kept += index.kept[token];
  });
  context.font = `700 ${11 * ratio}px system-ui, sans-serif`;
  context.textAlign = "left";
  context.textBaseline = "middle";
  for (const { at, target } of payload.pieces) {
    const words = `${Math.round((100 * counts.get(at).kept) / Math.max(counts.get(at).all, 1))}%`;
    const [x, y] = [target[0] * brush.sx + 3 * ratio, target[1] * brush.sy + 3 * ratio];
    context.fillStyle = "rgba(0,0,0,.78)";
    context.fillRect(x, y, context.measureText(words).width + 8 * ratio, 16 * ratio);
    context.fillStyle = "#fff";
    context.fillText(words, x + 4 * ratio, y + 8.5 * ratio);
  }
}

// The parts of the image where the sheet has them; most often the whole of it in its place.
function drawPieces(brush, { image, payload }) {
  const [fx, fy] = [image.naturalWidth / payload.imageSize[0], image.naturalHeight / payload.imageSize[1]];
  for (const { source, target } of payload.pieces) {
    const [x, y, right, bottom] = target.map((edge, k) => Math.round(edge * (k % 2 ? brush.sy : brush.sx)));
    brush.context.drawImage(image, source[0] * fx, source[1] * fy, (source[2] - source[0]) * fx, (source[3] - source[1]) * fy,
      x, y, right - x, bottom - y);
  }
}

// The image alone, on a canvas that has its size already.
function paintImage(canvas, payload, image) {
  const [width, height] = payload.size;
  const brush = { context: canvas.getContext("2d"), sx: canvas.width / width, sy: canvas.height / height };
  if (image) drawPieces(brush, { image, payload });
}

function cellPath(brush, tokens) {
  const path = new Path2D();
  for (const token of tokens) {
    if (hasArea(boxOf(brush.grid, token))) path.rect(...cellOf(brush, token));
  }
  return path;
}

// Whole device pixels: neighbouring cells then share an edge without a seam.
function cellOf({ grid, sx, sy }, token) {
  const box = boxOf(grid, token);
  const [x, y] = [Math.round(box[0] * sx), Math.round(box[1] * sy)];
  return [x, y, Math.round(box[2] * sx) - x, Math.round(box[3] * sy) - y];
}

// Lines along the sides of cells, wherever ``test(token, neighbour)`` asks for one (-1: no neighbour on that side).
function sides(brush, tokens, thickness, test) {
  const path = new Path2D();
  const half = (thickness * brush.ratio) / 2;
  const { width, height } = brush.context.canvas;
  const inside = (value, end) => Math.min(Math.max(value, half), end - half);
  const neighbours = neighboursOf(brush.grid);
  for (const token of tokens) {
    const box = boxOf(brush.grid, token);
    if (!hasArea(box)) continue;
    const [x0, x1] = [box[0], box[2]].map((x) => inside(Math.round(x * brush.sx), width));
    const [y0, y1] = [box[1], box[3]].map((y) => inside(Math.round(y * brush.sy), height));
    const lines = [[x0, y0, x1, y0], [x1, y0, x1, y1], [x0, y1, x1, y1], [x0, y0, x0, y1]];
    lines.forEach(([xa, ya, xb, yb], side) => {
      if (!test(token, neighbours[token][side])) return;
      path.moveTo(xa, ya);
      path.lineTo(xb, yb);
    });
  }
  return path;
}

function strokeSides(brush, tokens, colour, thickness, test) {
  const { context, ratio } = brush;
  context.strokeStyle = colour;
  context.lineWidth = thickness * ratio;
  context.lineCap = "square";
  context.stroke(sides(brush, tokens, thickness, test));
}

// Around the regions that the tokens form, so that small patches are not drowned in lines; hairlines between patches.
function outline(brush, tokens, colour, thickness, between = 0) {
  const members = new Set(tokens);
  if (between) {
    brush.context.globalAlpha = between;
    strokeSides(brush, tokens, colour, 0.75, (token, other) => token < other && members.has(other));
    brush.context.globalAlpha = 1;
  }
  strokeSides(brush, tokens, colour, thickness, (_, other) => !members.has(other));
}

function fillDropped(brush, tokens, scene) {
  const { context } = brush;
  const path = cellPath(brush, tokens);
  context.globalAlpha = scene.opacity;
  context.fillStyle = scene.colours.veil;
  context.fill(path);
  context.globalAlpha = Math.min(scene.opacity * 1.2, 1);
  context.fillStyle = hatchPattern(context, scene.colours.hatch, 4, brush.ratio);
  context.fill(path);
  context.globalAlpha = 1;
}

function tokensWhere(brush, test) {
  const tokens = [];
  for (let token = 0; token < brush.grid.row.length; token++) if (test(token)) tokens.push(token);
  return tokens;
}

// A second sheet of the canvas's size, drawn on by ``draw`` and laid on top.
function laidOn(brush, alpha, draw) {
  const sheet = document.createElement("canvas");
  sheet.width = brush.context.canvas.width;
  sheet.height = brush.context.canvas.height;
  draw({ ...brush, context: sheet.getContext("2d") });
  brush.context.globalAlpha = alpha;
  brush.context.drawImage(sheet, 0, 0);
  brush.context.globalAlpha = 1;
}

function cutOut(brush, tokens) {
  brush.context.globalCompositeOperation = "destination-out";
  brush.context.fillStyle = "#000";
  brush.context.fill(cellPath(brush, tokens));
  brush.context.globalCompositeOperation = "source-over";
}

// Dropped cells, but not where the cells of ``shown`` lie on them.
function veil(brush, tokens, scene, shown) {
  if (!brush.grid.stacked) {
    fillDropped(brush, tokens, scene);
    return;
  }
  laidOn(brush, 1, (over) => {
    fillDropped(over, tokens, scene);
    cutOut(over, shown);
  });
}

// Both levels of an image at once: dropped is what no token shows any more; what only a token of the whole image
// shows, coarsely, is veiled by half.
function paintBothKept(brush, scene) {
  const { index, colours } = scene;
  const { stacked } = brush.grid;
  const here = (lower, kept) => tokensWhere(brush, (token) => stacked[token] === lower && brush.grid.row[token] >= 0
    && Boolean(index.kept[token]) === kept);
  const [coarse, fine] = [here(true, true), here(false, true)];
  veil(brush, [...here(true, false), ...here(false, false)], scene, [...coarse, ...fine]);
  laidOn(brush, scene.opacity * 0.5, (over) => {
    over.context.fillStyle = colours.veil;
    over.context.fill(cellPath(over, coarse));
    cutOut(over, fine);
  });
  outline(brush, coarse, "rgba(0,0,0,.6)", 3);
  outline(brush, coarse, "#fff", 1.5, 0.2);
  outline(brush, fine, colours.kept, 1.5, 0.55);
}

function paintKept(brush, scene) {
  const { index, stage, colours } = scene;
  if (brush.grid.stacked) {
    paintBothKept(brush, scene);
  } else {
    fillDropped(brush, tokensWhere(brush, (token) => !index.kept[token]), scene);
    outline(brush, stage.kept, colours.kept, 1.5, 0.55);
  }
  outline(brush, stage.basis.filter((token) => index.kept[token]), colours.basis, 2);
}

const COLOUR_STEPS = 250;

// One colour per token; tokens without a share are veiled and hatched. shares: N numbers from 0 to 1, or null. Where two
// levels lie on each other, the higher share is seen.
function paintHeat(brush, scene, shares, outlined, colour = heat) {
  const drawn = tokensWhere(brush, (token) => hasArea(boxOf(brush.grid, token)));
  const missing = drawn.filter((token) => shares[token] === null);
  const known = drawn.filter((token) => shares[token] !== null);
  // By steps of colour, from low to high: a colour is set once, not once per token.
  const steps = new Map();
  known.forEach((token) => {
    const step = Math.round(shares[token] * COLOUR_STEPS);
    if (steps.has(step)) steps.get(step).push(token);
    else steps.set(step, [token]);
  });
  if (missing.length) veil(brush, missing, { ...scene, opacity: Math.max(scene.opacity, 0.7) }, known);
  laidOn(brush, scene.opacity, (over) => {
    for (const [step, tokens] of [...steps].sort(([one], [other]) => one - other)) {
      over.context.fillStyle = `rgb(${colour(step / COLOUR_STEPS).join(",")})`;
      for (const token of tokens) over.context.fillRect(...cellOf(brush, token));
    }
  });
  outline(brush, outlined, "rgba(0,0,0,.6)", 2.5);
  outline(brush, outlined, "rgba(255,255,255,.95)", 1.1);
}

function paintScore(brush, scene) {
  const scale = scaleOf(scene.map, scene.settings.scale);
  paintHeat(brush, scene, scene.map.values.map((value) => (value === null ? null : scale.at(value))), scene.stage.kept);
}

// The first pick is the brightest, as the highest score is. While it is replayed, later picks are not there yet.
function paintOrder(brush, scene) {
  const { places } = scene.ordering;
  const last = lastPlace(places);
  const now = Math.min(scene.settings.replay ?? last, last);
  const shares = places.map((place) => (place === null || place > now ? null : orderShare(place, last)));
  paintHeat(brush, scene, shares, scene.stage.kept.filter((token) => places[token] === null || places[token] <= now));
  for (const token of tokensWhere(brush, (t) => shares[t] !== null)) {
    label(brush, token, String(places[token]), shares[token] > 0.62 ? "#000" : "#fff", 17);
  }
  if (now < last) outline(brush, tokensWhere(brush, (token) => places[token] === now), "#ffd23f", 3);
}

function lastPlace(places) {
  return places.reduce((most, place) => Math.max(most, place || 0), 0);
}

function paintSurvival(brush, scene) {
  const { depth, stages } = scene.survival;
  paintHeat(brush, scene, depth.map((survived) => depthShare(survived, stages)),
    tokensWhere(brush, (token) => depth[token] === stages));
}

// A number inside a cell, where the cell is large enough to read it (least: CSS pixels).
function label(brush, token, text, colour, least) {
  const box = boxOf(brush.grid, token);
  const side = Math.min((box[2] - box[0]) * brush.sx, (box[3] - box[1]) * brush.sy);
  if (side < least * brush.ratio) return false;
  const { context } = brush;
  context.font = `700 ${Math.min(side * (text.length > 2 ? 0.42 : 0.5), 14 * brush.ratio)}px system-ui, sans-serif`;
  context.textAlign = "center";
  context.textBaseline = "middle";
  context.fillStyle = colour;
  const [x, y] = centreOf(brush.grid, token);
  context.fillText(text, x * brush.sx, y * brush.sy + side * 0.03);
  return true;
}

// Veil the whole image on a second sheet, cut out what the model saw, lay the sheet on top.
function paintUnseen(brush, scene, width, height) {
  const sheet = document.createElement("canvas");
  sheet.width = width;
  sheet.height = height;
  const pen = sheet.getContext("2d");
  pen.fillStyle = "rgba(14,16,20,.78)";
  pen.fillRect(0, 0, width, height);
  const seen = scene.payload.grid.views.map((view) => view.seen.map((edge, k) => Math.round(edge * (k % 2 ? brush.sy : brush.sx))));
  seen.forEach(([x0, y0, x1, y1]) => pen.clearRect(x0, y0, x1 - x0, y1 - y0));
  brush.context.drawImage(sheet, 0, 0);
  brush.context.strokeStyle = "rgba(255,255,255,.7)";
  brush.context.lineWidth = brush.ratio;
  seen.forEach(([x0, y0, x1, y1]) => brush.context.strokeRect(x0, y0, x1 - x0, y1 - y0));
}

function svgNode(name, attributes, className) {
  const node = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  if (className) node.setAttribute("class", className);
  return node;
}

function svgBox(box, className) {
  return svgNode("rect", { x: box[0], y: box[1], width: box[2] - box[0], height: box[3] - box[1] }, className);
}

// A little outside what is marked (``least`` in pixels of the image), so that a mark does not cover what it points at.
function around([x0, y0, x1, y1], share, least) {
  const [dx, dy] = [(x1 - x0) * share, (y1 - y0) * share].map((by) => Math.max(by, least));
  return [x0 - dx, y0 - dy, x1 + dx, y1 + dy];
}

// marks: {hover, pin}; the view of groups links a kept patch to all that it absorbed, the one of kept tokens the evidence.
function drawMarks(svg, scene, marks) {
  const [width, height] = scene.payload.size;
  const { grid, evidence } = scene.payload;
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  const nodes = [];
  const pixel = width / Math.max(scene.box[0], 1);
  evidence.map((box) => around(box, 0, 2 * pixel)).forEach((box) => nodes.push(svgBox(box, "tv-evidence-casing"), svgBox(box, "tv-evidence")));
  const shown = marks.hover >= 0 ? marks.hover : marks.pin;
  if (["kept", "clusters"].includes(scene.view) && scene.stage && scene.stage.carriers) {
    nodes.push(...absorbedLinks(scene, pixel));
    if (shown >= 0 && scene.view === "clusters") nodes.push(...groupMarks(scene, shown, pixel));
  }
  for (const [token, className] of [[marks.pin, "tv-pin"], [marks.hover, "tv-hover"]]) {
    const box = token >= 0 ? boxOf(grid, token) : null;
    if (box && hasArea(box)) nodes.push(...["tv-mark-casing", className].map((name) => svgBox(around(box, 0.12, 1.5 * pixel), name)));
  }
  svg.replaceChildren(...nodes);
}
