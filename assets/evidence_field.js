// Boxes around what shows the answer, drawn on the image of the form by pointer, finger or keys. The value is
// {boxes: [[x0, y0, x1, y1], ...]} in pixels of the image. Another image takes its boxes along.

const node = (name) => element.querySelector(`.te-${name}`);
const MOST = 50;
const LEAST = 5; // CSS pixels of a side: what is smaller was a click
const marked = { boxes: [], now: -1, from: null, drawn: null };

function readBoxes(value) {
  const isBox = (box) => Array.isArray(box) && box.length === 4 && box.every((edge) => Number.isFinite(edge)) && box[0] < box[2] && box[1] < box[3];
  return ((value && Array.isArray(value.boxes) && value.boxes) || []).filter(isBox);
}

function size() {
  return [node("image").naturalWidth || 1, node("image").naturalHeight || 1];
}

// The field of the image belongs to another component of the page; it says what it shows.
function imageOfForm() {
  const media = document.querySelector("#tokviz-image .mf-root");
  if (!media || media.dataset.shows !== "image") return null;
  return media.querySelector(".mf-image").getAttribute("src");
}

function tellField() {
  const { length } = marked.boxes;
  const noImage = !imageOfForm();
  node("open").disabled = noImage;
  node("open").textContent = length ? "Change" : "Mark on the image";
  node("clear").hidden = !length;
  node("told").textContent = noImage ? "for images only" : length ? `${length} ${length === 1 ? "box" : "boxes"} marked` : "";
}

function change(boxes, now) {
  marked.boxes = boxes;
  marked.now = Math.min(now, boxes.length - 1);
  props.value = { boxes };
  trigger("input");
  trigger("change");
  draw();
}

function svgBox(box, className) {
  const rect = document.createElementNS("http://www.w3.org/2000/svg", "rect");
  const [x, y, right, bottom] = box;
  Object.entries({ x, y, width: right - x, height: bottom - y, class: className }).forEach(([name, value]) => rect.setAttribute(name, value));
  return rect;
}

function draw() {
  const [width, height] = size();
  node("boxes").setAttribute("viewBox", `0 0 ${width} ${height}`);
  node("boxes").setAttribute("preserveAspectRatio", "none");
  const shown = marked.drawn ? [...marked.boxes, marked.drawn] : marked.boxes;
  node("boxes").replaceChildren(...shown.flatMap((box, i) => [svgBox(box, "te-casing"), svgBox(box, i === marked.now || box === marked.drawn ? "te-box te-now" : "te-box")]));
  node("all-clear").disabled = !marked.boxes.length;
  node("list").replaceChildren(...marked.boxes.map(entry));
  tellField();
}

const words = (box) => `${box.slice(0, 2).map(Math.round).join(", ")} to ${box.slice(2).map(Math.round).join(", ")}`;

function entry(box, i) {
  const item = document.createElement("li");
  const choose = document.createElement("button");
  choose.textContent = `${i + 1}: ${words(box)}`;
  choose.setAttribute("aria-pressed", String(i === marked.now));
  choose.addEventListener("click", () => { marked.now = i; draw(); node("stage").focus(); });
  const remove = document.createElement("button");
  remove.className = "te-remove";
  remove.textContent = "×";
  remove.setAttribute("aria-label", `Remove box ${i + 1}`);
  remove.addEventListener("click", () => { drop(i); node("stage").focus(); });
  choose.type = remove.type = "button";
  item.append(choose, remove);
  return item;
}

function say(text) {
  node("live").textContent = text;
}

function add(box) {
  if (marked.boxes.length >= MOST) {
    say(`More than ${MOST} boxes cannot be marked.`);
    return;
  }
  change([...marked.boxes, box], marked.boxes.length);
  say(`Box ${marked.boxes.length}: ${words(box)}.`);
}

function drop(i) {
  change(marked.boxes.filter((_, at) => at !== i), marked.now >= i ? marked.now - 1 : marked.now);
  say(`Box ${i + 1} removed.`);
}

function pointOf(event) {
  const frame = node("image").getBoundingClientRect();
  const [width, height] = size();
  const within = (value, most) => Math.round(Math.min(Math.max(value, 0), most));
  return [within(((event.clientX - frame.left) / frame.width) * width, width), within(((event.clientY - frame.top) / frame.height) * height, height)];
}

function between([xa, ya], [xb, yb]) {
  return [Math.min(xa, xb), Math.min(ya, yb), Math.max(xa, xb), Math.max(ya, yb)];
}

node("stage").addEventListener("pointerdown", (event) => {
  if (event.button) return;
  marked.from = pointOf(event);
  marked.drawn = null;
  node("stage").setPointerCapture(event.pointerId);
});
node("stage").addEventListener("pointermove", (event) => {
  if (!marked.from) return;
  marked.drawn = between(marked.from, pointOf(event));
  draw();
});
node("stage").addEventListener("pointerup", () => {
  const box = marked.drawn;
  const scale = node("image").getBoundingClientRect().width / size()[0];
  marked.from = marked.drawn = null;
  if (box && Math.min(box[2] - box[0], box[3] - box[1]) * scale >= LEAST) add(box);
  else draw();
});
node("stage").addEventListener("pointercancel", () => { marked.from = marked.drawn = null; draw(); });

const STEPS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

function step(key, sizes) {
  const [width, height] = size();
  const [dx, dy] = [STEPS[key][0] * Math.max(Math.round(width / 100), 1), STEPS[key][1] * Math.max(Math.round(height / 100), 1)];
  let [x0, y0, x1, y1] = marked.boxes[marked.now];
  if (sizes) {
    x1 = Math.min(Math.max(x1 + dx, x0 + 1), width);
    y1 = Math.min(Math.max(y1 + dy, y0 + 1), height);
  } else {
    const [bx, by] = [Math.min(Math.max(dx, -x0), width - x1), Math.min(Math.max(dy, -y0), height - y1)];
    [x0, x1, y0, y1] = [x0 + bx, x1 + bx, y0 + by, y1 + by];
  }
  const box = [x0, y0, x1, y1];
  change(marked.boxes.map((one, i) => (i === marked.now ? box : one)), marked.now);
  say(`Box ${marked.now + 1}: ${words(box)}.`);
}

node("stage").addEventListener("keydown", (event) => {
  const [width, height] = size();
  if (event.key === "Enter") add([0.4 * width, 0.4 * height, 0.6 * width, 0.6 * height].map(Math.round));
  else if (event.key in STEPS && marked.now >= 0) step(event.key, event.shiftKey);
  else if ((event.key === "Delete" || event.key === "Backspace") && marked.now >= 0) drop(marked.now);
  else return;
  event.preventDefault();
});

node("open").addEventListener("click", () => {
  const source = imageOfForm();
  if (!source) return;
  node("image").src = source;
  say("");
  node("dialog").showModal();
  draw();
  node("stage").focus({ focusVisible: false });
});
node("image").addEventListener("load", draw);
node("done").addEventListener("click", () => node("dialog").close());
node("dialog").addEventListener("close", () => { marked.from = marked.drawn = null; node("open").focus(); });
node("dialog").addEventListener("click", (event) => { if (event.target === node("dialog")) node("dialog").close(); });
for (const name of ["clear", "all-clear"]) node(name).addEventListener("click", () => { change([], -1); say("All boxes removed."); });

document.addEventListener("tokviz:media", ({ detail }) => {
  if (!element.isConnected) return;
  if (detail.byVisitor && marked.boxes.length) change([], -1);
  setTimeout(tellField); // the field of the image draws itself first
});
function show(value) {
  marked.boxes = readBoxes(value);
  marked.now = -1;
  draw();
}
watch("value", () => { if (JSON.stringify(readBoxes(props.value)) !== JSON.stringify(marked.boxes)) show(props.value); });
show(props.value);
setTimeout(tellField);
