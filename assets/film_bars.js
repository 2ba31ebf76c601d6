// Kept tokens per frame of a video: counted per lane, drawn as bars, one canvas for a whole table of them.

// One entry per view of a video, in the order of its frames: {frames, kept, all} in patches, {extraKept, extra} in tokens
// of the view that are no patch (newline, [CLS] of a frame). kept: N flags, or null when nothing is pruned.
function countFrames(grid, kept) {
  const counts = grid.views.map(({ frames }) => ({ frames, kept: 0, all: 0, extraKept: 0, extra: 0 }));
  grid.view.forEach((at, token) => {
    const count = counts[at];
    if (!count) return;
    const [some, every] = grid.row[token] < 0 ? ["extraKept", "extra"] : ["kept", "all"];
    count[every] += 1;
    count[some] += kept ? kept[token] : 1;
  });
  return counts.filter((count) => count.frames.length).sort((a, b) => a.frames[0] - b.frames[0]);
}

const frameCounts = new WeakMap();

// The counts of a lane as it is drawn: after its stage, or after the last one where the view is about the end.
function countsOf(lane) {
  const at = state.view === "dropped" ? lane.indices.length - 1 : lane.stageAt;
  const index = lane.indices[at] || null;
  const key = index || state.grid;
  if (!frameCounts.has(key)) frameCounts.set(key, countFrames(state.grid, index ? index.kept : null));
  return frameCounts.get(key);
}

function isPruned(lane) {
  return lane.data.status === "done" && lane.indices.length > 0;
}

// How much of a frame the full height stands for: enough for the fullest frame of all lanes, so that they compare.
function barTop(lanes) {
  const most = Math.max(0, ...lanes.filter(isPruned).flatMap((lane) => countsOf(lane).map(({ kept, all }) => (all ? kept / all : 0))));
  return state.payload.video.bar_tops.find((top) => most <= top) || 1;
}

// What is kept of the tokens that a frame has, alone or together with others.
function countWords({ frames, kept, all, extraKept, extra }, frame, withOthers = true) {
  const shared = frames.length > 1 ? ` with ${framesWords(frames.filter((other) => other !== frame))}` : "";
  const others = extra && withOthers ? ` · ${extraKept} of ${extra} non-patch tokens` : "";
  return `${frameWords(frame)} · ${kept} of ${all} kept${shared}${others}`;
}

// The same of the whole video.
function allFramesWords(lane, kept) {
  const [extraKept, extra] = countsOf(lane).reduce(([a, b], count) => [a + count.extraKept, b + count.extra], [0, 0]);
  const others = extra ? `, ${extraKept} of ${extra} non-patch` : "";
  return `all frames: ${kept} of ${state.grid.row.length} tokens${others}`;
}

function buildBars() {
  const bars = make("canvas", "tv-lane-bars");
  bars.hidden = true;
  bars.setAttribute("aria-hidden", "true");
  return bars;
}

// rows: lanes, from top to bottom. Every frame has a column of the same width.
function drawBars(canvas, rows, top) {
  const ratio = window.devicePixelRatio || 1;
  const [width, height] = [canvas.clientWidth, canvas.clientHeight].map((side) => Math.max(Math.round(side * ratio), 1));
  if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
  const context = canvas.getContext("2d");
  context.clearRect(0, 0, width, height);
  const style = getComputedStyle(part("root"));
  const colour = (name) => style.getPropertyValue(name).trim();
  const { frames } = state.payload.video;
  const column = (frame) => Math.round((frame * width) / frames.length);
  const band = (frame, shade, alpha) => {
    context.globalAlpha = alpha;
    context.fillStyle = shade;
    context.fillRect(column(frame), 0, column(frame + 1) - column(frame), height);
    context.globalAlpha = 1;
  };
  evidenceFrames().forEach((frame) => band(frame, colour("--tv-evidence"), 0.2));
  band(film.frame, colour("--body-text-color") || colour("--tv-muted"), 0.14);
  rows.forEach((lane, row) => {
    const [above, base] = [row, row + 1].map((edge) => Math.round((edge * height) / rows.length));
    const room = base - above - Math.round(3 * ratio);
    context.fillStyle = colour("--tv-line");
    context.fillRect(0, base - Math.max(Math.round(ratio), 1), width, Math.max(Math.round(ratio), 1));
    context.fillStyle = colour("--tv-kept-legend");
    for (const { frames: shown, kept, all } of isPruned(lane) ? countsOf(lane) : []) {
      if (!kept) continue;
      const [left, right] = [column(Math.min(...shown)), column(Math.max(...shown) + 1)];
      const gap = Math.min(Math.max((right - left) * 0.14, ratio), 5 * ratio);
      const tall = Math.max(Math.round((room * kept) / all / top), Math.round(ratio));
      context.fillRect(Math.round(left + gap), base - tall, Math.max(Math.round(right - left - 2 * gap), 1), tall);
    }
  });
}

function frameUnder(node, event) {
  const box = node.getBoundingClientRect();
  const { length } = state.payload.video.frames;
  return Math.min(Math.max(Math.floor(((event.clientX - box.left) / box.width) * length), 0), length - 1);
}

// Pressing or dragging over a node chooses the frame under the pointer; `at` says which frame is only pointed at (-1: none).
function scrubOver(node, at) {
  node.addEventListener("pointerdown", (event) => {
    if (event.button === 0 && event.pointerType === "mouse") {
      event.preventDefault();
      node.setPointerCapture(event.pointerId);
      chooseFrame(frameUnder(node, event));
    }
  });
  // A finger that swipes scrolls; one that taps chooses.
  node.addEventListener("click", (event) => chooseFrame(frameUnder(node, event)));
  node.addEventListener("pointermove", (event) => {
    if (node.hasPointerCapture(event.pointerId)) chooseFrame(frameUnder(node, event));
    at(frameUnder(node, event), event);
  });
  node.addEventListener("pointerleave", () => at(-1, null));
}
