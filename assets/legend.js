// The legend of the view that is shown.

const VIEWS = ["kept", "score", "order", "clusters", "dropped", "ab", "chance"];

function legendEntries(view, stages) {
  const entries = [];
  if (view === "kept") entries.push(["kept", "kept"], ["dropped", "dropped"]);
  if (view === "kept" && stages.some((stage) => stage.basis.length)) entries.push(["basis", "basis token"]);
  if (view === "score" || view === "order" || view === "chance") entries.push(["outlined", "kept"]);
  if (view === "dropped") entries.push(["outlined", "kept to the end"]);
  if (view === "dropped" && state.lanes.some((lane) => lane.data.stages.length === 1)) entries.push(["dropped", "dropped"]);
  if (view === "ab") entries.push(["side-a", "only A"], ["side-both", "both"], ["side-b", "only B: the lane"], ["dropped", "neither"]);
  if (view === "chance") entries.push(["more", "more kept around it than by chance"], ["less", "less"]);
  if (view === "clusters") {
    const ring = stages.some((stage) => stage.covers) ? "its carrier: merged into it, or covered by it" : "its carrier: merged into it";
    entries.push(["group", "a large group"], ["small", "smaller groups"], ["ring", ring], ["kept", "kept, not merged"], ["dropped", "dropped"]);
  }
  if (state.payload.grid.stacked && view === "kept") entries.push(["coarse", "kept only coarsely, from the whole image"]);
  if (state.payload.grid.stacked && (view === "score" || view === "dropped")) entries.push(["group", "where levels overlap, the higher is shown"]);
  if ((view === "clusters" || view === "kept") && stages.some((stage) => stage.merges)) entries.push(...(state.grid.shows.length ? [["absorbed", "evidence absorbed"]] : []));
  if (state.plain.evidence.length) entries.push(["evidence", "evidence for the answer"]);
  if (hasUnseenMargin(state.payload)) entries.push(["margin", "not seen by the model"]);
  return entries;
}

function legendItems(entries) {
  return entries.map(([swatch, text]) => {
    const item = make("li");
    const words = make("span", "", text);
    if (text.includes("evidence")) words.dataset.term = "evidence";
    item.append(make("span", `tv-swatch tv-swatch-${swatch}`), words);
    return item;
  });
}

// Behind the legend, unseen, those of all views: together they keep the room that the longest needs.
function drawLegend() {
  const now = state.lanes.flatMap((lane) => (lane.data.stages[lane.stageAt] ? [lane.data.stages[lane.stageAt]] : []));
  part("legend").replaceChildren(...legendItems(legendEntries(state.view, now)));
  const all = state.lanes.flatMap((lane) => lane.data.stages);
  const rooms = VIEWS.map((view) => {
    const list = make("ul");
    list.setAttribute("aria-hidden", "true");
    list.append(...legendItems(legendEntries(view, all)));
    return list;
  });
  part("legend-room").replaceChildren(part("legend"), ...rooms);
}
