// The film of a video: its frames in a row, under it the kept tokens per frame of every lane, and the scrubber that all
// lanes share. Frames are counted from 0 here and from 1 in words.

const film = { frame: 0, key: "", images: [], cells: [], timer: null };
const CELL_LEAST = 44; // px; narrower frames cannot be told apart
const CELL_TALLEST = 72;
const BAR_ROW = 20;
const BAR_ROW_OF_MANY = 15; // px, from MANY lanes on
const MANY = 9;
const PLAY_MS = 700;

function timeWords(seconds) {
  if (seconds < 60) return `${seconds.toFixed(seconds < 10 ? 2 : 1)} s`;
  const whole = Math.round(seconds);
  return `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")}`;
}

function frameWords(frame) {
  return `frame ${frame + 1} · ${timeWords(state.payload.video.frames[frame].time)}`;
}

function evidenceFrames() {
  return new Set(state.payload.evidence_frames || []);
}

// Where the film opens: where the answer can be seen, if that is known.
function firstFrame(payload) {
  return payload.video ? Math.min(...(payload.evidence_frames || []), payload.video.frames.length) % payload.video.frames.length : 0;
}

function fillFilm() {
  const { video, id, imageSize } = state.payload;
  part("film").hidden = part("scrub").hidden = !video;
  if (!video) {
    play(false);
    film.key = "";
    film.images = [];
    return;
  }
  const key = `${id} ${video.frames.map((frame) => (frame.image ? frame.image.url : "")).join(" ")}`;
  if (key === film.key) return;
  film.key = key;
  const evidence = evidenceFrames();
  film.cells = video.frames.map((frame, at) => filmCell(frame, at, evidence.has(at)));
  film.images = film.cells.map((cell) => cell.querySelector("img"));
  film.images.forEach((image) => image.addEventListener("load", () => { if (image === film.images[film.frame]) redraw(); }));
  part("film-frames").replaceChildren(...film.cells);
  part("film-frames").style.setProperty("--tv-film-aspect", `${imageSize[0]} / ${imageSize[1]}`);
  const range = part("scrub-range");
  range.max = String(video.frames.length - 1);
  const length = video.duration > 0 ? ` of ${timeWords(video.duration)}` : "";
  part("film-source").textContent = `${video.frames.length} frames${length}${video.name ? ` · ${video.name}` : ""}`;
}

function filmCell(frame, at, isEvidence) {
  const cell = make("li", isEvidence ? "tv-film-cell tv-film-evidence" : "tv-film-cell");
  const image = make("img");
  image.alt = "";
  image.draggable = false;
  image.decoding = "async";
  if (frame.image && frame.image.url) image.src = frame.image.url;
  const still = make("span", "tv-film-still");
  still.append(image, make("span", "tv-film-partners"));
  cell.append(still, make("span", "tv-film-time", timeWords(frame.time)));
  cell.title = `frame ${at + 1} · ${timeWords(frame.time)}${isEvidence ? " · evidence for the answer" : ""}`;
  return cell;
}

// Sizes follow from the room there is; called when the width or the lanes change.
function arrangeFilm() {
  if (!state.payload || !state.payload.video) return;
  const { length } = state.payload.video.frames;
  const [width, height] = state.payload.imageSize;
  const widest = Math.max(CELL_TALLEST * (width / height), CELL_LEAST);
  const cell = Math.min(Math.max(part("film-scroll").clientWidth / length, CELL_LEAST), widest);
  part("film-track").style.width = `${Math.floor(cell * length)}px`;
  const rows = state.lanes.filter(isPruned);
  const tall = rows.length < MANY ? BAR_ROW : BAR_ROW_OF_MANY;
  part("film-bars").style.height = `${rows.length * tall}px`;
  part("film-names").style.setProperty("--tv-bar-row", `${tall}px`);
  const names = rows.map((lane) => {
    const name = make("li", "", lane.data.label);
    name.title = lane.data.label;
    return name;
  });
  part("film-names").replaceChildren(...names);
  bringIntoStrip(film.frame);
}

function drawFilm() {
  const { video } = state.payload;
  state.lanes.forEach((lane) => {
    lane.bars.hidden = !video;
    lane.bars.classList.toggle("tv-no-bars", !isPruned(lane));
  });
  if (!video) return;
  const lanes = state.lanes.filter(isPruned);
  const top = barTop(lanes);
  drawBars(part("film-bars"), lanes, top);
  lanes.forEach((lane) => drawBars(lane.bars, [lane], top));
  film.cells.forEach((cell, at) => cell.classList.toggle("tv-film-now", at === film.frame));
  const range = part("scrub-range");
  range.value = String(film.frame);
  const isEvidence = evidenceFrames().has(film.frame);
  const words = `${frameWords(film.frame)}${isEvidence ? " · evidence" : ""}`;
  range.setAttribute("aria-valuetext", words);
  part("scrub-told").textContent = words.replace("frame ", "").replace(" ·", ` of ${video.frames.length} ·`);
  part("film-scale").textContent = lanes.length ? `Bars: share of a frame's patches that was kept; full height ${Math.round(100 * top)}%.` : "";
  drawPartners();
}

// On the strip: the frame of the patch that is looked at, and how many patches of its group lie in which frame.
function drawPartners() {
  if (!state.payload.video) return;
  const token = state.hover >= 0 ? state.hover : state.pin;
  const lane = state.pointed || state.lanes.find((one) => one.data.stages[one.stageAt]?.carriers);
  const stage = lane && lane.data.stages[lane.stageAt];
  const carrier = token >= 0 && stage && stage.carriers ? stage.carriers[token] : -1;
  const group = carrier >= 0 ? lane.indices[lane.stageAt].groups.get(carrier) || [] : [];
  const tally = state.payload.video.frames.map(() => 0);
  if (group.length > 1) group.forEach((member) => framesOf(member).forEach((frame) => { tally[frame] += 1; }));
  const home = new Set(token >= 0 ? framesOf(token) : []);
  film.cells.forEach((cell, at) => {
    cell.classList.toggle("tv-film-home", home.has(at));
    cell.querySelector(".tv-film-partners").textContent = tally[at] ? String(tally[at]) : "";
  });
  part("film-told").textContent = group.length > 1 ? `${lane.data.label}: numbers on the frames say how many of the ${group.length} patches of this group lie there.` : "";
}

function framesOf(token) {
  const view = state.grid.views[state.grid.view[token]];
  return (view && view.frames) || [];
}

function visit(token) {
  const frames = framesOf(token);
  if (frames.length && !frames.includes(film.frame)) chooseFrame(frames[0]);
  if (state.pin !== token) pin(token);
}

// In the words about a patch: over how many frames its group reaches.
function acrossFrames(payload, group) {
  if (!payload.video) return "";
  const frames = new Set(group.map((token) => payload.whole.view[token]));
  return frames.size > 1 ? ` across ${frames.size} frames` : "";
}

function play(on) {
  clearInterval(film.timer);
  film.timer = on ? setInterval(() => showFrame((film.frame + 1) % film.cells.length), PLAY_MS) : null;
  part("scrub-play").setAttribute("aria-pressed", String(on));
  part("scrub-play").setAttribute("aria-label", on ? "Pause" : "Play the frames");
}

// By hand: playing ends.
function chooseFrame(frame) {
  play(false);
  showFrame(frame);
}

function showFrame(frame) {
  const { length } = state.payload.video.frames;
  const next = Math.min(Math.max(frame, 0), length - 1);
  if (next === film.frame) return;
  film.frame = next;
  chooseSheet();
  redraw();
  bringIntoStrip(next);
}

// Only the strip scrolls, never the page.
function bringIntoStrip(frame) {
  const [cell, scroll] = [film.cells[frame], part("film-scroll")];
  const hidden = cell.offsetLeft < scroll.scrollLeft || cell.offsetLeft + cell.offsetWidth > scroll.scrollLeft + scroll.clientWidth;
  if (hidden) scroll.scrollLeft = cell.offsetLeft - (scroll.clientWidth - cell.offsetWidth) / 2;
}

// The same numbers for who cannot see bars.
function fillFilmTable() {
  const lanes = state.payload.video ? state.lanes.filter(isPruned) : [];
  const counts = lanes.map(countsOf);
  const views = counts.length ? counts[0] : [];
  part("film-table").replaceChildren(...(views.length ? [tableOf(["frame", "time", "patches", ...lanes.map((lane) => lane.data.label)], views.length,
    (i) => [views[i].frames.map((frame) => frame + 1).join(", "), views[i].frames.map((frame) => timeWords(state.payload.video.frames[frame].time)).join(", "),
      String(views[i].all), ...counts.map((count) => String(count[i].kept))])] : []));
}

function wireFilm() {
  const tell = (text) => { part("film-told").textContent = text; };
  const pointed = (frame) => (frame < 0 ? tell("") : tell(`${frameWords(frame)}${evidenceFrames().has(frame) ? " · evidence for the answer" : ""}`));
  scrubOver(part("film-frames"), pointed);
  scrubOver(part("film-bars"), (frame, event) => {
    const rows = state.lanes.filter(isPruned);
    if (frame < 0 || !rows.length) return pointed(frame);
    const box = part("film-bars").getBoundingClientRect();
    const row = Math.min(Math.max(Math.floor(((event.clientY - box.top) / box.height) * rows.length), 0), rows.length - 1);
    const count = countsOf(rows[row]).find((one) => one.frames.includes(frame));
    return tell(count ? `${rows[row].data.label}: ${countWords(count, frame)}` : "");
  });
  part("scrub-range").addEventListener("input", (event) => chooseFrame(Number(event.target.value)));
  part("scrub-play").addEventListener("click", () => play(film.timer === null));
  part("scrub-play").hidden = matchMedia("(prefers-reduced-motion: reduce)").matches;
}
