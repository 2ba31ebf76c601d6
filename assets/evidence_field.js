// Boxes around what shows the answer, drawn by pointer, finger or keys: on the image of the form, or on the frames of its
// video that the lanes hold. The value is {boxes: [...]}, of an image [x0, y0, x1, y1] in its pixels, of a video [frame,
// x0, y0, x1, y1] with the number of the frame in the file. Another file takes its boxes along.

const node = (name) => element.querySelector(`.te-${name}`);
const MOST = 50;
const LEAST = 5; // CSS pixels of a side: what is smaller was a click
const marked = { boxes: [], now: -1, from: null, drawn: null, film: null, frame: 0 };

const edges = (box) => box.slice(-4);
const hasEdges = (box, four) => [...box.slice(0, -4), ...four];

function readBoxes(value) {
  const isBox = (box) => Array.isArray(box) && (box.length === 4 || box.length === 5) && box.every((edge) => Number.isFinite(edge)) && box.at(-4) < box.at(-2) && box.at(-3) < box.at(-1);
  return ((value && Array.isArray(value.boxes) && value.boxes) || []).filter(isBox);
}

// In pixels of the file, which a frame may be shown with fewer of.
function size() {
  const { film } = marked;
  return film ? [film.width, film.height] : [node("image").naturalWidth || 1, node("image").naturalHeight || 1];
}

// The field of the image belongs to another component of the page; it says what it shows.
const media = () => document.querySelector("#tokviz-image .mf-root");

function imageOfForm() {
  return media()?.dataset.shows === "image" ? media().querySelector(".mf-image").getAttribute("src") : null;
}

// Which frames the model looks at is known once it has: they come with the lanes, as long as those belong to the form.
function filmOfLanes() {
  const video = window.tokvizLanes?.state.plain?.video;
  const isVideo = ["video", "name"].includes(media()?.dataset.shows);
  return isVideo && video && video.width && video.frames.every(({ image }) => image) && document.documentElement.dataset.tokvizStale !== "yes" ? video : null;
}

function tellField() {
  const { length } = marked.boxes;
  const film = filmOfLanes();
  const shows = media()?.dataset.shows;
  const why = shows === "image" || film ? "" : shows === "video" ? "After the first Compare, on the frames that the model sees." : "For an image or a video that the page can show.";
  node("open").disabled = Boolean(why);
  node("open").textContent = length ? "Change" : film ? "Mark on the frames" : "Mark on the image";
  node("clear").hidden = !length;
  node("told").textContent = [length ? `${length} ${length === 1 ? "box" : "boxes"} marked` : "", why].filter(Boolean).join(". ");
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

// Of a video the boxes of the frame that is shown.
const isHere = (box) => !marked.film || box[0] === marked.film.frames[marked.frame].index;

function draw() {
  const [width, height] = size();
  node("boxes").setAttribute("viewBox", `0 0 ${width} ${height}`);
  node("boxes").setAttribute("preserveAspectRatio", "none");
  const shown = marked.boxes.map((box, i) => [box, i === marked.now]).filter(([box]) => isHere(box));
  if (marked.drawn) shown.push([marked.drawn, true]);
  node("boxes").replaceChildren(...shown.flatMap(([box, now]) => [svgBox(edges(box), "te-casing"), svgBox(edges(box), now ? "te-box te-now" : "te-box")]));
  node("all-clear").disabled = !marked.boxes.length;
  node("list").replaceChildren(...marked.boxes.map(entry));
  tellField();
}

function words(box) {
  const [x0, y0, x1, y1] = edges(box).map(Math.round);
  const at = box.length === 5 ? marked.film?.frames.findIndex(({ index }) => index === box[0]) ?? -1 : null;
  const frame = at === null ? "" : at < 0 ? `frame ${box[0]} of the file, ` : `frame ${at + 1}, `;
  return `${frame}${x0}, ${y0} to ${x1}, ${y1}`;
}

function entry(box, i) {
  const item = document.createElement("li");
  const choose = document.createElement("button");
  choose.textContent = `${i + 1}: ${words(box)}`;
  choose.setAttribute("aria-pressed", String(i === marked.now));
  choose.addEventListener("click", () => {
    marked.now = i;
    const at = marked.film ? marked.film.frames.findIndex(({ index }) => index === box[0]) : -1;
    if (at >= 0) showFrame(at);
    draw();
    node("stage").focus();
  });
  const remove = document.createElement("button");
  remove.className = "te-remove";
  remove.textContent = "×";
  remove.setAttribute("aria-label", `Remove box ${i + 1}`);
  remove.addEventListener("click", () => { drop(i); node("stage").focus(); });
  choose.type = remove.type = "button";
  item.append(choose, remove);
  return item;
}

function showFrame(at) {
  marked.frame = at;
  const { frames } = marked.film;
  node("image").src = frames[at].image.url;
  node("frame").value = String(at);
  node("frame-told").textContent = `frame ${at + 1} of ${frames.length}, ${frames[at].time.toFixed(1)} s`;
  node("frame").setAttribute("aria-valuetext", node("frame-told").textContent);
}

function say(text) {
  node("live").textContent = text;
}

function add(box) {
  if (marked.boxes.length >= MOST) {
    say(`More than ${MOST} boxes cannot be marked.`);
    return;
  }
  change([...marked.boxes, marked.film ? [marked.film.frames[marked.frame].index, ...box] : box], marked.boxes.length);
  say(`Box ${marked.boxes.length}: ${words(marked.boxes.at(-1))}.`);
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
  let [x0, y0, x1, y1] = edges(marked.boxes[marked.now]);
  if (sizes) {
    x1 = Math.min(Math.max(x1 + dx, x0 + 1), width);
    y1 = Math.min(Math.max(y1 + dy, y0 + 1), height);
  } else {
    const [bx, by] = [Math.min(Math.max(dx, -x0), width - x1), Math.min(Math.max(dy, -y0), height - y1)];
    [x0, x1, y0, y1] = [x0 + bx, x1 + bx, y0 + by, y1 + by];
  }
  const box = hasEdges(marked.boxes[marked.now], [x0, y0, x1, y1]);
  change(marked.boxes.map((one, i) => (i === marked.now ? box : one)), marked.now);
  say(`Box ${marked.now + 1}: ${words(box)}.`);
}

node("stage").addEventListener("keydown", (event) => {
  const [width, height] = size();
  if (event.key === "Enter") add([0.4 * width, 0.4 * height, 0.6 * width, 0.6 * height].map(Math.round));
  else if (event.key in STEPS && marked.now >= 0 && isHere(marked.boxes[marked.now])) step(event.key, event.shiftKey);
  else if ((event.key === "Delete" || event.key === "Backspace") && marked.now >= 0) drop(marked.now);
  else return;
  event.preventDefault();
});

node("open").addEventListener("click", () => {
  const source = imageOfForm();
  marked.film = source ? null : filmOfLanes();
  if (!source && !marked.film) return;
  node("frames").hidden = !marked.film;
  if (marked.film) {
    node("frame").max = String(marked.film.frames.length - 1);
    const first = marked.film.frames.findIndex(({ index }) => marked.boxes.some((box) => box[0] === index));
    showFrame(Math.max(first, 0));
  } else node("image").src = source;
  node("stage").setAttribute("aria-label", marked.film ? "Frame to mark evidence on" : "Image to mark evidence on");
  say("");
  node("dialog").showModal();
  draw();
  node("stage").focus({ focusVisible: false });
});
node("frame").addEventListener("input", () => {
  showFrame(Number(node("frame").value));
  draw();
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
document.addEventListener("tokviz:shown", tellField);
new MutationObserver(tellField).observe(document.documentElement, { attributes: true, attributeFilter: ["data-tokviz-stale"] });

function show(value) {
  marked.boxes = readBoxes(value);
  marked.now = -1;
  draw();
}
watch("value", () => { if (JSON.stringify(readBoxes(props.value)) !== JSON.stringify(marked.boxes)) show(props.value); });
show(props.value);
setTimeout(tellField);
