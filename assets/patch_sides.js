// Two views that compare: every lane with one of them (A vs B), and every lane with what chance would keep. Painting, words,
// notes.

const SIDES = { both: "#009e73", a: "#0072b2", b: "#e69f00" };
const SIDE_WORDS = { both: "kept by both", a: "only A keeps it", b: "only B keeps it", neither: "kept by neither" };
const FULL_COLOUR = 4; // standard deviations that have the last colour of the scale

// The flags of the tokens that a lane has left at its stage, all of them without pruning; null before there is a result.
const allKept = new Map();

function keptFlags(lane) {
  if (!lane || lane.data.status !== "done") return null;
  if (lane.indices.length) return lane.indices[lane.stageAt].kept;
  const n = state.grid.row.length;
  if (!allKept.has(n)) allKept.set(n, new Uint8Array(n).fill(1));
  return allKept.get(n);
}

function laneA() {
  const named = state.lanes.find((lane) => lane.data.key === state.settings.a);
  return named || state.lanes.find(isPruned) || state.lanes[0];
}

function laneB() {
  return state.lanes.find((lane) => lane.data.key === state.settings.b && lane !== laneA()) || null;
}

// Whether a lane is one of the two that are compared; with no B chosen, all are.
function takesPart(lane) {
  const b = laneB();
  return !b || lane === b || lane === laneA();
}

// Per token "both", "a", "b" or "neither"; in lane A itself, and in lanes that are set aside, null.
function sidesOf(lane) {
  const [a, b] = [keptFlags(laneA()), keptFlags(lane)];
  if (!a || !b || lane === laneA() || !takesPart(lane)) return null;
  return Array.from(a, (inA, token) => (inA ? (b[token] ? "both" : "a") : (b[token] ? "b" : "neither")));
}

function sideWords(lane, token) {
  const [a, b] = [keptFlags(laneA()), keptFlags(lane)];
  if (!a || !b || !takesPart(lane)) return "";
  if (lane === laneA()) return a[token] ? "A keeps it" : "A drops it";
  return SIDE_WORDS[a[token] ? (b[token] ? "both" : "a") : (b[token] ? "b" : "neither")];
}

function paintSides(brush, scene) {
  const { sides } = scene;
  const { stacked } = brush.grid;
  const of = (side) => tokensWhere(brush, (token) => sides[token] === side);
  const [both, a, b] = [of("both"), of("a"), of("b")];
  veil(brush, of("neither"), scene, [...both, ...a, ...b]);
  laidOn(brush, scene.opacity, (over) => {
    for (const lower of stacked ? [true, false] : [null]) {
      for (const [side, tokens] of [["both", both], ["a", a], ["b", b]]) {
        over.context.fillStyle = SIDES[side];
        over.context.fill(cellPath(over, lower === null ? tokens : tokens.filter((token) => stacked[token] === lower)));
      }
    }
  });
  for (const [tokens, line] of [[a, "rgba(0,0,0,.7)"], [b, "rgba(0,0,0,.7)"], [both, "#fff"]]) outline(brush, tokens, line, 1.5, 0.25);
  for (const [tokens, letter, ink] of [[a, "A", "#fff"], [b, "B", "#000"]]) tokens.forEach((token) => label(brush, token, letter, ink, 17));
}

// Once per stage, neighbourhood and grid.
const differences = new WeakMap();

function chanceOf(lane) {
  const index = lane.indices[lane.stageAt];
  if (!index) return null;
  if (!differences.has(index)) differences.set(index, new Map());
  const known = differences.get(index);
  const { reach } = state.settings;
  if (!known.has(reach)) known.set(reach, randomDifference(state.grid, index.kept, reach));
  return known.get(reach);
}

function paintChance(brush, scene) {
  const shares = scene.chance.values.map((value) => (value === null ? null : value / FULL_COLOUR));
  paintHeat(brush, scene, shares, scene.stage.kept, diverge);
}

function chanceWords(lane, token) {
  const { values, near, kept, share } = chanceOf(lane);
  if (!near[token]) return "";
  const deviation = values[token] === null ? "" : ` · ${signed(values[token])} sd`;
  return `${kept[token]} of ${near[token]} kept around it · by chance ${(near[token] * share).toFixed(1)}${deviation}`;
}

function signed(value) {
  return `${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(1)}`;
}

// A bar of the three parts, then the numbers in words.
function sidesNotes(lane) {
  if (lane === laneA()) return [sidesBar(1, 0, 0), make("p", "tv-note", "A: what the other lanes are compared with.")];
  if (!takesPart(lane)) return [make("p", "tv-note", "Not compared.")];
  const [a, b] = [keptFlags(laneA()), keptFlags(lane)];
  if (!a || !b) return [make("p", "tv-note", "A has no result.")];
  const { both, onlyA, onlyB, neither, iou, byChance } = overlapOf(a, b);
  const counts = make("p", "tv-note tv-sides");
  [["a", onlyA, "only A"], ["both", both, "both"], ["b", onlyB, "only B"]].forEach(([side, count, name]) => {
    const item = make("span", "tv-side");
    item.append(make("span", `tv-swatch tv-swatch-side-${side}`), make("b", "", String(count)), ` ${name}`);
    counts.append(item);
  });
  const words = [`IoU ${iou === null ? "–" : iou.toFixed(2)}`, `neither ${neither}`, `both by chance ${byChance.toFixed(1)}`];
  return [sidesBar(onlyA, both, onlyB), counts, make("p", "tv-note", words.join(" · "))];
}

function sidesBar(onlyA, both, onlyB) {
  const bar = make("div", "tv-sides-bar");
  bar.setAttribute("aria-hidden", "true");
  [["a", onlyA], ["both", both], ["b", onlyB]].filter(([, count]) => count).forEach(([side, count]) => {
    const piece = make("span", `tv-side-${side}`);
    piece.style.flexGrow = String(count);
    bar.append(piece);
  });
  return bar;
}

const DIVERGING_HEX = DIVERGING.map((hex) => `#${hex}`);

function chanceNotes(lane, stage) {
  const { clumping, share } = chanceOf(lane);
  if (clumping === null) return [make("p", "tv-note", stage.kept.length ? "Nothing was dropped: chance would keep the same." : "Nothing is left here.")];
  const notes = [scaleStrip(`−${FULL_COLOUR}`, `+${FULL_COLOUR} sd`, DIVERGING_HEX), make("p", "tv-note", `Clumping ${clumping.toFixed(1)} (random: 1)`)];
  notes[1].title = "Mean square of the differences: above 1, kept tokens lie closer together than by chance; below 1, more evenly.";
  const { shows } = state.grid;
  if (shows.length) {
    const hits = shows.filter((token) => lane.indices[lane.stageAt].kept[token]).length;
    const odds = percent(chanceOfAtLeast(state.grid.row.length, stage.kept.length, shows.length, hits));
    const note = make("p", "tv-note", `Evidence: ${hits} of ${shows.length} kept, by chance ${(shows.length * share).toFixed(1)} (p ${odds.startsWith("<") ? odds : `= ${odds}`})`);
    note.title = `p: how often a random selection keeps at least ${hits} of them.`;
    notes.push(note);
  }
  return notes;
}

function percent(share) {
  if (share > 0 && share < 0.001) return "< 0.1%";
  return share === 1 ? "100%" : `${(100 * share).toFixed(share < 0.1 ? 1 : 0)}%`;
}
