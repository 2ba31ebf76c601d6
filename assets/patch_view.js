// The component: reads props.value (the payload of tokviz/ui/payload.py), builds lanes, answers pointer and keys.
// Everything here is instant and stays in the browser; every text of the payload reaches the page as text content.

const found = new Map();
const part = (name) => {
  if (!found.get(name)?.isConnected) found.set(name, element.querySelector(`.tv-${name}`));
  return found.get(name);
};
const state = {
  payload: null, id: null, view: "kept", opacity: { kept: 0.84, score: 0.86, order: 0.86, clusters: 0.8, dropped: 0.8, ab: 0.7, chance: 0.86 },
  hover: -1, pin: -1, lanes: [], image: null, imageUrl: null, spoken: 0, grid: null, level: null, plain: null,
  sheets: new Map(), pointed: null, mouse: [NaN, NaN], byKey: false, settings: defaultSettings(), colours: null, later: 0, strip: 0,
};

function scene(lane) {
  const stage = lane.data.stages[lane.stageAt] || null;
  const index = stage ? lane.indices[lane.stageAt] : null;
  return {
    payload: state.payload, lanes: state.lanes.length, box: lane.box, image: shownImage(), view: state.view, opacity: state.opacity[state.view], stage, index,
    map: stage ? stage.maps[lane.mapAt] : null, ordering: index ? index.orderings[lane.orderAt] : null,
    survival: lane.survival, colours: state.colours, settings: state.settings,
    sides: state.view === "ab" ? sidesOf(lane) : null, chance: state.view === "chance" && stage ? chanceOf(lane) : null,
  };
}

function drawLane(lane) {
  const drawn = scene(lane);
  paint(lane.canvas, drawn);
  drawMarks(lane.svg, drawn, state);
}

function inSight(node) {
  const { top, bottom } = node.getBoundingClientRect();
  return bottom > 0 && top < innerHeight;
}

// What is out of sight is drawn behind what is seen: with many lanes, most are.
function redraw() {
  if (!state.payload) return;
  drawLanes();
  drawFilm();
  showReadouts();
  document.dispatchEvent(new CustomEvent("tokviz:redrawn"));
}

// All sizes are read before anything is written: a browser that is asked for a size after a change lays out anew.
function drawLanes() {
  state.colours = state.colours || palette(part("root"));
  clearTimeout(state.later);
  const seen = seenLanes();
  measureLanes(seen);
  const later = seen.filter((lane) => !inSight(lane.canvas));
  seen.filter((lane) => !later.includes(lane)).forEach(drawLane);
  if (later.length) state.later = setTimeout(() => { measureLanes(later); later.forEach(drawLane); });
}

function measureLanes(lanes) {
  lanes.forEach((lane) => { lane.box = [lane.canvas.clientWidth, lane.canvas.clientHeight]; });
}

// Of a video the frame that is chosen; nothing until it has been loaded, so that no overlay lies on another frame.
function shownImage() {
  if (!state.payload.video) return state.image;
  const image = film.images[film.frame];
  return image && image.complete && image.naturalWidth ? image : null;
}

function redrawWithTools() {
  drawLanes();
  state.lanes.forEach((lane) => fillTools(lane, state.view, redrawWithTools));
  fillSettings();
  drawLegend();
  drawWhy();
  drawAgreement();
  drawTable();
  arrangeFilm();
  fillFilmTable();
  drawFilm();
  showReadouts();
}

function drawOverlay() {
  measureLanes(state.lanes);
  state.lanes.forEach((lane) => drawMarks(lane.svg, scene(lane), state));
  drawPartners();
  showReadouts();
}

function summary(lane) {
  const stage = lane.data.stages[lane.stageAt];
  const total = state.payload.grid.row.length;
  const noun = levelsOf(state.grid).length > 1 ? "tokens" : "patches"; // of all levels, newlines included
  if (lane.data.status !== "done") return ["", ""];
  if (!stage) return [`all ${total} ${noun}`, ""];
  const kept = state.view === "dropped" ? lane.data.stages.at(-1).kept : stage.kept;
  if (state.payload.video) {
    const count = countsOf(lane).find((one) => one.frames.includes(film.frame));
    return [count ? countWords(count, film.frame, false) : "", allFramesWords(lane, kept.length)];
  }
  return [`${kept.length} of ${total} ${noun} kept${state.view === "dropped" ? " to the end" : ""}`, state.view === "dropped" ? "" : withdrawalWords(lane)];
}

function showReadouts() {
  const token = state.hover >= 0 ? state.hover : state.pin;
  for (const lane of state.lanes) {
    const [where, what] = token >= 0 ? describe(lane, state.payload, token) : summary(lane);
    lane.where.textContent = where;
    lane.what.textContent = what;
    lane.root.classList.toggle("tv-telling", token >= 0);
  }
  lightWhy(token);
  lightTable(token);
}

function speak(lane, token) {
  const [where, what] = describe(lane, state.payload, token);
  const pinned = token === state.pin && token >= 0 ? "Pinned. " : "";
  part("live").textContent = `${pinned}${lane.data.label}: ${[where, what].filter(Boolean).join(", ")}`;
}

function tokenUnder(lane, event) {
  const frame = lane.image.getBoundingClientRect();
  const [width, height] = state.payload.size;
  const [x, y] = onImage([(event.clientX - frame.left) / frame.width, (event.clientY - frame.top) / frame.height]);
  return tokenAt(state.payload.grid, x * width, y * height);
}

function hover(token) {
  if (token === state.hover) return;
  state.hover = token;
  drawOverlay();
}

function pin(token) {
  state.pin = token === state.pin ? -1 : token;
  drawOverlay();
}

const STEPS = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };

// Walking by keys scrolls the page under a mouse that rests, and the browser tells that as if the mouse had moved.
const hasMoved = (event) => event.screenX !== state.mouse[0] || event.screenY !== state.mouse[1];
document.addEventListener("pointermove", (event) => {
  if (hasMoved(event)) state.byKey = false;
  state.mouse = [event.screenX, event.screenY];
}, true);

function onKey(lane, event) {
  state.byKey = true;
  if (zoomKey(event)) {
    event.preventDefault();
    return;
  }
  const at = state.hover >= 0 ? state.hover : state.pin;
  if (event.key in STEPS) {
    hover(step(state.payload.grid, at, ...STEPS[event.key]));
    revealToken(state.hover);
    speak(lane, state.hover);
  } else if (event.key === "Enter" || event.key === " ") {
    if (at >= 0) pin(at);
    speak(lane, at);
  } else if (state.payload.video && (event.key === "," || event.key === ".")) {
    chooseFrame(film.frame + (event.key === "." ? 1 : -1));
    part("live").textContent = part("scrub-range").getAttribute("aria-valuetext");
  } else if (event.key === "Escape") {
    state.hover = state.pin = -1;
    drawOverlay();
    part("live").textContent = "Released.";
  } else {
    return;
  }
  event.preventDefault();
}

function wireLane(lane) {
  buildMovers(lane);
  wireZoomOf(lane);
  lane.image.addEventListener("pointermove", (event) => {
    if (state.byKey) return;
    state.pointed = lane;
    hover(tokenUnder(lane, event));
  });
  lane.image.addEventListener("pointerleave", (event) => { if (!state.byKey || hasMoved(event)) hover(-1); });
  scrubOver(lane.bars, (frame) => {
    const count = frame < 0 ? null : countsOf(lane).find((one) => one.frames.includes(frame));
    if (count) [lane.where.textContent, lane.what.textContent] = [countWords(count, frame), ""];
    else showReadouts();
  });
  lane.image.addEventListener("click", (event) => {
    const token = tokenUnder(lane, event);
    if (token >= 0) pin(token);
  });
  lane.image.addEventListener("keydown", (event) => onKey(lane, event));
  lane.image.addEventListener("blur", () => hover(-1));
  lane.why.addEventListener("click", () => openWhy(lane));
  lane.table.addEventListener("click", () => openTable(lane));
}

// Even rows: six lanes on four columns' width become three and three, not four and two.
const GAP = 14;
const NARROWEST = 200; // five lanes beside each other on a laptop

function arrange() {
  const most = Math.max(1, Math.floor((part("lanes").clientWidth + GAP) / (NARROWEST + GAP)));
  const { length } = seenLanes();
  const { compact } = state.settings;
  const room = innerHeight - Math.max(part("lanes").getBoundingClientRect().top + scrollY, 120) - 4;
  const rows = compact ? 1 : Math.ceil(length / most) || 1;
  const columns = compact ? compactColumns(length, part("lanes").clientWidth, Math.max(room, 0.6 * innerHeight)) : Math.ceil(length / rows) || 1;
  part("lanes").style.setProperty("--tv-columns", String(columns));
  part("answers-bar").hidden = rows < 2;
  // Words about a patch take fewer lines where lanes are wide.
  const width = part("lanes").clientWidth / Math.max(columns, 1);
  part("lanes").classList.toggle("tv-narrow", width < 235);
  // While answers come in, the room only grows.
  state.strip = Math.max(state.plain && isLive(state.plain) ? state.strip : 0, stripHeight(seenLanes(), width));
  part("lanes").style.setProperty("--tv-strip", `${state.strip}px`);
  showWhatHasMore();
  if (state.payload) state.lanes.forEach((lane) => placeUnseenLabel(lane.unseen, state.payload, lane.image));
  arrangeFilm();
}

function loadImage(file) {
  const url = file && file.url;
  if (!url || url === state.imageUrl) return;
  state.imageUrl = url;
  const image = new Image();
  image.addEventListener("load", () => {
    if (state.imageUrl === url) {
      state.image = image;
      redraw();
    }
  });
  image.src = url;
}

function tellStory(payload) {
  for (const name of ["origin", "title", "why"]) {
    part(name).textContent = payload[name];
    part(name).hidden = !payload[name];
  }
  const question = part("question");
  question.replaceChildren(make("span", "tv-asked", payload.question));
  if (payload.expected) question.append(make("span", "tv-expected", `expected answer: ${payload.expected}`));
  const kept = payload.kept_at ? `kept · times measured at ${payload.kept_at} UTC` : "";
  if (kept) question.append(Object.assign(make("span", "tv-kept", kept), { tabIndex: 0 }));
  if (kept) question.lastChild.dataset.hint = "The same was asked before, so nothing was computed now: answers, choices and times are those of that run.";
  part("when").textContent = kept ? `at ${payload.kept_at} UTC, when this was first asked` : "in this run";
  fillOutcomes(payload);
  part("notes").replaceChildren(...payload.warnings.map((text) => make("p", "tv-warning", text)));
  // The page's head shows which model answered; attributes, so that it does not matter which component loads first.
  document.documentElement.dataset.tokvizModel = payload.model;
  document.documentElement.dataset.tokvizSetting = payload.setting;
}

// Sheets are made once: the frames of a video are gone through again and again.
function chooseSheet() {
  const choice = state.plain.video ? film.frame : state.level;
  if (!state.sheets.has(choice)) state.sheets.set(choice, sheetOf(state.plain, choice));
  state.payload = { ...state.plain, imageSize: state.plain.size, whole: state.grid, ...state.sheets.get(choice) };
  state.lanes.forEach((lane) => placeSheet(lane, state.payload));
}

function chooseLevel(choice) {
  const choices = sheetChoices(state.grid);
  state.level = choices.some(({ value }) => value === choice) ? choice : choices.length ? choices[0].value : null;
  part("levels").hidden = !choices.length;
  const select = part("levels").querySelector("select");
  select.replaceChildren(...choices.map(({ value, name }) => Object.assign(make("option", "", name), { value })));
  select.value = String(state.level);
  chooseSheet();
}

// Grid, words and lanes travel as text, see "packed" in tokviz/ui/payload.py.
function unpack(value) {
  return { ...value, grid: JSON.parse(value.grid), words: JSON.parse(value.words), lanes: value.lanes.map((lane) => JSON.parse(lane)) };
}

function show(value) {
  part("root").hidden = !value || !value.lanes;
  part("empty").hidden = !part("root").hidden;
  if (part("root").hidden) return;
  let payload = unpack(value);
  const previous = state.plain;
  belongs(payload, previous);
  part("root").classList.remove("tv-asked-anew");
  state.plain = payload;
  state.grid = payload.grid;
  state.sheets = new Map();
  if (payload.id !== state.id || !payload.video || film.frame >= payload.video.frames.length) film.frame = firstFrame(payload);
  chooseLevel(payload.id === state.id ? state.level : null);
  payload = state.payload;
  if (payload.id !== state.id) {
    state.id = payload.id;
    why.lane = null;
    state.hover = state.pin = -1;
    state.pointed = null;
    state.lanes = [];
  }
  // A film has no image: the one before it is forgotten, or it would not be loaded when it is shown again.
  if (!payload.image || (previous && previous.size.join() !== state.plain.size.join())) state.image = state.imageUrl = null;
  loadImage(payload.image);
  fillFilm();
  tellStory(payload);
  showStaleness();
  while (state.lanes.length < payload.lanes.length) {
    const lane = buildLane(state.lanes.length);
    wireLane(lane);
    state.lanes.push(lane);
  }
  state.lanes.length = payload.lanes.length;
  payload.lanes.forEach((data, i) => {
    const lane = state.lanes[i];
    const finished = lane.data && lane.data.status !== data.status;
    if (finished) lane.stageChosen = false;
    fillLane(lane, data, value.lanes[i], payload, state.view);
    nameMovers(lane);
    placeSheet(lane, payload);
  });
  applyPreview();
  placeLanes();
  if (payload.id === state.lost) giveUp();
  fillAnswersBar();
  arrange();
  redrawWithTools();
  keepRoom();
  document.dispatchEvent(new CustomEvent("tokviz:shown"));
}

// While answers come in, each lane has the room for numbers that it needed last; a new one that of the longest list.
const rooms = { of: new Map(), most: 0 };

function keepRoom() {
  if (!isLive(state.plain)) {
    const needs = state.lanes.map(({ numbers }) => Math.max(0, ...[...numbers.children].map((node) => node.offsetTop + node.offsetHeight - numbers.offsetTop)));
    state.lanes.forEach(({ data }, i) => rooms.of.set(data.key, needs[i]));
    rooms.most = Math.max(...needs);
    part("why-panel").style.minHeight = "";
  }
  for (const { numbers, data } of state.lanes) {
    const room = rooms.of.get(data.key) || rooms.most;
    if (room) numbers.style.minHeight = `${Math.ceil(room) + 12}px`;
  }
}

function giveUp() {
  for (const lane of state.lanes.filter(({ data }) => data.status === "waiting" || data.status === "running")) {
    lane.root.dataset.status = "lost";
    fillOutcome(lane, { ...lane.data, status: "lost", answer: lane.data.answer || "not answered" });
    lane.answer.classList.add("tv-quiet");
  }
}

element.querySelectorAll('input[name="tv-view"]').forEach((radio) => radio.addEventListener("change", () => {
  state.view = radio.value;
  state.lanes.forEach((lane) => suggestStage(lane, state.view));
  keepSettings();
  part("opacity").querySelector("input").value = String(Math.round(100 * state.opacity[state.view]));
  redrawWithTools();
}));
part("opacity").querySelector("input").addEventListener("input", (event) => {
  state.opacity[state.view] = Number(event.target.value) / 100;
  keepSettings();
  redraw();
});
part("levels").querySelector("select").addEventListener("change", (event) => {
  chooseLevel(event.target.value);
  state.hover = state.pin = -1;
  arrange();
  redrawWithTools();
});
wireFilm();
wireSettings();
wireZoom();
wireLaneBar();
wireTable();
wireAgreement();
recallSettings();
part("outcomes-open").addEventListener("click", openOutcomes);
part("copy-link").addEventListener("click", copyLink);
document.addEventListener("tokviz:chosen-model", showOtherModel);
// The notice gave a run up: nothing is on its way any more, and what was on its way when it did is late.
document.addEventListener("tokviz:lost", () => {
  state.lost = state.id;
  giveUp();
});
new ResizeObserver(() => { arrange(); redraw(); }).observe(part("lanes"));
// Canvas colours come from CSS variables, which change with the theme.
new MutationObserver(() => { state.colours = null; redraw(); }).observe(document.body, { attributes: true, attributeFilter: ["class"] });
// What the studies beneath the lanes draw with, see study_tools.js.
window.tokvizLanes = { state, seenLanes, laneA, laneB, paint, paintImage, palette, shownImage, tokenAt, step, placeOf, shortNumber, ticksOf, rangeOf };
watch("value", () => show(props.value));
show(props.value);
part("root").dataset.ready = ""; // the page waits for it
