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
  const variant = make("p", "tv-variant");
  variant.id = `tv-variant-${number}`;
  root.setAttribute("aria-labelledby", `${label.id} ${variant.id}`);
  const family = make("span", "tv-family");
  const why = make("button", "tv-ask-why", "why?");
  const table = make("button", "tv-ask-why tv-ask-table");
  const sign = svgNode("svg", { viewBox: "0 0 14 12", "aria-hidden": "true" });
  sign.append(svgNode("path", { d: "M.5.5h13v11H.5zM.5 4.2h13M.5 7.8h13M5 .5v11" }));
  table.append(sign);
  table.title = "table of the patches";
  why.type = table.type = "button";
  const asks = make("span", "tv-asks");
  asks.append(table, why);
  head.append(label, asks, family, variant);
  const frame = make("div", "tv-frame");
  const bars = buildBars();
  const image = make("div", "tv-image");
  image.tabIndex = 0;
  image.setAttribute("role", "application");
  const canvas = make("canvas", "tv-canvas");
  canvas.setAttribute("aria-hidden", "true");
  const svg = svgNode("svg", { preserveAspectRatio: "none", "aria-hidden": "true" }, "tv-marks");
  const unseen = make("span", "tv-unseen", "not seen by the model");
  image.append(canvas, svg, unseen);
  frame.append(image, bars);
  const readout = make("div", "tv-readout");
  const where = make("div", "tv-where");
  const what = make("div", "tv-what");
  readout.append(where, what);
  const tools = make("div", "tv-tools");
  const parts = { notes: make("div", "tv-tool tv-tool-notes"), stage: make("div", "tv-tool"), pick: make("div", "tv-tool") };
  const controls = make("div", "tv-controls");
  controls.append(parts.stage, parts.pick);
  tools.append(parts.notes, controls);
  const below = make("div", "tv-below");
  below.append(readout, tools);
  const { outcome, answer, verdict, cut, more } = buildOutcome();
  const numbers = make("dl", "tv-numbers");
  const remarks = make("div", "tv-remarks");
  root.append(head, outcome, frame, below, numbers, remarks);
  return {
    number, root, label, variant, family, why, table, image, bars, canvas, svg, unseen, where, what, parts, answer, verdict, cut, more, numbers, remarks,
    stageAt: -1, stageChosen: false, mapAt: 0, orderAt: 0, data: null, indices: [], survival: null,
  };
}

function fillLane(lane, data, told, payload, view) {
  // While an answer streams, most lanes come again as they were: what is open or hovered there stays.
  if (told === lane.told) return;
  lane.told = told;
  const nTokens = payload.grid.row.length;
  const stages = unpackStages(readStages(data.stages, nTokens), nTokens);
  lane.data = { ...data, stages };
  lane.indices = stages.map((stage) => indexStage(stage, nTokens));
  lane.filled = (lane.filled || 0) + 1;
  lane.survival = { depth: survivalOf(stages, nTokens), stages: stages.length };
  lane.why.hidden = !stages.length;
  lane.table.hidden = !stages.length;
  lane.table.setAttribute("aria-label", `Table of the patches of ${data.label}`);
  lane.why.setAttribute("aria-label", `Why ${data.label} kept these tokens`);
  if (lane.stageAt >= stages.length) lane.stageChosen = false;
  suggestStage(lane, view);
  lane.root.dataset.status = data.status;
  // Of a method that runs more than once, what sets this run apart has a line of its own.
  const ending = ` (${data.variant})`;
  const hasVariant = data.variant && data.label.endsWith(ending);
  lane.label.textContent = hasVariant ? data.label.slice(0, -ending.length) : data.label;
  lane.variant.textContent = hasVariant ? data.variant : "";
  lane.family.textContent = data.family;
  lane.family.dataset.hint = data.family_why || "";
  const keys = payload.video ? " Comma and period step through the frames." : "";
  lane.image.setAttribute("aria-label",
    `${data.label}: patches of the image. Arrow keys move between patches, Enter pins one, Escape releases it.${keys}`);
  fillOutcome(lane, data);
  fillNumbers(lane, data.numbers);
  fillRemarks(lane, data);
}

// Which stage a view opens on, until the visitor chooses one in this lane.
function suggestStage(lane, view) {
  if (!lane.stageChosen) lane.stageAt = tellingStage(lane.data.stages, view);
  clampChoices(lane);
}

function clampChoices(lane) {
  const stage = lane.data.stages[lane.stageAt];
  if (!stage || lane.mapAt >= stage.maps.length) lane.mapAt = 0;
  if (!stage || lane.orderAt >= lane.indices[lane.stageAt].orderings.length) lane.orderAt = 0;
}

// Scores and picks: the first stage that has them, which sees the most patches. Groups: the last stage that merges,
// where they hold all that was merged before. Kept: the last stage that selected, not one that only looked, nor one
// that withdrew every visual token.
function tellingStage(stages, view) {
  const last = (test) => stages.reduce((found, stage, at) => (test(stage) ? at : found), -1);
  const at = {
    score: () => stages.findIndex((stage) => stage.maps.length),
    order: () => stages.findIndex((stage) => stage.order || stage.sequence),
    clusters: () => last((stage) => stage.merges || stage.covers),
  }[view]?.() ?? -1;
  if (at >= 0) return at;
  const selected = last((stage) => stage.kept.length && stage.kept.length < stage.n_in);
  return selected >= 0 ? selected : stages.length - 1;
}

// Of a lane that ends with the withdrawal of every visual token: where that happens, said beside what was kept before.
function withdrawalWords(lane) {
  const { stages } = lane.data;
  const end = stages.find((stage) => stage.n_in && !stage.kept.length);
  return end && stages.indexOf(end) > lane.stageAt ? `until all are withdrawn ${end.label}` : "";
}

function placeSheet(lane, { size: [width, height] }) {
  lane.image.style.setProperty("--tv-aspect", `${width} / ${height}`);
  lane.image.style.setProperty("--tv-ratio", width / height);
}

// In the largest margin that can hold it; the legend says the same when no margin can.
function placeUnseenLabel(node, payload, image) {
  const [width, height] = payload.size;
  const [x0, y0, x1, y1] = (!payload.grid.apart && seenTogether(payload.grid)) || [0, 0, width, height];
  const shares = { left: x0 / width, right: 1 - x1 / width, top: y0 / height, bottom: 1 - y1 / height };
  const [side, share] = Object.entries(shares).sort((a, b) => b[1] - a[1])[0];
  const sideways = side === "left" || side === "right";
  const [across, along] = sideways ? [image.clientWidth, image.clientHeight] : [image.clientHeight, image.clientWidth];
  // No room for the words (a panorama is a thin strip): the legend says it.
  node.hidden = share < 0.06 || (along > 0 && (along < 120 || share * across < 14));
  node.dataset.side = side;
  node.style.setProperty("--tv-margin", `${100 * share}%`);
}

// What happened to one patch in this lane, in words: [where, what].
function describe(lane, payload, token) {
  if (token < 0) return ["", ""];
  const where = placeOf(payload, token);
  const stage = lane.data.stages[lane.stageAt];
  if (lane.view === "ab") return [where, sideWords(lane, token)];
  if (!stage) return [where, lane.data.status === "done" ? "kept: no pruning" : ""];
  if (lane.view === "dropped") return [`${where} · ${droppedAt(lane, token)}`, ""];
  const index = lane.indices[lane.stageAt];
  if (lane.view === "chance") return [`${where} · ${fate(lane, payload, token)}`, chanceWords(lane, token)];
  const facts = [];
  const map = stage.maps[lane.mapAt];
  if (map && map.values[token] !== null) facts.push(`${map.label} ${shortNumber(map.values[token])}${map.unit ? ` ${map.unit}` : ""}`);
  if (index.ranks && index.ranks.ranks[token] !== null) facts.push(`rank ${index.ranks.ranks[token]} of ${index.ranks.of}`);
  if (stage.order && stage.order[token] >= 0) facts.push(`picked at step ${stage.order[token] + 1}`);
  const group = stage.carriers && index.groups.get(stage.carriers[token]);
  if (group && group.length > 1) facts.push(`group of ${group.length}${acrossFrames(payload, group)}`);
  return [`${where} · ${fate(lane, payload, token)}`, facts.join(" · ")];
}

function droppedAt(lane, token) {
  const { depth, stages } = lane.survival;
  const left = depth[token];
  if (left === stages) return "kept to the end";
  return `dropped: ${lane.data.stages[left].label}${stages > 1 ? `, stage ${left + 1} of ${stages}` : ""}`;
}

function fate(lane, payload, token) {
  const stage = lane.data.stages[lane.stageAt];
  const index = lane.indices[lane.stageAt];
  if (index.kept[token]) return index.basis[token] ? "kept, a basis token" : "kept";
  const left = lane.survival.depth[token];
  const earlier = left < lane.stageAt ? ` earlier: ${lane.data.stages[left].label}` : "";
  const carrier = stage.carriers ? stage.carriers[token] : -1;
  if (carrier >= 0) return `${stage.covers ? "dropped, covered by" : "merged into"} ${placeOf(payload, carrier)}${earlier && `,${earlier}`}`;
  return `dropped${earlier}`;
}
