// One lane: its DOM (built once), its content (text only through textContent), its words about a patch.

function make(tag, className, text) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text !== undefined) node.textContent = text;
  return node;
}

function buildLane(number) {
  const root = make("section", "tv-lane");
  const head = make("header", "tv-head");
  const label = make("h3", "tv-label");
  label.id = `tv-lane-${number}`;
  root.setAttribute("aria-labelledby", label.id);
  const family = make("span", "tv-family");
  head.append(label, family);
  const frame = make("div", "tv-frame");
  const picture = make("div", "tv-picture");
  picture.tabIndex = 0;
  picture.setAttribute("role", "application");
  const canvas = make("canvas", "tv-canvas");
  canvas.setAttribute("aria-hidden", "true");
  const svg = svgNode("svg", { preserveAspectRatio: "none", "aria-hidden": "true" }, "tv-marks");
  const unseen = make("span", "tv-unseen", "not seen by the model");
  picture.append(canvas, svg, unseen);
  frame.append(picture);
  const readout = make("div", "tv-readout");
  const where = make("div", "tv-where");
  const what = make("div", "tv-what");
  readout.append(where, what);
  const tools = make("div", "tv-tools");
  const outcome = make("div", "tv-outcome");
  const answer = make("p", "tv-answer");
  const verdict = make("p", "tv-verdict");
  outcome.append(answer, verdict);
  const numbers = make("dl", "tv-numbers");
  const remarks = make("div", "tv-remarks");
  root.append(head, frame, readout, tools, outcome, numbers, remarks);
  return {
    root, label, family, picture, canvas, svg, unseen, where, what, tools, answer, verdict, numbers, remarks,
    stageAt: -1, stageChosen: false, mapAt: 0, data: null, indices: [],
  };
}

const VERDICT_SIGNS = { good: "✓", bad: "✗", same: "=", different: "≠" };

function fillLane(lane, data, payload, view) {
  lane.data = data;
  lane.indices = data.stages.map((stage) => indexStage(stage, payload.grid.row.length));
  if (lane.stageAt >= data.stages.length) lane.stageChosen = false;
  suggestStage(lane, view);
  lane.root.dataset.status = data.status;
  lane.label.textContent = data.label;
  lane.family.textContent = data.family;
  lane.picture.style.setProperty("--tv-aspect", `${payload.size[0]} / ${payload.size[1]}`);
  lane.picture.style.setProperty("--tv-ratio", payload.size[0] / payload.size[1]);
  lane.picture.setAttribute("aria-label",
    `${data.label}: patches of the picture. Arrow keys move between patches, Enter pins one, Escape releases it.`);
  placeUnseenLabel(lane.unseen, payload, lane.picture);
  fillOutcome(lane, data);
  // How times were measured is said once, where it starts or changes.
  const told = data.numbers.map((number, i) => {
    const before = data.numbers.slice(0, i).map((other) => other.how).filter(Boolean).pop();
    return { ...number, how: number.how === before ? "" : number.how };
  });
  lane.numbers.replaceChildren(...told.flatMap(numberNodes));
  const remarks = data.warnings.map((text) => make("p", "tv-warning", text));
  lane.remarks.replaceChildren(...remarks);
}

// Which stage a view opens on, until the visitor chooses one in this lane.
function suggestStage(lane, view) {
  if (!lane.stageChosen) lane.stageAt = tellingStage(lane.data.stages, view);
  const stage = lane.data.stages[lane.stageAt];
  if (!stage || lane.mapAt >= stage.maps.length) lane.mapAt = 0;
}

// Scores and merges: the first stage that has them, which sees the most patches. Kept: the last stage that selected,
// not one that only looked, nor one that withdrew every visual token.
function tellingStage(stages, view) {
  const first = { score: (stage) => stage.maps.length, clusters: (stage) => stage.assignment }[view];
  const at = first ? stages.findIndex(first) : -1;
  if (at >= 0) return at;
  for (let i = stages.length - 1; i >= 0; i--) {
    if (stages[i].kept.length && stages[i].kept.length < stages[i].n_in) return i;
  }
  return stages.length - 1;
}

function fillOutcome(lane, data) {
  const waiting = { waiting: "waiting", running: data.answer ? "" : "working" }[data.status];
  lane.answer.className = "tv-answer";
  lane.answer.classList.toggle("tv-long", data.answer.length > 28);
  lane.answer.classList.toggle("tv-quiet", Boolean(waiting || data.error));
  lane.answer.textContent = data.error || waiting || data.answer || "(empty answer)";
  lane.verdict.className = "tv-verdict";
  lane.verdict.textContent = "";
  if (data.error) {
    lane.verdict.classList.add("tv-bad");
    lane.verdict.textContent = "could not run";
  } else if (data.verdict) {
    lane.verdict.classList.add(`tv-${data.verdict.kind}`);
    lane.verdict.append(make("span", "tv-sign", VERDICT_SIGNS[data.verdict.kind]), ` ${data.verdict.text}`);
  }
}

function numberNodes(number) {
  const term = make("dt", "", number.label);
  if (number.how) term.append(make("span", "tv-how", number.how));
  const value = make("dd", `tv-value tv-${number.look}`);
  value.append(make("span", "", number.look === "estimated" ? `≈ ${number.value}` : number.value));
  return [term, value, make("dd", "tv-ratio", number.ratio)];
}

// In the largest margin that can hold it; the legend says the same when no margin can.
function placeUnseenLabel(node, payload, picture) {
  const [width, height] = payload.size;
  const [x0, y0, x1, y1] = payload.grid.views[0] ? payload.grid.views[0].seen : [0, 0, width, height];
  const shares = { left: x0 / width, right: 1 - x1 / width, top: y0 / height, bottom: 1 - y1 / height };
  const [side, share] = Object.entries(shares).sort((a, b) => b[1] - a[1])[0];
  const sideways = side === "left" || side === "right";
  const [across, along] = sideways ? [picture.clientWidth, picture.clientHeight] : [picture.clientHeight, picture.clientWidth];
  // No room for the words (a panorama is a thin strip): the legend says it.
  node.hidden = share < 0.06 || (along > 0 && (along < 120 || share * across < 14));
  node.dataset.side = side;
  node.style.setProperty("--tv-margin", `${100 * share}%`);
}

function fillTools(lane, view, redraw) {
  const nodes = [];
  const stage = lane.data.stages[lane.stageAt];
  if (lane.data.stages.length > 1) {
    nodes.push(chooser("stage", lane.data.stages.map((s) => `${s.n_in} → ${s.kept.length}: ${s.label}`), lane.stageAt, (at) => {
      lane.stageAt = at;
      lane.stageChosen = true;
      lane.mapAt = Math.min(lane.mapAt, Math.max(lane.data.stages[at].maps.length - 1, 0));
      redraw();
    }));
  }
  const map = stage && stage.maps[lane.mapAt];
  if (view === "score" && stage && stage.maps.length > 1) {
    nodes.push(chooser("map", stage.maps.map((m) => m.label), lane.mapAt, (at) => { lane.mapAt = at; redraw(); }));
  }
  if (view === "score" && map) nodes.push(...legendNodes(map, stage.maps.length > 1));
  if (view === "score" && lane.data.status === "done" && !map) {
    nodes.push(make("p", "tv-note", stage ? "This method ranks no patches." : "Nothing is scored without pruning."));
  }
  if (view === "clusters" && lane.data.status === "done" && !(stage && stage.assignment)) {
    nodes.push(make("p", "tv-note", stage ? "This method merges nothing: dropped is gone." : "Nothing is merged without pruning."));
  }
  if (view === "clusters" && stage && stage.assignment) {
    const { groups } = lane.indices[lane.stageAt];
    const largest = Math.max(0, ...[...groups.values()].map((members) => members.length));
    nodes.push(make("p", "tv-note", `${groups.size} groups, the largest of ${largest} patches. Ring: the kept patch.`));
  }
  lane.tools.replaceChildren(...nodes);
}

function chooser(name, texts, at, change) {
  const label = make("label", "tv-chooser");
  label.append(make("span", "", name));
  const select = make("select");
  texts.forEach((text, i) => {
    const option = make("option", "", text);
    option.value = String(i);
    select.append(option);
  });
  select.value = String(at);
  select.addEventListener("change", () => change(Number(select.value)));
  label.append(select);
  return label;
}

function legendNodes(map, hasChooser) {
  const { low, high, clipped } = scaleOf(map);
  const bar = make("div", "tv-scale");
  const strip = make("span", "tv-strip");
  strip.style.background = `linear-gradient(90deg, ${INFERNO.map((hex) => `#${hex}`).join(", ")})`;
  bar.append(make("span", "", (clipped ? "≤ " : "") + shortNumber(low)), strip, make("span", "", shortNumber(high)));
  const words = [hasChooser ? "" : map.label, map.unit, map.scale === "log" ? "log scale" : "", map.direction];
  return [bar, make("p", "tv-note", words.filter(Boolean).join(" · "))];
}

// What happened to one patch in this lane, in words: [where, what].
function describe(lane, payload, token) {
  const { grid } = payload;
  if (token < 0) return ["", ""];
  const padding = hasArea(boxOf(grid, token)) ? "" : " (padding)";
  const where = `row ${grid.row[token]}, column ${grid.col[token]}${padding}`;
  const stage = lane.data.stages[lane.stageAt];
  if (!stage) return [where, lane.data.status === "done" ? "kept: nothing is pruned" : ""];
  const index = lane.indices[lane.stageAt];
  const facts = [];
  const map = stage.maps[lane.mapAt];
  if (map && map.values[token] !== null) facts.push(`${map.label} ${shortNumber(map.values[token])}${map.unit ? ` ${map.unit}` : ""}`);
  if (index.ranks && index.ranks.ranks[token] !== null) facts.push(`rank ${index.ranks.ranks[token]} of ${index.ranks.of}`);
  if (stage.order && stage.order[token] >= 0) facts.push(`picked at step ${stage.order[token] + 1}`);
  const group = stage.assignment && index.groups.get(stage.assignment[token]);
  if (group && group.length > 1) facts.push(`group of ${group.length}`);
  return [`${where} · ${fate(lane, payload, token)}`, facts.join(" · ")];
}

function fate(lane, payload, token) {
  const stage = lane.data.stages[lane.stageAt];
  const index = lane.indices[lane.stageAt];
  if (index.kept[token]) return index.basis[token] ? "kept as basis" : "kept";
  const earlier = lane.data.stages.slice(0, lane.stageAt).findIndex((_, i) => !lane.indices[i].kept[token]);
  if (earlier >= 0) return `gone since ${lane.data.stages[earlier].label}`;
  const absorber = stage.assignment ? stage.assignment[token] : -1;
  if (absorber >= 0 && absorber !== token) {
    return `merged into row ${payload.grid.row[absorber]}, column ${payload.grid.col[absorber]}`;
  }
  return "dropped";
}
