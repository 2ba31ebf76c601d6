// Whether the lanes belong to what is in the form. They cease to when the visitor chooses another image or video, at
// once; a comparison that was asked for after that belongs to it again, and so does a stored one that is opened. The
// server can say so too, with payload.stale.

const media = { choices: 0, asked: 0, shown: 0, pressed: false, removed: false, told: "", awaited: false };

function isLive(payload) {
  return payload.lanes.some((lane) => lane.status === "waiting" || lane.status === "running");
}

// A stored comparison comes with its own file; a run answers what was in the form when Compare was pressed, and goes on
// doing so however long it streams.
function belongs(payload, previous) {
  // What is stored may be told again, by an update of something else; opened again, it brings its file.
  const goesOn = previous && previous.id === payload.id && previous.origin === payload.origin && !media.pressed;
  if (!goesOn) media.shown = payload.origin ? media.choices : media.asked;
  if (!previous && window.tokvizMemory?.hasChosen()) { // what the form will show when it comes back, see below
    media.choices += 1;
    media.awaited = true;
  }
  media.pressed = false;
  media.told = "";
}

function staleWords(payload) {
  if (payload.stale || media.told) return payload.stale || media.told;
  if (media.shown === media.choices) return "";
  const owner = Number.isInteger(payload.example) ? "the example" : isLive(payload) ? "the run in progress" : "an earlier question";
  return media.removed ? `These results belong to ${owner}, whose image or video is no longer in the form.`
    : `These results belong to ${owner}, not to the file you chose: press Compare.`;
}

function showStaleness() {
  const words = staleWords(state.plain);
  if (part("stale").textContent !== words) part("stale").textContent = words;
  part("root").classList.toggle("tv-is-stale", Boolean(words));
  // The pill of an example is lit while the page is about it.
  const { example } = state.plain;
  const page = document.documentElement.dataset;
  page.tokvizExample = Number.isInteger(example) && !words ? String(example) : "";
  page.tokvizExampleName = page.tokvizExample && state.plain.example_name ? state.plain.example_name : "";
  page.tokvizStale = words ? "yes" : "";
  showOtherModel();
}

// The menu and the lanes never contradict each other in silence.
function showOtherModel() {
  const chosen = document.documentElement.dataset.tokvizChosen;
  const differs = state.plain && chosen && chosen !== state.plain.model && !isLive(state.plain);
  const words = differs ? `These answers are ${state.plain.model}’s. Compare will ask ${chosen}, the model chosen in the form.` : "";
  if (part("other-model").textContent !== words) part("other-model").textContent = words;
}

// detail: the file or null, and whether the visitor or the server put it there.
document.addEventListener("tokviz:media", ({ detail }) => {
  if (!element.isConnected) return;
  media.removed = !detail.file;
  if (detail.byVisitor) Object.assign(media, { choices: media.choices + 1, awaited: false });
  else if (detail.file) media.shown = media.choices; // it came with lanes, perhaps the very same ones
  if (state.plain) showStaleness();
});
// The page was loaded anew with a file that had been chosen and not asked about: the lanes are still about another,
// unless it is gone.
document.addEventListener("tokviz:recalled", () => {
  if (!element.isConnected || !state.plain) return;
  if (window.tokvizMemory.hasChosen()) media.choices += media.shown === media.choices ? 1 : 0;
  else if (media.awaited) media.shown = media.choices;
  media.awaited = false;
  showStaleness();
});
// A request was not answered at all: what is shown is an older one's.
document.addEventListener("tokviz:stale", ({ detail }) => {
  media.told = detail;
  if (state.plain) showStaleness();
});
document.addEventListener("tokviz:asked", () => {
  media.asked = media.choices;
  media.pressed = true;
  giveWay();
});

// The story of the case goes at the press itself: on a slow phone Gradio tells of it, and takes the reader to the lanes,
// so much later that they would see the lanes jump.
function giveWay() {
  if (element.isConnected && state.plain) part("root").classList.add("tv-asked-anew");
}
document.addEventListener("click", ({ target }) => { if (target.closest?.("#tokviz-compare")) giveWay(); }, true);
document.addEventListener("keydown", ({ key, shiftKey, target }) => { if (key === "Enter" && shiftKey && target.closest?.("#tokviz-question")) giveWay(); }, true);
// Answered, refused or stopped: whatever is shown now stays.
document.addEventListener("tokviz:settled", () => { part("root").classList.remove("tv-asked-anew"); });
