// Under a lane's image: which stage and which map is drawn, the colour scale, notes. A control stays in place while it
// is used (a slider that is dragged, a menu with the focus): it is built anew only when its choices change.

const MENU_LIMIT = 8;

function refill(holder, key, at, build) {
  if (holder.tvKey !== key) {
    holder.tvKey = key;
    holder.tvSet = null;
    holder.replaceChildren(...build(holder));
  }
  if (holder.tvSet) holder.tvSet(at);
}

function stageText(stage) {
  const added = stage.extra ? ` + ${stage.extra}` : "";
  return `${stage.n_in} → ${stage.kept.length}${added}: ${stage.label}`;
}

function fillStageControl(holder, lane, change) {
  const texts = lane.data.stages.length > 1 ? lane.data.stages.map(stageText) : [];
  refill(holder, texts.join("\n"), lane.stageAt, (target) => (texts.length ? [stepper(target, texts, change)] : []));
}

// A few stages: a menu. Many: a slider. Both with a step back and forth.
function stepper(holder, texts, change) {
  const root = make("div", "tv-stepper");
  const label = make("label", "tv-chooser");
  const many = texts.length > MENU_LIMIT;
  const words = make("span", many ? "" : "tv-sr", "stage");
  const control = make(many ? "input" : "select");
  if (many) Object.assign(control, { type: "range", min: 0, max: texts.length - 1, step: 1 });
  else control.append(...texts.map((text, i) => Object.assign(make("option", "", text), { value: String(i) })));
  const told = make("p", "tv-note tv-stage-text");
  const arrow = (sign, by, name) => {
    const button = make("button", "tv-step", sign);
    button.type = "button";
    button.setAttribute("aria-label", name);
    button.addEventListener("click", () => change(Math.min(Math.max(Number(control.value) + by, 0), texts.length - 1)));
    return button;
  };
  const back = arrow("‹", -1, "Previous stage");
  const forth = arrow("›", 1, "Next stage");
  control.addEventListener("input", () => change(Number(control.value)));
  label.append(words, control);
  const row = make("div", "tv-stepper-row");
  row.append(label, back, forth);
  root.append(row);
  if (many) root.append(told);
  holder.tvSet = (at) => {
    control.value = String(at);
    control.setAttribute("aria-valuetext", texts[at]);
    words.textContent = many ? `stage ${at + 1} of ${texts.length}` : "stage";
    told.textContent = texts[at];
    back.disabled = at <= 0;
    forth.disabled = at >= texts.length - 1;
    [back.title, forth.title] = [texts[at - 1] || "", texts[at + 1] || ""];
  };
  return root;
}

function chooser(holder, name, texts, change) {
  const label = make("label", "tv-chooser");
  const select = make("select");
  select.append(...texts.map((text, i) => Object.assign(make("option", "", text), { value: String(i) })));
  select.addEventListener("change", () => change(Number(select.value)));
  label.append(make("span", "", name), select);
  holder.tvSet = (at) => { select.value = String(at); };
  return label;
}

function fillPick(lane, name, texts, at, change) {
  const shown = texts.length > 1 ? texts : [];
  refill(lane.parts.pick, `${name}\n${shown.join("\n")}`, at,
    (holder) => (shown.length ? [chooser(holder, name, shown, change)] : []));
}

function fillTools(lane, view, redraw) {
  const stage = lane.data.stages[lane.stageAt];
  const orderings = stage ? lane.indices[lane.stageAt].orderings : [];
  const setStage = (at) => {
    lane.stageAt = at;
    lane.stageChosen = true;
    clampChoices(lane);
    redraw();
  };
  lane.view = view;
  lane.root.classList.toggle("tv-aside", view === "ab" && !takesPart(lane));
  lane.parts.stage.hidden = view === "dropped";
  fillStageControl(lane.parts.stage, lane, setStage);
  if (view === "score" && stage) fillPick(lane, "map", stage.maps.map((m) => m.label), lane.mapAt, (at) => { lane.mapAt = at; redraw(); });
  else if (view === "order") fillPick(lane, "order", orderings.map((o) => o.label), lane.orderAt, (at) => { lane.orderAt = at; redraw(); });
  else if (view === "kept" && lane.data.status === "done" && lane.data.stages.length === 1) refill(lane.parts.pick, `fate ${lane.filled}`, 0, () => [fateBar(stage)]);
  else fillPick(lane, "", [], 0, null);
  const nodes = lane.data.status === "done" ? viewNotes(lane, view, stage, orderings) : [];
  lane.parts.notes.replaceChildren(...nodes);
}

function viewNotes(lane, view, stage, orderings) {
  if (!stage) {
    const idle = { score: "Nothing is scored without pruning.", order: "Nothing is picked without pruning.",
      clusters: "Nothing is merged without pruning.", dropped: "Every token reaches the last layer.",
      chance: "Everything is kept without pruning.", kept: "The language model sees the whole image: the answer that pruning is measured against." }[view];
    if (view === "ab") return sidesNotes(lane);
    return idle ? [make("p", "tv-note", idle)] : [];
  }
  const notes = {
    kept: () => keptNotes(lane),
    score: () => (stage.maps[lane.mapAt] ? mapLegend(stage.maps[lane.mapAt], stage.maps.length > 1) : [make("p", "tv-note", "This stage computes no scores.")]),
    order: () => (orderings.length ? orderLegend(orderings[lane.orderAt], orderings.length > 1)
      : [make("p", "tv-note", "This stage selects all at once, in no order.")]),
    clusters: () => [make("p", "tv-note", groupsNote(lane, stage)), ...evidenceNote(stage)],
    dropped: () => survivalLegend(lane),
    ab: () => sidesNotes(lane),
    chance: () => chanceNotes(lane, stage),
  }[view]();
  return [...notes, ...addedNotes(view, stage)];
}

// Why the evidence stayed or went; where none is marked, what the method goes by.
function keptNotes(lane) {
  if (lane.ahead) return aheadNotes(lane);
  const { data } = lane;
  const words = data.why || data.family_why;
  return words ? [Object.assign(make("p", data.why ? "tv-note tv-reason" : "tv-note", words), { title: words })] : [];
}

// What became of the evidence, or of all patches where none is marked, as shares of a bar: where other lanes have menus.
function fateBar(stage) {
  const { shows, row } = state.grid;
  const fates = shows.length ? fatesOf(shows, stage) : { kept: stage.kept.length, absorbed: 0, lost: row.length - stage.kept.length };
  const root = make("div", "tv-fate");
  const bar = make("div", "tv-sides-bar");
  bar.append(...["kept", "absorbed", "lost"].map((fate) => {
    const share = make("span", `tv-fate-${fate}`);
    share.style.flexGrow = String(fates[fate]);
    share.hidden = !fates[fate];
    return share;
  }));
  bar.setAttribute("aria-hidden", "true");
  const words = [["kept", fates.kept], ["absorbed", fates.absorbed], ["dropped", fates.lost]].filter(([, n]) => n).map(([fate, n]) => `${n} ${fate}`);
  root.append(make("p", "tv-note", `${shows.length ? "evidence" : "patches"}: ${words.join(", ")}`), bar);
  return root;
}

// The room under the images, in px: the same in every view and whatever is pointed at, and enough for the sentence of
// the longest lane above a menu.
const STRIP = { head: 29, line: 17.4, foot: 36, letter: 6 };

function stripHeight(lanes, width) {
  const least = width < 235 ? 124 : width < 300 ? 98 : 88;
  const needs = lanes.filter(({ data }) => data?.stages.length).map(({ data }) => {
    const lines = Math.ceil(((data.why || data.family_why || "").length * STRIP.letter) / Math.max(80, width - 26));
    return STRIP.head + Math.min(lines, 5) * STRIP.line + STRIP.foot;
  });
  return Math.ceil(Math.max(least, ...needs));
}

// Said where what goes on is looked at; under scores and groups it would only take room.
function addedNotes(view, stage) {
  const notes = [];
  if (stage.extra && (view === "kept" || view === "order")) {
    const name = stage.extra_name ? `: ${stage.extra_name}` : "";
    const words = stage.extra === 1 ? "+ 1 non-patch token" : `+ ${stage.extra} non-patch tokens`;
    notes.push(make("p", "tv-note", words + name));
  }
  if (stage.sequence && view === "kept") notes.push(make("p", "tv-note", "The sequence is not in raster order: see Order."));
  return notes;
}

function groupsNote(lane, stage) {
  if (!stage.carriers) return "Nothing is merged: dropped tokens are lost.";
  const { groups } = lane.indices[lane.stageAt];
  const sizes = [...groups.values()].map((members) => members.length);
  const merged = sizes.filter((size) => size > 1).length;
  const alone = sizes.length - merged ? `; ${sizes.length - merged} tokens stand for a single patch` : "";
  const before = lane.data.stages.slice(0, lane.stageAt).some((earlier) => earlier.merges) ? " after all merges so far" : "";
  if (stage.covers) return `Nothing is merged. ${merged} kept tokens stand for others, one for ${Math.max(0, ...sizes)} patches${alone}.`;
  return `${merged} groups${before}, the largest with ${Math.max(0, ...sizes)} patches${alone}.`;
}

function evidenceNote(stage) {
  const { shows } = state.grid;
  if (!shows.length || !stage.carriers || stage.covers) return [];
  const { kept, absorbed, into, lost } = fatesOf(shows, stage);
  const carriers = absorbed ? ` by ${into} kept ${into === 1 ? "token" : "tokens"}` : "";
  return [make("p", "tv-note", `Evidence: ${kept} kept, ${absorbed} absorbed${carriers}, ${lost} lost.`)];
}

function scaleStrip(low, high, colours) {
  const bar = make("div", "tv-scale");
  const strip = make("span", "tv-strip");
  strip.style.background = `linear-gradient(90deg, ${colours.join(", ")})`;
  bar.append(make("span", "", low), strip, make("span", "", high));
  return bar;
}

const INFERNO_HEX = INFERNO.map((hex) => `#${hex}`);

function mapLegend(map, hasChooser) {
  const { used, low, high, clipped } = scaleOf(map, state.settings.scale);
  const refused = state.settings.scale === "log" && used !== "log" ? "no value above 0: linear scale" : "";
  const scale = { log: "log scale", rank: "by rank" }[used] || refused;
  const words = [hasChooser ? "" : map.label, map.unit, scale, map.direction];
  return [scaleStrip((clipped ? "≤ " : "") + shortNumber(low), shortNumber(high), INFERNO_HEX),
    make("p", "tv-note", words.filter(Boolean).join(" · "))];
}

function orderLegend(ordering, hasChooser) {
  const last = lastPlace(ordering.places);
  const now = Math.min(state.settings.replay ?? last, last);
  const colours = [0, 0.25, 0.5, 0.75, 1].map((t) => rgb(orderShare(1 + t * (last - 1), last)));
  const words = [hasChooser ? "" : ordering.label, now < last ? "hatched: not yet picked" : "hatched: not picked"].filter(Boolean).join(" · ");
  const scale = scaleStrip("1", String(last), colours);
  if (now < last) {
    const mark = make("span", "tv-strip-mark");
    mark.style.left = `${(100 * Math.max(now - 1, 0)) / Math.max(last - 1, 1)}%`;
    scale.querySelector(".tv-strip").append(mark);
  }
  return [scale, make("p", "tv-note", words)];
}

function rgb(share) {
  return `rgb(${heat(share).join(",")})`;
}

// A few stages: one line each. Many: a strip from the first to leave to those that stay.
function survivalLegend(lane) {
  const { depth, stages } = lane.survival;
  if (stages < 2) return [make("p", "tv-note", "Only one stage: every dropped token is dropped there.")];
  const counts = new Array(stages + 1).fill(0);
  depth.forEach((survived) => { counts[survived] += 1; });
  const name = (at) => (at === stages ? "kept to the end" : lane.data.stages[at].label);
  if (stages > MENU_LIMIT) {
    const colours = counts.map((_, at) => rgb(depthShare(at, stages)));
    return [scaleStrip("first", "end", colours),
      make("p", "tv-note", `dark: dropped ${name(0)} · bright: dropped ${name(stages - 1)} · ${counts[stages]} kept to the end`)];
  }
  const list = make("ul", "tv-depths");
  counts.forEach((count, at) => {
    if (!count) return;
    const item = make("li");
    const swatch = make("span", "tv-swatch tv-swatch-depth");
    swatch.style.background = rgb(depthShare(at, stages));
    item.append(swatch, make("span", "tv-count", String(count)), make("span", "", at === stages ? name(at) : `dropped: ${name(at)}`));
    list.append(item);
  });
  return [list];
}
