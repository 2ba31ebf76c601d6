// Edit by hand: tokens of a lane are brushed in or out, or taken by a box; the edited set is asked as a lane of its own.

const edit = { key: "", of: "", base: null, now: null, past: [], tool: "in", size: 0, box: null, from: null, picture: null, parts: {} };
const TOOLS = [["in", "Brush in"], ["out", "Brush out"], ["box", "Box"]];
const LEAST_SHARE = 0.1; // of a patch that lies in a box, as in tokviz.tokens_in

const gridNow = () => lanes().state.payload.grid;

function change(act) {
  const before = edit.now.slice();
  act(edit.now);
  if (before.some((flag, token) => flag !== edit.now[token])) edit.past.push(before);
  drawEdit();
}

// The square of patches around one, in its own view.
function around(token) {
  const grid = gridNow();
  if (token < 0) return [];
  const near = (places, other) => Math.abs(places[other] - places[token]) <= edit.size;
  return grid.row.flatMap((row, other) => (row >= 0 && grid.view[other] === grid.view[token] && near(grid.row, other) && near(grid.col, other) ? [other] : []));
}

// Tokens that are drawn now, and whether each lies in the box: of a video those of the frame that is shown.
function boxed() {
  const { box: flat, row } = gridNow();
  const [x0, y0, x1, y1] = edit.box;
  return row.flatMap((_, token) => {
    const [a, b, c, d] = flat.slice(4 * token, 4 * token + 4);
    const area = (c - a) * (d - b);
    if (!(area > 0)) return [];
    const shared = Math.max(Math.min(c, x1) - Math.max(a, x0), 0) * Math.max(Math.min(d, y1) - Math.max(b, y0), 0);
    return [[token, shared >= LEAST_SHARE * area]];
  });
}

function stroke(token) {
  around(token).forEach((other) => { edit.now[other] = edit.tool === "in" ? 1 : 0; });
}

function drawEdit() {
  const { now, base, parts, picture } = edit;
  const kept = [...now.keys()].filter((token) => now[token]);
  const [added, removed] = [[1, 0], [0, 1]].map(([to, was]) => [...now.keys()].filter((token) => now[token] === to && base[token] === was));
  const grid = gridNow();
  const there = (token) => grid.box[4 * token + 2] > grid.box[4 * token];
  picture.boxes = [...added.filter(there).map((token) => [picture.boxOf(token), "ts-added"]), ...removed.filter(there).map((token) => [picture.boxOf(token), "ts-removed"])];
  if (edit.box) picture.boxes.push([edit.box, "ts-box-casing"], [edit.box, "ts-box"]);
  picture.draw({ view: "kept", kept });
  const total = base.reduce((sum, flag) => sum + flag, 0);
  parts.count.textContent = added.length || removed.length ? `${kept.length} kept: ${total} of the lane, +${added.length}, −${removed.length}` : `${total} kept, as in the lane`;
  parts.undo.disabled = !edit.past.length;
  parts.reset.disabled = !added.length && !removed.length;
  parts.boxes.hidden = edit.tool !== "box";
  [parts.outside, parts.inside, parts.add].forEach((node) => { node.disabled = !edit.box; });
  parts.sizes.hidden = edit.tool === "box";
  refresh();
}

const hasEdits = () => Boolean(edit.now) && edit.now.some((flag, token) => flag !== edit.base[token]);

function wireBrush(picture) {
  const { frame } = picture;
  const pointOf = (event) => {
    const { left, top, width, height } = frame.getBoundingClientRect();
    const [w, h] = lanes().state.payload.size;
    return [Math.min(Math.max(((event.clientX - left) / width) * w, 0), w), Math.min(Math.max(((event.clientY - top) / height) * h, 0), h)];
  };
  let down = false;
  frame.addEventListener("pointerdown", (event) => {
    if (event.button) return;
    down = true;
    frame.setPointerCapture(event.pointerId);
    if (edit.tool === "box") {
      edit.from = pointOf(event);
      return;
    }
    edit.past.push(edit.now.slice());
    stroke(picture.tokenOf(event));
    drawEdit();
  });
  frame.addEventListener("pointermove", (event) => {
    if (!down) return;
    if (edit.tool === "box") {
      const [a, b] = [edit.from, pointOf(event)];
      edit.box = [Math.min(a[0], b[0]), Math.min(a[1], b[1]), Math.max(a[0], b[0]), Math.max(a[1], b[1])];
    } else stroke(picture.tokenOf(event));
    drawEdit();
  });
  const up = () => {
    if (!down) return;
    down = false;
    const last = edit.past.at(-1);
    if (edit.tool !== "box" && last.every((flag, token) => flag === edit.now[token])) edit.past.pop();
    drawEdit();
  };
  frame.addEventListener("pointerup", up);
  frame.addEventListener("pointercancel", up);
  // By keys: Space brushes the patch that the arrows reached; with the box, one corner and then the other.
  frame.addEventListener("keydown", (event) => {
    if (event.key !== " " && event.key !== "Enter") return;
    event.preventDefault();
    if (picture.at < 0) return;
    if (edit.tool !== "box") {
      change(() => stroke(picture.at));
      return;
    }
    const cell = picture.boxOf(picture.at);
    const corner = edit.corner || cell;
    edit.box = [0, 1, 2, 3].map((k) => (k < 2 ? Math.min(corner[k], cell[k]) : Math.max(corner[k], cell[k])));
    edit.corner = edit.corner ? null : cell;
    drawEdit();
  });
}

function toolRow() {
  const row = make("div", "ts-edit-tools");
  const group = make("fieldset", "ts-switch");
  group.append(make("legend", "ts-sr", "Tool"));
  TOOLS.forEach(([value, name]) => {
    const label = make("label");
    const input = Object.assign(make("input"), { type: "radio", name: "ts-tool", value, checked: value === edit.tool });
    input.addEventListener("change", () => { edit.tool = value; edit.corner = null; drawEdit(); });
    label.append(input, make("span", "", name));
    group.append(label);
  });
  const select = make("select");
  select.append(...[0, 1, 2, 4].map((size) => Object.assign(make("option", "", `${2 * size + 1} × ${2 * size + 1}`), { value: String(size) })));
  select.value = String(edit.size);
  select.addEventListener("change", () => { edit.size = Number(select.value); });
  const sizes = make("label", "ts-choice", "brush ");
  sizes.append(select);
  const where = lanes().state.plain.video ? " of this frame" : "";
  const take = (name, to, inside) => button("ts-tool", name + where, () => change((now) => boxed().forEach(([token, isIn]) => { if (isIn === inside) now[token] = to; })));
  const [outside, inside, add] = [take("Drop all outside", 0, false), take("Drop all inside", 0, true), take("Keep all inside", 1, true)];
  const boxes = make("div", "ts-edit-boxes");
  boxes.append(outside, inside, add);
  const undo = button("ts-tool", "Undo", () => { edit.now = edit.past.pop(); drawEdit(); });
  const reset = button("ts-tool", "Reset", () => change((now) => now.set(edit.base)));
  const count = make("p", "ts-edit-count");
  count.setAttribute("aria-live", "polite");
  row.append(group, sizes, boxes, undo, reset, count);
  Object.assign(edit.parts, { sizes, boxes, outside, inside, add, undo, reset, count });
  return row;
}

function openEdit() {
  const key = inPane("edit", "lane").value;
  const one = key && lane(key);
  const holder = inPane("edit", "result");
  if (!one) {
    holder.replaceChildren();
    edit.of = "";
    return;
  }
  const base = keptOf(one);
  const of = `${about()}/${key}/${base.join("")}`;
  if (of === edit.of && holder.firstElementChild) return;
  Object.assign(edit, { of, key, base, now: base.slice(), past: [], box: null, corner: null });
  edit.picture = patchPicture(`Tokens of ${one.data.label}; Space brushes`, (token) => `${placeWords(token)}: ${edit.now[token] ? "kept" : "dropped"}${edit.now[token] === edit.base[token] ? "" : ", by hand"}`);
  edit.picture.root.classList.add("ts-edit-picture");
  edit.picture.rest = "Drag over the image to change what is kept.";
  wireBrush(edit.picture);
  const keys = make("ul", "ts-key");
  [["kept", "kept"], ["added", "brought in by hand"], ["removed", "taken out by hand"]].forEach(([kind, words]) => {
    const item = make("li");
    item.append(make("i", `ts-edit-swatch ts-edit-${kind}`), make("span", "", words));
    keys.append(item);
  });
  holder.replaceChildren(toolRow(), keys, edit.picture.root);
  drawEdit();
  edit.picture.point(-1);
}

function askEdited() {
  const kept = [...edit.now.keys()].filter((token) => edit.now[token]);
  start("edit", { run: edit.key, kept });
}
