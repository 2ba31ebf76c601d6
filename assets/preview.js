// Another budget before the model is asked: where choices nest (payload: nests), what a lane would keep follows from what it
// recorded. The lanes say that it is a preview; their answers stay those of the run.

const ahead = { budget: null, as: null };

// Tokens by score, the highest first, exactly as in the run: of scores that are equal as they were sent (four digits),
// the payload says the order where it is not that of the tokens.
function rankedTokens(values, ties) {
  const tokens = values.map((_, token) => token).filter((token) => values[token] !== null);
  const place = new Map(ties.flatMap((group) => group.map((token, i) => [token, i])));
  return tokens.sort((a, b) => values[b] - values[a] || (place.has(a) && place.has(b) ? place.get(a) - place.get(b) : a - b));
}

// What a run at this budget keeps, ascending; null where that is not known. stage: of the run that is there.
function keptAhead(stage, { kind, ties }, budget) {
  if (kind === "ranked") return rankedTokens(stage.maps[0].values, ties).slice(0, budget).sort((a, b) => a - b);
  if (budget > stage.kept.length) return null;
  return stage.kept.filter((token) => stage.order[token] >= 0 && stage.order[token] < budget);
}

const OF_THE_KEPT = "Distance to the nearest kept token";

function stageAhead(stage, nests, budget) {
  const kept = keptAhead(stage, nests, budget);
  if (!kept) return null;
  const there = new Set(kept);
  return {
    ...stage, kept, gone: Array.from({ length: stage.n_in }, (_, token) => token).filter((token) => !there.has(token)),
    order: stage.order && stage.order.map((step) => (step < budget ? step : -1)), maps: stage.maps.filter((map) => map.label !== OF_THE_KEPT), charts: [], readings: [],
  };
}

function isAhead() {
  const { plain } = state;
  return Boolean(plain && ahead.budget && !isLive(plain) && Number.isInteger(plain.budget) && (ahead.budget !== plain.budget || ahead.as !== plain.budget_as)
    && ahead.budget <= plain.grid.row.length);
}

// The lanes as they were run, or as they would be.
function applyPreview() {
  const on = isAhead();
  const known = on && ahead.as === state.plain.budget_as;
  for (const lane of state.lanes) {
    const { data } = lane;
    if (!lane.real || lane.real.of !== lane.filled) lane.real = { of: lane.filled, stages: data.stages, indices: lane.indices, survival: lane.survival };
    const stage = known && data.nests ? stageAhead(lane.real.stages[0], data.nests, ahead.budget) : null;
    lane.ahead = on && data.status === "done" && data.stages.length ? (stage ? "preview" : "none") : "";
    if (stage) {
      const n = state.grid.row.length;
      data.stages = [stage];
      lane.indices = [indexStage(stage, n)];
      lane.survival = { depth: survivalOf([stage], n), stages: 1 };
    } else {
      Object.assign(lane, { indices: lane.real.indices, survival: lane.real.survival });
      data.stages = lane.real.stages;
    }
    clampChoices(lane);
    sayAhead(lane);
  }
}

function sayAhead(lane) {
  lane.root.classList.toggle("tv-ahead", Boolean(lane.ahead));
  const words = { preview: `preview: ${ahead.budget} tokens`, none: "no preview" }[lane.ahead] || "";
  if (!lane.badge) {
    lane.badge = make("span", "tv-ahead-badge");
    lane.image.append(lane.badge);
  }
  lane.badge.textContent = words;
  lane.badge.hidden = !words;
}

// In place of why the evidence went: that of the run does not hold here.
function aheadNotes(lane) {
  const { budget } = state.plain;
  if (lane.ahead === "none") return [make("p", "tv-note", `What this method keeps at another budget is not known before it runs: shown at ${budget}. Compare asks the model.`)];
  const { shows } = state.grid;
  const there = lane.indices[0].kept;
  const evidence = shows.length ? ` ${shows.filter((token) => there[token]).length} of ${shows.length} evidence patches are kept.` : "";
  return [make("p", "tv-note", `Preview at ${ahead.budget} tokens.${evidence} Answer and numbers are those at ${budget}: Compare asks the model.`)];
}

document.addEventListener("tokviz:budget", ({ detail }) => {
  if (!element.isConnected || (ahead.budget === detail.budget && ahead.as === detail.as)) return;
  const before = isAhead();
  Object.assign(ahead, detail);
  if (!state.plain || (!before && !isAhead())) return;
  applyPreview();
  redrawWithTools();
});
