// Tools of the studies beneath the lanes. What is drawn on patches is drawn by the lanes' own functions, which
// patch_view.js lends as window.tokvizLanes. The files that tokviz/ui/components.py lists are joined into one function
// body; this is the first.

const lanes = () => window.tokvizLanes;

function make(tag, className, text) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text !== undefined) node.textContent = text;
  return node;
}

function button(className, text, act) {
  const node = make("button", className, text);
  node.type = "button";
  node.addEventListener("click", act);
  return node;
}

function svg(name, attributes = {}, className = "", text) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  if (className) node.setAttribute("class", className);
  if (text !== undefined) node.textContent = text;
  return node;
}

const number = (value) => lanes().shortNumber(value);
const percent = (share) => (share >= 0.0995 || share === 0 ? `${Math.round(100 * share)}%` : `${Number((100 * share).toPrecision(2))}%`);

// Okabe and Ito's colours, then the same again with dashes; the first belongs to the first method of the lanes.
const COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b58900", "#56b4e9", "#7a5195", "#8c564b"];
const DASHES = ["", "7 4", "2 3", "9 3 2 3"];

function look(i) {
  return { colour: COLOURS[i % COLOURS.length], dash: DASHES[Math.floor(i / COLOURS.length) % DASHES.length] };
}

function lane(key) {
  return lanes().state.lanes.find((one) => one.data && one.data.key === key) || null;
}

// What is left of a lane at its end, as flags; all tokens where nothing was dropped.
function keptOf(one) {
  const n = lanes().state.payload.grid.row.length;
  const last = one && one.data.stages.at(-1);
  const flags = new Uint8Array(n);
  if (!last) return flags.fill(1);
  last.kept.forEach((token) => { flags[token] = 1; });
  return flags;
}

// A patch map over the image, as the lanes draw one. drawn: {values, view: "score" or "chance" or "kept", kept, scale}.
function patchScene(root, { values = null, view = "score", kept = [], scale = "linear", opacity = 0.84 }) {
  const { payload } = lanes().state;
  const n = payload.grid.row.length;
  const flags = new Uint8Array(n);
  kept.forEach((token) => { flags[token] = 1; });
  const map = values && { label: "", unit: "", direction: "", scale, values };
  return {
    payload, image: lanes().shownImage(), view, opacity, map, ordering: null, sides: null,
    stage: { kept, basis: [], maps: map ? [map] : [] }, index: { kept: flags, basis: new Uint8Array(n) },
    survival: { depth: [], stages: 0 }, colours: lanes().palette(root), settings: { scale: "" },
    chance: view === "chance" ? { values } : null,
  };
}

// An image with a map on it; `told` is the line that speaks of the patch under the pointer. words(token) -> text.
// Returns {root, draw(scene)}: draw takes what patchScene takes.
function patchPicture(name, words) {
  const root = make("div", "ts-picture");
  const frame = make("div", "ts-frame");
  frame.tabIndex = 0;
  frame.setAttribute("role", "img");
  frame.setAttribute("aria-label", `${name}. Arrow keys move between patches.`);
  const canvas = make("canvas", "ts-canvas");
  const marks = svg("svg", { preserveAspectRatio: "none", "aria-hidden": "true" }, "ts-marks");
  frame.append(canvas, marks);
  const told = make("p", "ts-note ts-patch-told");
  told.setAttribute("aria-live", "polite");
  root.append(frame, told);
  const mine = { root, frame, canvas, marks, told, at: -1, scene: null, boxes: [] };
  const { state } = lanes();
  mine.tokenOf = (event) => {
    const { left, top, width, height } = frame.getBoundingClientRect();
    const [w, h] = state.payload.size;
    return lanes().tokenAt(state.payload.grid, ((event.clientX - left) / width) * w, ((event.clientY - top) / height) * h);
  };
  mine.point = (token) => {
    mine.at = token;
    told.textContent = token < 0 ? mine.rest || "" : words(token);
    mine.mark();
  };
  mine.boxOf = (token) => state.payload.grid.box.slice(4 * token, 4 * token + 4);
  mine.mark = () => {
    const [w, h] = state.payload.size;
    marks.setAttribute("viewBox", `0 0 ${w} ${h}`);
    const rect = ([x0, y0, x1, y1], className) => svg("rect", { x: x0, y: y0, width: x1 - x0, height: y1 - y0 }, className);
    marks.replaceChildren(...(state.payload.evidence || []).flatMap((box) => [rect(box, "ts-casing"), rect(box, "ts-evidence")]),
      ...mine.boxes.map(([box, className]) => rect(box, className)), ...(mine.at >= 0 ? [rect(mine.boxOf(mine.at), "ts-pointed")] : []));
  };
  mine.draw = (drawn) => {
    if (drawn) mine.drawn = drawn;
    if (!mine.drawn || !frame.isConnected || !frame.clientWidth) return;
    const [w, h] = state.payload.size;
    frame.style.aspectRatio = `${w} / ${h}`;
    lanes().paint(canvas, { ...patchScene(root, mine.drawn), box: [canvas.clientWidth, canvas.clientHeight] });
    if (mine.drawn.clear) clearPatches(canvas, mine.drawn);
    mine.mark();
  };
  frame.addEventListener("pointermove", (event) => mine.point(mine.tokenOf(event)));
  frame.addEventListener("pointerleave", () => mine.point(-1));
  frame.addEventListener("keydown", (event) => {
    const by = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
    if (!by) return;
    event.preventDefault();
    mine.point(lanes().step(state.payload.grid, mine.at, ...by));
  });
  frame.addEventListener("blur", () => mine.point(-1));
  pictures.add(mine);
  return mine;
}

// Some patches as the image has them, with nothing over them.
function clearPatches(canvas, { clear }) {
  const { payload } = lanes().state;
  const plain = document.createElement("canvas");
  Object.assign(plain, { width: canvas.width, height: canvas.height });
  const [sx, sy] = [canvas.width / payload.size[0], canvas.height / payload.size[1]];
  lanes().paintImage(plain, payload, lanes().shownImage());
  const context = canvas.getContext("2d");
  clear.forEach((token) => {
    const [x0, y0, x1, y1] = payload.grid.box.slice(4 * token, 4 * token + 4).map((edge, k) => Math.round(edge * (k % 2 ? sy : sx)));
    if (x1 > x0 && y1 > y0) context.drawImage(plain, x0, y0, x1 - x0, y1 - y0, x0, y0, x1 - x0, y1 - y0);
  });
}

// The scale of a map: from little to much.
function heatScale() {
  const scale = make("p", "ts-scale ts-scale-heat");
  const [low, high] = [make("span"), make("span")];
  scale.append(low, make("i"), high);
  return { root: scale, set: (values) => {
    const known = values.filter((value) => value > 0);
    const most = Math.max(...known, 0);
    low.textContent = known.length ? `≤ ${number(Math.max(Math.min(...known), most / 1000))}` : "0";
    high.textContent = `${number(most)} (logarithmic)`;
  } };
}

// All that are on the page now: drawn again when the image, the frame, the theme or the width changes.
const pictures = new Set();

function redrawPictures() {
  for (const picture of pictures) {
    if (picture.root.isConnected) picture.draw();
    else if (picture.drawn) pictures.delete(picture);
  }
}

function placeWords(token) {
  return lanes().placeOf(lanes().state.payload, token);
}

// Of a map as it travels: whole numbers, shares of the largest value.
const STEPS = 9999;
const unpacked = ({ most, steps }) => steps.map((step) => (step === null ? null : (step / STEPS) * most));

function noteList(notes) {
  return notes.map((words) => make("p", "ts-note", words));
}
