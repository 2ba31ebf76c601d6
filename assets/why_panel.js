// The panel "Why" under the lanes: diagrams, measured numbers over the stages, the prompt's words, recorded facts of one
// stage of one lane. Everything is drawn from what the stage left; nothing here knows a method.

const why = { lane: null, key: "", charts: [] };

function whyLanes() {
  return state.lanes.filter((lane) => lane.data.stages.length);
}

// The lane with most to tell, until the visitor chooses one.
function tellingLane(lanes) {
  const tells = ({ data: { stages } }) => Math.max(...stages.map((s) => s.charts.length + (s.text ? 1 : 0)))
    + new Set(stages.flatMap((s) => s.readings.map((r) => r.name))).size + stages.length / 100;
  return lanes.reduce((best, lane) => (best && tells(best) >= tells(lane) ? best : lane), null);
}

function drawWhy() {
  const lanes = whyLanes();
  const panel = part("why-panel");
  // While answers come in, the panel keeps its place, empty until the first is there.
  const waits = isLive(state.plain) && !panel.hidden;
  if (waits && !panel.style.minHeight) panel.style.minHeight = `${panel.offsetHeight}px`;
  panel.classList.toggle("tv-why-waits", waits && !lanes.length);
  panel.hidden = !lanes.length && !waits;
  if (!lanes.length) return;
  if (!lanes.includes(why.lane)) why.lane = tellingLane(lanes);
  drawWhyLanes(lanes);
  const { lane } = why;
  fillStageControl(part("why-stage"), lane, (at) => {
    lane.stageAt = at;
    lane.stageChosen = true;
    clampChoices(lane);
    redrawWithTools();
  });
  const key = `${state.payload.id}/${state.lanes.indexOf(lane)}/${lane.stageAt}/${lane.data.status}/${lane.filled}`;
  if (key !== why.key) {
    why.key = key;
    fillWhy(lane);
  }
}

function drawWhyLanes(lanes) {
  laneRadios(part("why-lanes"), "tv-why-lane", lanes, why.lane, (lane) => { why.lane = lane; drawWhy(); });
}

// One of some lanes is chosen; a legend that is there already stays.
function laneRadios(holder, name, lanes, chosen, choose) {
  const legend = holder.querySelector("legend");
  refill(holder, lanes.map((lane) => `${lane.data.key} ${lane.data.label}`).join("\n"), lanes.indexOf(chosen), () => {
    const inputs = lanes.map((lane, i) => {
      const input = Object.assign(make("input"), { type: "radio", name, value: String(i) });
      input.addEventListener("change", () => choose(whyLanes()[i]));
      return input;
    });
    holder.tvSet = (at) => inputs.forEach((input, i) => { input.checked = i === at; });
    return [...(legend ? [legend] : []), ...inputs.map((input, i) => {
      const label = make("label");
      label.append(input, make("span", "", lanes[i].data.label));
      return label;
    })];
  });
}

function openWhy(lane) {
  why.lane = lane;
  drawWhy();
  part("why-panel").scrollIntoView({ behavior: matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth", block: "start" });
  part("why-lanes").querySelector("input:checked").focus({ preventScroll: true });
}

function fillWhy(lane) {
  const stage = lane.data.stages[lane.stageAt];
  const { kept } = lane.indices[lane.stageAt];
  const place = (token) => describe(lane, state.payload, token)[0];
  // Of a video, a click on a mark goes to the frame of its token.
  const visits = (chart) => (state.payload.video && chart.tokens.length ? (i) => visit(chart.tokens[i]) : null);
  const made = [...positionChart(stage), ...attentionBesideError(lane)];
  why.charts = [...stage.charts, ...made].map((chart) => buildChart(chart, kept, { hover, place, pick: visits(chart) }));
  const roots = why.charts.map((chart) => chart.root);
  const cards = [...roots.slice(0, stage.charts.length), ...readingCards(lane), ...roots.slice(stage.charts.length), ...histogramCard(stage, kept)];
  if (stage.text) cards.unshift(wordsCard(state.payload.words, stage.text));
  cards.push(...answerCard(lane), factsCard(stage));
  part("why-body").replaceChildren(...reasonCard(lane), ...cards);
}

function lightWhy(token) {
  why.charts.forEach((chart) => chart.setHot(token));
}

// Numbers of the same name over the stages of a lane: a curve with its threshold, or one sentence when there is one.
function readingCards(lane) {
  const series = new Map();
  lane.data.stages.forEach((stage, at) => stage.readings.forEach((reading) => {
    if (!series.has(reading.name)) series.set(reading.name, []);
    series.get(reading.name).push({ ...reading, at, site: stage.label, layer: stage.layer });
  }));
  return [...series.values()].map((readings) => {
    const { label, unit } = readings[0];
    if (readings.length === 1) return readingCard(readings[0]);
    const inside = readings.every((r) => Number.isInteger(r.layer));
    const chart = {
      kind: "line", label: `${label} over the stages`, x: readings.map((r) => (inside ? r.layer : r.at + 1)),
      y: readings.map((r) => r.value), names: readings.map((r) => r.site), x_label: inside ? "before layer" : "stage",
      y_label: unit, line: null,
      lines: readings.some((r) => r.line !== null) ? readings.map((r) => r.line) : null, tokens: [],
      marked: readings.flatMap((r, i) => (r.at === lane.stageAt ? [i] : [])),
    };
    const pick = (i) => {
      lane.stageAt = readings[i].at;
      lane.stageChosen = true;
      clampChoices(lane);
      redrawWithTools();
    };
    return buildChart(chart, null, { hover, place: () => "", pick }).root;
  });
}

function readingCard({ label, value, line, unit, site }) {
  const root = make("figure", "tv-chart tv-reading");
  root.append(make("figcaption", "tv-chart-label", label), make("p", "tv-reading-value", `${shortNumber(value)}${unit ? ` ${unit}` : ""}`));
  const side = value === null || line === null ? "" : value > line ? "above" : value < line ? "below" : "at";
  root.append(make("p", "tv-note", side ? `${side} its threshold of ${shortNumber(line)}, ${site}` : site));
  return root;
}

function visibleWord(word) {
  const shown = word.replace(/\n/g, "⏎");
  return shown.trim() || "␣";
}

function wordsCard(words, scores) {
  const root = make("figure", "tv-chart tv-words-card");
  const chosen = new Set(scores.chosen);
  const line = make("p", "tv-words");
  line.dir = "auto";
  const known = scores.values.filter((value) => value !== null);
  const high = Math.max(...known, 0);
  const told = make("p", "tv-note tv-chart-told");
  words.forEach((word, i) => {
    const value = scores.values[i];
    const node = make("span", chosen.has(i) ? "tv-word tv-word-chosen" : "tv-word", visibleWord(word));
    node.style.setProperty("--tv-share", value === null || high <= 0 ? 0 : Math.max(value / high, 0).toFixed(3));
    node.addEventListener("pointerenter", () => { told.textContent = `${visibleWord(word)} · ${shortNumber(value)}${chosen.has(i) ? " · used" : ""}`; });
    line.append(node);
  });
  line.addEventListener("pointerleave", () => { told.textContent = ""; });
  root.append(make("figcaption", "tv-chart-label", "Words of the prompt"), line, make("p", "tv-note", wordsSentence(scores, words.length)), told,
    tableOf(["word", scores.label, "used"], words.length, (i) => [visibleWord(words[i]), shortNumber(scores.values[i]), chosen.has(i) ? "yes" : "no"]));
  return root;
}

function wordsSentence({ label, values, chosen, line }, n) {
  const parts = [`Colour: ${label}`, `underlined: the ${chosen.length} of ${n} words that the method used`];
  if (line !== null) {
    const equal = Math.abs(line * n - 1) < 0.005 ? ` (an equal share, 1 of ${n})` : "";
    const above = values.every((value, i) => value === null || chosen.includes(i) === (value >= line));
    parts.push(above ? `they reach the threshold of ${shortNumber(line)}${equal}` : `the threshold is ${shortNumber(line)}${equal}`);
  }
  return `${parts.join("; ")}.`;
}

function factsCard(stage) {
  const root = make("div", "tv-chart tv-facts-card");
  const list = make("dl", "tv-facts");
  const rows = [["where", stage.label], ["patches", `${stage.n_in} in, ${stage.kept.length} kept`],
    ...(stage.extra ? [["added non-patch tokens", String(stage.extra)]] : []), ...stage.facts];
  rows.forEach(([name, value]) => list.append(make("dt", "", name), make("dd", "", value)));
  root.append(make("p", "tv-chart-label", stage.title || "This stage"), list);
  return root;
}
