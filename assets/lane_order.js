// Which lanes are seen, in which order, and how large: sorted, hidden, moved by drag or keys, or all on one screen as a
// grid of small ones. The unpruned lane is sorted first. state.lanes stays in the order of the request.

const SORTS = ["asked", "answer", "evidence", "time", "own"];
const layout = { hidden: new Set(), own: [], dragged: null };
const VERDICT_ORDER = { good: 0, same: 1, different: 2, bad: 3 };

function shareOfEvidence(lane) {
  const { shows } = state.grid;
  const last = lane.data.stages.map((stage) => stage.kept.length > 0).lastIndexOf(true);
  if (!shows.length || last < 0) return shows.length && lane.data.status === "done" && !lane.data.stages.length ? 1 : -1;
  const fates = fatesOf(shows, { ...lane.data.stages[last], carriers: lane.data.stages[last].covers ? null : lane.data.stages[last].carriers });
  return (fates.kept + fates.absorbed + fates.kept / (shows.length + 1)) / shows.length;
}

function sortKeys(lane) {
  const { data } = lane;
  return {
    asked: [lane.number],
    answer: [data.verdict ? VERDICT_ORDER[data.verdict.kind] : 4, data.answer.toLowerCase()],
    evidence: [-shareOfEvidence(lane)],
    time: [Number.isFinite(data.ms) ? data.ms : Infinity],
    own: [layout.own.includes(data.key) ? layout.own.indexOf(data.key) : layout.own.length + lane.number],
  }[state.settings.sort];
}

// Equal ones stay as they were asked.
function lanesInOrder() {
  const own = state.settings.sort === "own" || state.settings.sort === "asked";
  const keyed = state.lanes.map((lane) => [lane, [...(own ? [] : [lane.number === 0 ? 0 : 1]), ...sortKeys(lane), lane.number]]);
  const compare = (a, b) => (typeof a === "string" ? a.localeCompare(b) : a === b ? 0 : a - b);
  keyed.sort(([, a], [, b]) => a.reduce((found, value, i) => found || compare(value, b[i]), 0));
  return keyed.map(([lane]) => lane);
}

function seenLanes() {
  return state.lanes.filter((lane) => !layout.hidden.has(lane.data.key));
}

function placeLanes() {
  const known = new Set(state.lanes.map((lane) => lane.data.key));
  layout.hidden.forEach((key) => { if (!known.has(key)) layout.hidden.delete(key); });
  state.lanes.forEach((lane) => { lane.root.hidden = layout.hidden.has(lane.data.key); });
  const roots = lanesInOrder().map((lane) => lane.root);
  const holder = part("lanes");
  const focused = holder.contains(document.activeElement) ? document.activeElement : null;
  if (roots.some((root, i) => holder.children[i] !== root) || holder.children.length !== roots.length) holder.replaceChildren(...roots);
  if (focused && focused !== document.activeElement) focused.focus({ preventScroll: true });
  fillLaneBar();
}

function fillLaneBar() {
  const bar = part("lane-bar");
  bar.hidden = state.lanes.length < 3;
  part("grid-toggle").setAttribute("aria-pressed", String(state.settings.compact));
  const select = part("sort-lanes").querySelector("select");
  select.value = state.settings.sort;
  select.querySelector('[value="evidence"]').disabled = !state.grid.shows.length;
  const n = layout.hidden.size;
  part("show-hidden").hidden = !n;
  part("show-hidden").textContent = `Show ${n} hidden ${n === 1 ? "lane" : "lanes"}`;
  part("root").classList.toggle("tv-compact", state.settings.compact);
}

function relay(words) {
  placeLanes();
  fillAnswersBar();
  arrange();
  redraw();
  if (words) part("live").textContent = words;
}

function hideLane(lane) {
  if (seenLanes().length < 2) return;
  layout.hidden.add(lane.data.key);
  relay(`${lane.data.label} is hidden.`);
  part("show-hidden").focus({ preventScroll: true });
}

function moveLane(lane, to) {
  const order = lanesInOrder().filter((one) => !layout.hidden.has(one.data.key));
  const from = order.indexOf(lane);
  const place = Math.min(Math.max(to, 0), order.length - 1);
  if (from === place) return;
  order.splice(place, 0, ...order.splice(from, 1));
  layout.own = [...order.map((one) => one.data.key), ...layout.hidden];
  state.settings.sort = "own";
  relay(`${lane.data.label}: place ${place + 1} of ${order.length}.`);
}

function placeOfLane(lane) {
  return lanesInOrder().filter((one) => !layout.hidden.has(one.data.key)).indexOf(lane);
}

// The handle and the cross of a lane's head.
function buildMovers(lane) {
  const movers = make("span", "tv-movers");
  const handle = make("button", "tv-mover", "⠿");
  const cross = make("button", "tv-mover tv-hide", "×");
  handle.type = cross.type = "button";
  handle.title = "Drag to another place, or use the arrow keys";
  cross.title = "Hide this lane";
  handle.addEventListener("keydown", (event) => {
    const by = { ArrowLeft: -1, ArrowUp: -1, ArrowRight: 1, ArrowDown: 1 }[event.key];
    if (!by) return;
    event.preventDefault();
    moveLane(lane, placeOfLane(lane) + by);
    handle.focus({ preventScroll: true });
  });
  handle.addEventListener("pointerdown", (event) => {
    if (event.button) return;
    handle.setPointerCapture(event.pointerId);
    layout.dragged = lane;
    lane.root.classList.add("tv-dragged");
  });
  handle.addEventListener("pointermove", (event) => {
    if (layout.dragged !== lane) return;
    const under = state.lanes.find((one) => one !== lane && !one.root.hidden && isOver(one.root, event));
    part("lanes").querySelectorAll(".tv-drop-here").forEach((root) => root.classList.remove("tv-drop-here"));
    if (under) under.root.classList.add("tv-drop-here");
  });
  const drop = (event) => {
    if (layout.dragged !== lane) return;
    layout.dragged = null;
    lane.root.classList.remove("tv-dragged");
    const target = state.lanes.find((one) => one.root.classList.contains("tv-drop-here"));
    part("lanes").querySelectorAll(".tv-drop-here").forEach((root) => root.classList.remove("tv-drop-here"));
    if (target && event.type === "pointerup") moveLane(lane, placeOfLane(target));
  };
  handle.addEventListener("pointerup", drop);
  handle.addEventListener("pointercancel", drop);
  cross.addEventListener("click", () => hideLane(lane));
  movers.append(handle, cross);
  lane.root.querySelector(".tv-head").append(movers);
  lane.movers = { handle, cross };
}

function isOver(root, { clientX, clientY }) {
  const { left, right, top, bottom } = root.getBoundingClientRect();
  return clientX >= left && clientX < right && clientY >= top && clientY < bottom;
}

function nameMovers(lane) {
  lane.movers.handle.setAttribute("aria-label", `Move ${lane.data.label}: arrow keys`);
  lane.movers.cross.setAttribute("aria-label", `Hide ${lane.data.label}`);
}

// As many columns as leave all lanes on the screen; above the lanes stays what is there now.
function compactColumns(count, width, height) {
  for (let columns = 1; columns < count; columns++) {
    const side = (width - 8 * (columns - 1)) / columns;
    const rows = Math.ceil(count / columns);
    const ratio = state.payload ? state.payload.size[1] / state.payload.size[0] : 1;
    if (side <= 300 && rows * (Math.min(side * ratio, 230) + 62) <= height) return columns;
  }
  return count;
}

function wireLaneBar() {
  part("grid-toggle").addEventListener("click", () => {
    state.settings.compact = !state.settings.compact;
    keepSettings();
    relay(state.settings.compact ? "All lanes small, on one screen." : "Lanes at full size.");
  });
  part("sort-lanes").querySelector("select").addEventListener("change", ({ target }) => {
    state.settings.sort = target.value;
    if (target.value === "own") layout.own = [...part("lanes").children].map((root) => state.lanes.find((lane) => lane.root === root).data.key);
    keepSettings();
    relay(`Sorted by ${target.selectedOptions[0].textContent}.`);
  });
  part("show-hidden").addEventListener("click", () => {
    layout.hidden.clear();
    relay("All lanes are shown.");
    part("grid-toggle").focus({ preventScroll: true });
  });
}
