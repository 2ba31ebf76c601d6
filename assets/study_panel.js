// The section beneath the lanes: studies of what they show, each begun by a button. One runs at a time; its results
// stay until the lanes are about something else.

const root = element.querySelector(".ts-root");
const about = () => lanes().state.plain?.about ?? ""; // what the lanes show, as far as a study is concerned
const panes = Object.fromEntries([...root.querySelectorAll(".ts-pane")].map((pane) => [pane.dataset.study, pane]));
const tabs = [...root.querySelectorAll("[role=tab]")];
const inPane = (study, name) => panes[study].querySelector(`.ts-${name}`);
const run = { study: "", id: 0, about: null, busy: false, silence: 0 };
const SILENCE_MS = 30000;
const LOST = "The connection to the server was lost, and with it this study: start it again.";

function choose(study) {
  tabs.forEach((tab) => {
    const mine = tab.id === `ts-tab-${study}`;
    tab.setAttribute("aria-selected", String(mine));
    tab.tabIndex = mine ? 0 : -1;
  });
  Object.entries(panes).forEach(([name, pane]) => { pane.hidden = name !== study; });
  if (study === "edit") openEdit();
  redrawPictures();
}

tabs.forEach((tab, i) => {
  tab.addEventListener("click", () => choose(tab.id.replace("ts-tab-", "")));
  tab.addEventListener("keydown", (event) => {
    const to = { ArrowRight: (i + 1) % tabs.length, ArrowLeft: (i + tabs.length - 1) % tabs.length, Home: 0, End: tabs.length - 1 }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    tabs[to].focus();
    tabs[to].click();
  });
});

function isLive() {
  const { plain } = lanes().state;
  return !plain || plain.lanes.some((one) => one.status === "waiting" || one.status === "running");
}

function isStale() {
  return document.documentElement.dataset.tokvizStale === "yes";
}

function start(study, more = {}) {
  Object.assign(run, { study, id: run.id + 1, about: about(), busy: true });
  props.value = { study, id: run.id, ...more };
  trigger("study");
  tell(study, "busy", study === "edit" ? "Asking …" : "Starting …", 0);
  listen();
  refresh();
}

function listen() {
  clearTimeout(run.silence);
  if (run.busy) run.silence = setTimeout(() => settle("error", LOST), SILENCE_MS);
}

function settle(kind, words) {
  run.busy = false;
  clearTimeout(run.silence);
  tell(run.study, kind, words, null);
  refresh();
}

// share: of the work that is done; null leaves no bar.
function tell(study, kind, words, share) {
  const told = inPane(study, "told");
  told.className = `ts-told ts-told-${kind}`;
  if (told.textContent !== words) told.textContent = words;
  const bar = inPane(study, "bar");
  bar.hidden = kind !== "busy";
  if (share !== null && share !== undefined) bar.firstElementChild.style.width = `${(100 * share).toFixed(1)}%`;
}

// Which buttons can be pressed now, and why not.
function refresh() {
  const blocked = isLive() || isStale();
  for (const [study, pane] of Object.entries(panes)) {
    const mine = run.busy && run.study === study;
    inPane(study, "stop").hidden = !mine;
    inPane(study, "start").disabled = run.busy || blocked || (study === "edit" && !hasEdits()) || (pane.querySelector("select.ts-lane") && !inPane(study, "lane").options.length);
    inPane(study, "start").title = blocked ? "When the lanes hold the answers to what is in the form." : "";
  }
}

// Lanes that a study can be about: with `pruned`, those that drop something.
function fillLanes() {
  const done = lanes().state.lanes.filter((one) => one.data && one.data.status === "done");
  for (const study of ["inside", "edit", "rescue"]) {
    const select = inPane(study, "lane");
    const fit = done.filter((one) => {
      const edited = one.data.key.startsWith("edited");
      return study === "inside" ? !edited : study === "edit" || one.data.stages.length > 0;
    });
    const told = fit.map((one) => `${one.data.key}\n${one.data.label}`).join("\n");
    if (select.tsTold === told) continue;
    const before = select.value;
    select.tsTold = told;
    select.replaceChildren(...fit.map((one) => Object.assign(make("option", "", one.data.label), { value: one.data.key })));
    const wrong = fit.find((one) => one.data.verdict && one.data.verdict.kind === "bad") || fit.find((one) => one.data.stages.length);
    if (fit.some((one) => one.data.key === before)) select.value = before;
    else if (study !== "inside" && wrong) select.value = wrong.data.key;
  }
}

// The lanes were filled, perhaps by something else.
function shown() {
  root.hidden = !lanes().state.plain;
  if (root.hidden) return;
  if (run.about !== null && run.about !== about()) forget();
  if (!isLive()) { // lanes that are on their way are not chosen among
    fillLanes();
    if (!panes.edit.hidden) openEdit();
  }
  refresh();
}

function forget() {
  if (run.busy) trigger("leave");
  Object.assign(run, { busy: false, about: null, id: run.id + 1 });
  clearTimeout(run.silence);
  Object.keys(panes).forEach((study) => {
    inPane(study, "result").replaceChildren();
    tell(study, "none", "", null);
  });
}

const DRAWN = {
  sweep: (data, goesOn) => sweepResult(data, goesOn, (budget, seed) => {
    if (isStale() || isLive()) return;
    props.value = { budget, seed };
    trigger("load_run");
  }),
  inside: insideResult,
  horizon: horizonResult,
  rescue: rescueResult,
};

function heard(value) {
  if (!value || !value.state || value.id !== run.id || value.study !== run.study || !run.busy) return;
  const { study, state, words, share } = value;
  const progress = share ? `${Math.round(100 * share)}% measured` : "";
  if (state === "busy") {
    tell(study, "busy", words || progress || inPane(study, "told").textContent, share);
    listen();
  } else settle(state, words || "Finished.");
  if (value.data && DRAWN[study]) {
    const holder = inPane(study, "result");
    const open = holder.querySelector("details[open]");
    holder.replaceChildren(...DRAWN[study](JSON.parse(value.data), state === "busy"));
    if (open) holder.querySelector("details").open = true;
    redrawPictures();
  }
}

const REQUESTS = {
  sweep: () => ({}),
  inside: () => ({ run: inPane("inside", "lane").value }),
  rescue: () => ({ run: inPane("rescue", "lane").value, block: Number(inPane("rescue", "block").value) }),
  horizon: () => ({ block: Number(inPane("horizon", "block").value) }),
};
for (const study of Object.keys(REQUESTS)) inPane(study, "start").addEventListener("click", () => start(study, REQUESTS[study]()));
inPane("edit", "start").addEventListener("click", askEdited);
inPane("edit", "lane").addEventListener("change", openEdit);
for (const study of Object.keys(panes)) {
  inPane(study, "stop").addEventListener("click", () => {
    tell(study, "busy", "Stopping …", null);
    trigger("halt");
  });
}

document.addEventListener("tokviz:shown", shown);
// Compare does not wait for a study of the same visitor.
document.addEventListener("tokviz:asked", () => { if (run.busy) trigger("halt"); });
document.addEventListener("tokviz:redrawn", redrawPictures);
new MutationObserver(refresh).observe(document.documentElement, { attributes: true, attributeFilter: ["data-tokviz-stale"] });
watch("value", () => heard(props.value));
if (lanes()) shown();
