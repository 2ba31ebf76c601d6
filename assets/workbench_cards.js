// The grid of cards: per card the image once per chosen method with what it keeps, the answers, and the verdicts.

const SIGNS = { kept: "✓", lost: "✗", rescued: "✓", changed: "✗", wrong: "✗", same: "=", differs: "≠", error: "!" };
const bytes = (text) => Uint8Array.from(atob(text), (character) => character.charCodeAt(0));

// A canvas of one pixel per patch: clear where kept, a veil where dropped.
function veilOf(mask, color) {
  const veil = document.createElement("canvas");
  veil.width = mask.cols;
  veil.height = mask.rows;
  const pen = veil.getContext("2d");
  const pixels = pen.createImageData(mask.cols, mask.rows);
  const bits = bytes(mask.bits);
  for (let i = 0; i < mask.rows * mask.cols; i++) {
    if ((bits[i >> 3] >> (i & 7)) & 1) continue;
    pixels.data.set(color, 4 * i);
  }
  pen.putImageData(pixels, 0, 0);
  return veil;
}

function veilOfBoxes(mask, color, width, height) {
  const veil = document.createElement("canvas");
  veil.width = width;
  veil.height = height;
  const pen = veil.getContext("2d");
  pen.fillStyle = `rgba(${color.slice(0, 3).join()},${color[3] / 255})`;
  pen.fillRect(0, 0, width, height);
  for (let i = 0; i < mask.boxes.length; i += 4) {
    const [x0, y0, x1, y1] = mask.boxes.slice(i, i + 4);
    pen.clearRect((x0 * width) / 1000, (y0 * height) / 1000, ((x1 - x0) * width) / 1000, ((y1 - y0) * height) / 1000);
  }
  return veil;
}

// wide: of the canvas on the page, in px; measured once, as every look at a size makes the browser lay out the page anew.
function paintLane(canvas, image, lane, card, wide) {
  const scale = Math.min(2, devicePixelRatio || 1);
  const width = Math.round(wide * scale);
  const [w, h] = card.size;
  const height = Math.max(1, Math.round(width * Math.min(1.6, h / w)));
  canvas.width = width;
  canvas.height = height;
  const pen = canvas.getContext("2d");
  if (image) pen.drawImage(image, 0, 0, width, height);
  else { pen.fillStyle = "#888"; pen.fillRect(0, 0, width, height); }
  if (lane?.mask) {
    const color = document.body.classList.contains("dark") ? [22, 23, 26, 190] : [128, 131, 135, 196];
    pen.imageSmoothingEnabled = false;
    pen.drawImage(lane.mask.bits ? veilOf(lane.mask, color) : veilOfBoxes(lane.mask, color, width, height), 0, 0, width, height);
  }
  if (!card.video) for (const [x0, y0, x1, y1] of card.evidence) {
    for (const [dash, ink] of [[[], "#ffffff"], [[4, 3], "#cc0c4e"]]) {
      pen.setLineDash(dash);
      pen.lineWidth = 1.5 * scale;
      pen.strokeStyle = ink;
      pen.strokeRect((x0 * width) / 1000, (y0 * height) / 1000, ((x1 - x0) * width) / 1000, ((y1 - y0) * height) / 1000);
    }
  }
}

async function paintCard(node, card, wide) {
  let image = null;
  if (card.image) {
    image = new Image();
    image.src = `data:image/jpeg;base64,${card.image}`;
    try { await image.decode(); } catch { image = null; }
  }
  node.querySelectorAll("canvas").forEach((canvas, i) => paintLane(canvas, image, card.lanes[i], card, wide));
}

function laneNode(card, lane, method) {
  const node = el("div", "wb-lane");
  const name = el("span", "wb-lane-name", labelOf(method));
  name.title = labelOf(method);
  const canvas = el("canvas");
  canvas.setAttribute("aria-hidden", "true");
  canvas.style.aspectRatio = `1 / ${Math.min(1.6, card.size[1] / card.size[0])}`;
  node.append(canvas, name);
  if (!lane) return node.append(el("span", "wb-lane-said wb-quiet", "not mined")), node;
  const said = el("span", `wb-lane-said wb-said-${lane.outcome}`);
  said.append(el("i", "", SIGNS[lane.outcome] || ""), el("span", "", lane.error ? "could not run" : lane.answer || "(no answer)"));
  said.title = `${labelOf(method)}, ${lane.kept ?? "?"} tokens kept – ${OUTCOME_WORDS[lane.outcome] || lane.outcome}: ${lane.error || lane.answer}`;
  said.setAttribute("aria-label", said.title);
  node.append(said);
  return node;
}

function outcomeStrip(card) {
  const strip = el("span", "wb-strip");
  const words = [];
  for (const { key } of wb.run.methods) {
    if (!card.outcomes[key]) continue;
    const dot = el("i", `wb-is-${card.outcomes[key]}`);
    dot.title = `${labelOf(key)}: ${card.outcomes[key]}`;
    words.push(dot.title);
    strip.append(dot);
  }
  strip.setAttribute("role", "img");
  strip.setAttribute("aria-label", `Outcomes at ${wb.budget} tokens: ${words.join(", ")}`);
  return strip;
}

function reviewOf(given) {
  const list = el("span", "wb-given");
  if (!given) return list;
  if (given.status !== "unreviewed") list.append(el("span", `wb-status wb-status-${given.status}`, given.status));
  given.tags.forEach((tag) => list.append(el("span", "wb-tag", tag)));
  if (given.note) {
    const note = el("span", "wb-noted", "note");
    note.title = given.note;
    list.append(note);
  }
  return list;
}

function cardNode(card) {
  const item = el("li", "wb-card");
  item.dataset.ordinal = card.ordinal;
  const box = Object.assign(el("input"), { type: "checkbox", checked: wb.all || wb.chosen.has(card.id) });
  box.setAttribute("aria-label", `Select ${card.id}`);
  box.addEventListener("click", (event) => chooseCard(card, box.checked, event.shiftKey));
  const head = el("div", "wb-card-head");
  const id = el("span", "wb-id", card.id);
  id.title = card.id;
  head.append(box, id, reviewOf(card.given), outcomeStrip(card));
  const question = el("a", "wb-question", card.question || "(no question)");
  question.href = addressOf({ place: "case", ordinal: card.ordinal });
  question.title = card.question;
  question.addEventListener("click", (event) => {
    if (event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    openCase(card.ordinal);
  });
  item.append(head, question, factsOf(card), lanesOf(card));
  item.lastChild.addEventListener("click", () => openCase(card.ordinal));
  return item;
}

function factsOf(card) {
  const facts = el("p", "wb-said");
  if (card.expected.length) facts.append(el("span", "", `expected ${card.expected.join(" or ")}`));
  const unpruned = el("span", card.right === null ? "" : card.right ? "wb-good" : "wb-bad", `unpruned ${card.right === null ? "" : card.right ? "✓ " : "✗ "}${card.answer ?? "–"}`);
  facts.append(unpruned);
  if (card.video) facts.append(el("span", "", "video"));
  return facts;
}

function lanesOf(card) {
  const lanes = el("div", "wb-card-lanes");
  lanes.style.setProperty("--wb-columns", wb.methods.length);
  lanes.append(...wb.methods.map((method, i) => laneNode(card, card.lanes[i], method)));
  return lanes;
}

let drawing = 0;
const AT_FIRST = 9;
const laneWidth = () => find(".wb-lane canvas")?.clientWidth || 100;

// What is in sight first; the rest when the browser has drawn that.
function fillCards(cards) {
  const list = find(".wb-cards");
  const turn = ++drawing;
  find(".wb-empty").hidden = cards.length > 0;
  find(".wb-empty").textContent = "No case fits all of these filters. Remove one of them above.";
  list.replaceChildren(...cards.slice(0, AT_FIRST).map(cardNode));
  const wide = laneWidth();
  const paint = async (from, to) => {
    const nodes = [...list.children].slice(from, to);
    await Promise.all(nodes.map((node, i) => paintCard(node, cards[from + i], wide)));
    if (turn !== drawing) return;
    if (from === 0) find(".wb-root").dataset.painted = String(turn);
    if (to < cards.length) setTimeout(() => add(to, to + 15));
  };
  const add = (from, to) => {
    if (turn !== drawing) return;
    list.append(...cards.slice(from, to).map(cardNode));
    paint(from, to);
  };
  paint(0, AT_FIRST);
}

function repaintCards() {
  const wide = laneWidth();
  if (wb.result) find(".wb-cards").querySelectorAll(".wb-card").forEach((node, i) => paintCard(node, wb.result.cards[i], wide));
}

// --- choosing cards, for edits of many ---

let lastChosen = null;
function chooseCard(card, chosen, many) {
  const cards = wb.result.cards;
  if (wb.all) { wb.all = false; wb.chosen = new Set(cards.map(({ id }) => id)); }
  const at = cards.findIndex(({ id }) => id === card.id);
  const range = many && lastChosen !== null ? cards.slice(Math.min(at, lastChosen), Math.max(at, lastChosen) + 1) : [card];
  range.forEach(({ id }) => (chosen ? wb.chosen.add(id) : wb.chosen.delete(id)));
  lastChosen = at;
  showChosen();
}

function showChosen() {
  find(".wb-cards").querySelectorAll(".wb-card").forEach((node, i) => {
    const chosen = wb.all || wb.chosen.has(wb.result.cards[i].id);
    node.querySelector("input").checked = chosen;
    node.classList.toggle("wb-is-chosen", chosen);
  });
  const n = wb.all ? wb.result.found : wb.chosen.size;
  find(".wb-bulk").hidden = !n || !wb.run.can_edit;
  find(".wb-chosen").textContent = `${count(n)} selected`;
  find(".wb-choose-all").textContent = `Select all ${count(wb.result.found)}`;
  find(".wb-choose-all").hidden = wb.all || n === wb.result.found;
}

async function editChosen(edit) {
  const body = { ...edit, seen: wb.latest };
  const told = wb.all
    ? await ask("edit_all", { ...viewOf(), edit: body, who: me() })
    : await ask("edit", { run: wb.run.run, edit: { ...body, case_ids: [...wb.chosen] }, who: me() });
  afterEdit(told);
  wb.chosen.clear();
  wb.all = false;
  search({ keepPage: true });
}

function me() {
  try {
    let name = localStorage.getItem("tokviz-reviewer");
    if (!name) localStorage.setItem("tokviz-reviewer", (name = `reviewer ${crypto.getRandomValues(new Uint16Array(1))[0]}`));
    return name.slice(0, 80);
  } catch { return ""; }
}

let lastChange = null;
function afterEdit(told) {
  wb.latest = told.latest;
  lastChange = told.change;
  const clashes = told.clashes.length ? ` ${count(told.clashes.length)} left as they are: somebody else changed them meanwhile.` : "";
  say(`${told.cases === 1 ? "1 case" : `${count(told.cases)} cases`} changed.${clashes}`, told.change !== null);
}

let toastEnds = 0;
function say(words, canUndo = false) {
  const toast = find(".wb-toast");
  toast.querySelector("span").textContent = words;
  toast.querySelector("button").hidden = !canUndo;
  toast.hidden = false;
  clearTimeout(toastEnds);
  toastEnds = setTimeout(() => { toast.hidden = true; }, canUndo ? 20000 : 8000);
}

async function undo() {
  const told = await ask("undo", { run: wb.run.run, change: lastChange, who: me() });
  afterEdit(told);
  say(`Undone: ${count(told.cases)} ${told.cases === 1 ? "case is" : "cases are"} as before.${told.clashes.length ? ` ${count(told.clashes.length)} were changed since and stay.` : ""}`);
  if (wb.place === "case") showCase(); else search({ keepPage: true });
}
