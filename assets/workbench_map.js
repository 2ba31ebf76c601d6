// The map: every case a point, drawn on a canvas. Drag draws a lasso, the wheel zooms, with Shift a drag moves the map.

const map = { data: null, key: "", match: null, zoom: 1, x: 0, y: 0, lasso: null, hover: -1 };
const PALETTE = ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9", "#8c6d31", "#7b4fa3", "#666a70", "#b2bb1e"];
const OUTCOME_INK = { kept: "#009e73", lost: "#d55e00", rescued: "#0072b2", changed: "#e69f00", wrong: "#8a8d91", same: "#009e73", differs: "#d55e00", error: "#000000" };

async function showMap() {
  const key = `${wb.run.run} ${wb.budget} ${wb.methods[0]}`;
  const view = viewOf();
  const [found, match] = await Promise.all([
    map.key === key ? map.data : guarded(() => askLast("points", "points", view)), guarded(() => askLast("matches", "matches", view)),
  ]);
  if (!found || !match) return;
  if (map.key !== key) {
    const floats = (text) => new Float32Array(bytes(text).buffer);
    map.data = { ...found, xs: floats(found.x), ys: floats(found.y), ordinals: new Int32Array(bytes(found.ordinal).buffer), verdicts: bytes(found.verdict), family: bytes(found.family) };
    if (map.key.split(" ")[0] !== wb.run.run) resetMap();
    map.key = key;
  }
  map.match = bytes(match.bits);
  const how = matchMedia("(pointer: coarse)").matches ? "Circle cases with a finger to filter by them; press one to open it." : "Drag around cases to filter by them; press one to open it; scroll to zoom, Shift-drag to move.";
  const made = { pca: "the two main directions (PCA) of", umap: "UMAP of" }[wb.run.map];
  find(".wb-map-told").textContent = `${count(match.found)} of ${count(map.data.n)} cases fit the filters. ${how}${made ? ` Cases that are close look alike to the model: ${made} its features of image and question.` : ""}`;
  fillMapLegend();
  drawMap();
}

function resetMap() {
  Object.assign(map, { zoom: 1, x: 0, y: 0 });
}

// From data to pixels of the canvas, the same scale both ways.
function mapFrame() {
  const canvas = find(".wb-map canvas");
  const { xs, ys } = map.data;
  if (!map.data.box) {
    let [x0, x1, y0, y1] = [Infinity, -Infinity, Infinity, -Infinity];
    for (let i = 0; i < xs.length; i++) {
      if (xs[i] < x0) x0 = xs[i];
      if (xs[i] > x1) x1 = xs[i];
      if (ys[i] < y0) y0 = ys[i];
      if (ys[i] > y1) y1 = ys[i];
    }
    map.data.box = [x0, x1, y0, y1];
  }
  const [x0, x1, y0, y1] = map.data.box;
  const width = canvas.clientWidth, height = canvas.clientHeight;
  const scale = 0.94 * Math.min(width / (x1 - x0 || 1), height / (y1 - y0 || 1)) * map.zoom;
  return { scale, width, height, left: width / 2 - ((x0 + x1) / 2) * scale + map.x, top: height / 2 + ((y0 + y1) / 2) * scale + map.y };
}

const inkOf = (i) => {
  if (wb.colour === "family") return map.data.family[i] < PALETTE.length ? PALETTE[map.data.family[i]] : "#666a70";
  return OUTCOME_INK[wb.run.outcomes[map.data.verdicts[i]]] || "#8a8d91";
};

function drawMap() {
  const canvas = find(".wb-map canvas");
  if (!map.data || !canvas.clientWidth) return;
  const began = performance.now();
  const ratio = Math.min(2, devicePixelRatio || 1);
  const { scale, width, height, left, top } = mapFrame();
  canvas.width = Math.round(width * ratio);
  canvas.height = Math.round(height * ratio);
  const pen = canvas.getContext("2d");
  const pixels = pen.createImageData(canvas.width, canvas.height);
  const words = new Uint32Array(pixels.data.buffer);
  const side = Math.max(2, Math.round((map.data.n > 20000 ? 2 : map.data.n > 3000 ? 3 : map.data.n > 500 ? 5 : 8) * ratio * Math.min(2, Math.sqrt(map.zoom))));
  const inks = new Map();
  const word = (ink, alpha) => {
    const key = ink + alpha;
    if (!inks.has(key)) inks.set(key, ((alpha << 24) | (parseInt(ink.slice(5, 7), 16) << 16) | (parseInt(ink.slice(3, 5), 16) << 8) | parseInt(ink.slice(1, 3), 16)) >>> 0);
    return inks.get(key);
  };
  const plot = (wanted) => {
    for (let i = 0; i < map.data.n; i++) {
      const fits = (map.match[i >> 3] >> (i & 7)) & 1;
      if (fits !== wanted) continue;
      const x = Math.round((left + map.data.xs[i] * scale) * ratio - side / 2), y = Math.round((top - map.data.ys[i] * scale) * ratio - side / 2);
      if (x < 0 || y < 0 || x + side > canvas.width || y + side > canvas.height) continue;
      const value = fits ? word(inkOf(i), 255) : word("#9a9da1", 60);
      for (let row = y; row < y + side; row++) words.fill(value, row * canvas.width + x, row * canvas.width + x + side);
    }
  };
  plot(0);
  plot(1);
  pen.putImageData(pixels, 0, 0);
  pen.scale(ratio, ratio);
  drawLasso(pen);
  find(".wb-root").dataset.mapMs = (performance.now() - began).toFixed(1);
}

function drawLasso(pen) {
  const style = getComputedStyle(find(".wb-root"));
  const { scale, left, top } = mapFrame();
  const chosen = wb.conditions.find(({ kind }) => kind === "lasso");
  const corners = map.lasso || (chosen ? chosen.polygon.map(([x, y]) => [left + x * scale, top - y * scale]) : null);
  if (corners && corners.length > 1) {
    pen.beginPath();
    corners.forEach(([x, y], i) => (i ? pen.lineTo(x, y) : pen.moveTo(x, y)));
    pen.closePath();
    pen.strokeStyle = style.getPropertyValue("--tv-accent");
    pen.lineWidth = 2;
    pen.stroke();
  }
  if (map.hover >= 0) {
    pen.strokeStyle = style.getPropertyValue("--body-text-color");
    pen.lineWidth = 2;
    pen.strokeRect(left + map.data.xs[map.hover] * scale - 7, top - map.data.ys[map.hover] * scale - 7, 14, 14);
  }
}

function fillMapLegend() {
  const entries = wb.colour === "family" ? map.data.families.slice(0, PALETTE.length).map((name, i) => [name, PALETTE[i]]) : wb.run.outcomes.filter((_, i) => map.data.verdicts.includes(i)).map((name) => [`${labelOf(wb.methods[0])} ${name}`, OUTCOME_INK[name]]);
  find(".wb-map-legend").replaceChildren(...entries.map(([name, ink]) => {
    const item = el("li");
    const dot = el("i", "wb-dot");
    dot.style.background = ink;
    item.append(dot, el("span", "", name));
    return item;
  }));
}

function nearestPoint(x, y) {
  const { scale, left, top } = mapFrame();
  let best = -1, least = 100;
  for (let i = 0; i < map.data.n; i++) {
    const away = (left + map.data.xs[i] * scale - x) ** 2 + (top - map.data.ys[i] * scale - y) ** 2;
    if (away < least && (map.match[i >> 3] >> (i & 7)) & 1) { least = away; best = i; }
  }
  return best;
}

// What lies under the pointer, once it rests there: the case as its card shows it.
let resting = 0;
function peekAt(point) {
  const box = find(".wb-map-peek");
  if (point === map.hover) return;
  map.hover = point;
  box.hidden = true;
  clearTimeout(resting);
  if (point < 0) return;
  resting = setTimeout(async () => {
    const told = await askLast("peek", "case", viewOf({ ordinal: map.data.ordinals[point] })).catch(() => null);
    if (!told || map.hover !== point || map.lasso) return;
    const { card } = told;
    box.replaceChildren(el("b", "", card.question || "(no question)"), factsOf(card), lanesOf(card));
    const { scale, left, top, width, height } = mapFrame();
    const x = left + map.data.xs[point] * scale, y = top - map.data.ys[point] * scale;
    box.hidden = false;
    paintCard(box, card, box.querySelector("canvas").clientWidth);
    box.style.left = `${x + 16 + box.offsetWidth > width ? Math.max(4, x - 16 - box.offsetWidth) : x + 16}px`;
    box.style.top = `${Math.min(Math.max(4, y - 20), Math.max(4, height - box.offsetHeight - 4))}px`;
  }, 90);
}

// At most 100 corners: enough for any hand, few enough for an address.
function finishLasso() {
  const { scale, left, top } = mapFrame();
  const corners = map.lasso;
  map.lasso = null;
  const every = Math.ceil(corners.length / 100);
  const polygon = corners.filter((_, i) => i % every === 0).map(([x, y]) => [Number(((x - left) / scale).toPrecision(5)), Number(((top - y) / scale).toPrecision(5))]);
  if (polygon.length < 3) return drawMap();
  wb.conditions = [...wb.conditions.filter(({ kind }) => kind !== "lasso"), { kind: "lasso", polygon }];
  changedFilter();
}

function wireMap() {
  const canvas = find(".wb-map canvas");
  canvas.setAttribute("aria-label", "Map of the cases. Arrow keys move it, plus and minus zoom.");
  canvas.setAttribute("role", "application");
  let moving = null, waits = false;
  const later = () => {
    if (waits) return;
    waits = true;
    requestAnimationFrame(() => { waits = false; drawMap(); });
  };
  const at = (event) => [event.offsetX, event.offsetY];
  canvas.addEventListener("pointerdown", (event) => {
    if (!map.data) return;
    canvas.setPointerCapture(event.pointerId);
    peekAt(-1);
    if (event.shiftKey || event.button === 1) moving = at(event); else map.lasso = [at(event)];
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!map.data) return;
    const [x, y] = at(event);
    if (moving) { map.x += x - moving[0]; map.y += y - moving[1]; moving = [x, y]; }
    else if (map.lasso) map.lasso.push([x, y]);
    else peekAt(nearestPoint(x, y));
    later();
  });
  canvas.addEventListener("pointerup", (event) => {
    const wasClick = map.lasso && map.lasso.length < 4;
    if (moving) moving = null;
    else if (wasClick) {
      map.lasso = null;
      const point = nearestPoint(...at(event));
      if (point >= 0) openCase(map.data.ordinals[point]); else drawMap();
    } else if (map.lasso) finishLasso();
  });
  canvas.addEventListener("pointerleave", () => { peekAt(-1); later(); });
  const zoomBy = (factor, x, y) => {
    const { width, height } = mapFrame();
    const next = Math.min(60, Math.max(0.5, map.zoom * factor));
    const real = next / map.zoom;
    map.x = (map.x - (x - width / 2)) * real + (x - width / 2);
    map.y = (map.y - (y - height / 2)) * real + (y - height / 2);
    map.zoom = next;
    later();
  };
  canvas.addEventListener("wheel", (event) => {
    if (!map.data) return;
    event.preventDefault();
    zoomBy(event.deltaY < 0 ? 1.2 : 1 / 1.2, ...at(event));
  }, { passive: false });
  canvas.addEventListener("keydown", (event) => {
    const moves = { ArrowLeft: [40, 0], ArrowRight: [-40, 0], ArrowUp: [0, 40], ArrowDown: [0, -40] }[event.key];
    if (!map.data || (!moves && !"+-".includes(event.key))) return;
    event.preventDefault();
    if (moves) { map.x += moves[0]; map.y += moves[1]; later(); }
    else zoomBy(event.key === "+" ? 1.2 : 1 / 1.2, canvas.clientWidth / 2, canvas.clientHeight / 2);
  });
  find(".wb-map-zoom").addEventListener("click", (event) => {
    const { value } = event.target;
    if (value && map.data) zoomBy(Number(value), canvas.clientWidth / 2, canvas.clientHeight / 2);
  });
  find(".wb-map-reset").addEventListener("click", () => { resetMap(); later(); });
  const select = find(".wb-map-bar select");
  select.append(...[["outcome", "outcome of the first method"], ["family", "question family"]].map(([value, name]) => Object.assign(el("option", "", name), { value })));
  select.addEventListener("change", () => { wb.colour = select.value; fillMapLegend(); drawMap(); });
}
