// What each view can be set to: controls that share one place above the lanes, so that another view moves nothing.
// Settings stay while other questions are asked; a lane that is gone gives its place to the first that was pruned.

const DEFAULT_LARGEST = 12;
const REPLAY_MS = 4000; // for a whole replay
const replaying = { timer: null };

// {scale: null or linear, log, rank; replay: null or a number of picks; largest: groups in colour; a, b: keys of lanes;
// reach: patches around a patch; compact: all lanes on one screen; sort: of the lanes}
function defaultSettings() {
  return { scale: null, replay: null, largest: DEFAULT_LARGEST, a: "", b: "", reach: 2, compact: false, sort: "asked" };
}

function setting(view) {
  return part("settings").querySelector(`[data-view="${view}"]`);
}

// How far the slider of the order goes: to the last pick of any lane.
function replayEnd() {
  return Math.max(1, ...state.lanes.map((lane) => {
    const ordering = lane.indices[lane.stageAt]?.orderings[lane.orderAt];
    return ordering ? lastPlace(ordering.places) : 0;
  }));
}

function mostGroups() {
  return Math.max(1, ...state.lanes.map((lane) => lane.indices[lane.stageAt]?.hues.size || 0));
}

function fillSettings() {
  part("settings").querySelectorAll("[data-view]").forEach((node) => node.classList.toggle("tv-off", node.dataset.view !== state.view));
  const fill = { score: fillScale, order: fillReplay, clusters: fillLargest, ab: fillSides, chance: fillReach }[state.view];
  if (fill) fill();
  if (state.view !== "order") replay(false);
}

function fillScale() {
  setting("score").querySelectorAll("input").forEach((input) => { input.checked = input.value === (state.settings.scale || ""); });
}

function fillReplay() {
  const [range, told] = [setting("order").querySelector("input"), setting("order").querySelector(".tv-told")];
  const end = replayEnd();
  const now = Math.min(state.settings.replay ?? end, end);
  range.max = String(end);
  range.value = String(now);
  const words = `${now} of ${end} picks`;
  range.setAttribute("aria-valuetext", words);
  told.textContent = words;
}

function fillLargest() {
  const [range, told] = [setting("clusters").querySelector("input"), setting("clusters").querySelector(".tv-told")];
  const most = mostGroups();
  const now = Math.min(state.settings.largest, most);
  range.max = String(most);
  range.value = String(now);
  told.textContent = now === most ? `all ${most}` : `${now} of ${most}`;
  range.setAttribute("aria-valuetext", told.textContent);
}

function fillSides() {
  const [a, b] = setting("ab").querySelectorAll("select");
  const lanes = state.lanes.filter((lane) => keptFlags(lane));
  refill(a, lanes.map(({ data }) => `${data.key} ${data.label}`).join("\n"), 0, () => lanes.map(laneOption));
  refill(b, `${laneA()?.data.key}\n${a.tvKey}`, 0, () => [Object.assign(make("option", "", "every other lane"), { value: "" }),
    ...lanes.filter((lane) => lane !== laneA()).map(laneOption)]);
  a.value = laneA() ? laneA().data.key : "";
  b.value = laneB() ? laneB().data.key : "";
}

function laneOption({ data }) {
  return Object.assign(make("option", "", data.label), { value: data.key });
}

function fillReach() {
  setting("chance").querySelector("select").value = String(state.settings.reach);
}

function replay(on) {
  clearInterval(replaying.timer);
  replaying.timer = null;
  const button = setting("order").querySelector("button");
  button.setAttribute("aria-pressed", String(on));
  button.setAttribute("aria-label", on ? "Pause the replay" : "Replay the picks");
  if (!on) return;
  const end = replayEnd();
  if (state.settings.replay === null || state.settings.replay >= end) state.settings.replay = 0;
  const pace = Math.max(REPLAY_MS / end, 60);
  const by = Math.max(1, Math.round((pace * end) / REPLAY_MS));
  replaying.timer = setInterval(() => {
    showPick(state.settings.replay + by);
    if (state.settings.replay === null) replay(false);
  }, pace);
}

// At the end the whole order is there again, also for lanes that pick more.
function showPick(pick) {
  const end = replayEnd();
  state.settings.replay = pick >= end ? null : Math.max(pick, 0);
  fillReplay();
  state.lanes.forEach((lane) => fillTools(lane, state.view, redrawWithTools));
  redraw();
}

function wireSettings() {
  const onChange = (view, selector, type, change) => setting(view).querySelectorAll(selector).forEach((control) => {
    control.addEventListener(type, () => { change(control); keepSettings(); redrawWithTools(); });
  });
  onChange("score", "input", "change", ({ value }) => { state.settings.scale = value || null; });
  onChange("clusters", "input", "input", ({ value, max }) => { state.settings.largest = value === max ? Infinity : Number(value); });
  onChange("chance", "select", "change", ({ value }) => { state.settings.reach = Number(value); });
  const [a, b] = setting("ab").querySelectorAll("select");
  for (const [select, name] of [[a, "a"], [b, "b"]]) {
    select.addEventListener("change", () => {
      state.settings[name] = select.value;
      keepSettings();
      redrawWithTools();
      speakSides();
    });
  }
  setting("order").querySelector("input").addEventListener("input", ({ target }) => { replay(false); showPick(Number(target.value)); });
  setting("order").querySelector("button").addEventListener("click", () => replay(replaying.timer === null));
}

// For who cannot see the bars under the lanes.
function speakSides() {
  const a = keptFlags(laneA());
  const compared = state.lanes.filter((lane) => a && lane !== laneA() && takesPart(lane) && keptFlags(lane));
  const words = compared.map((lane) => {
    const { iou, both } = overlapOf(a, keptFlags(lane));
    return `${lane.data.label}: ${both} in both${iou === null ? "" : `, IoU ${iou.toFixed(2)}`}`;
  });
  part("live").textContent = `A is ${laneA().data.label}. ${words.join(". ")}.`;
}
