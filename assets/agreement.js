// How far the lanes agree: the IoU of what every two of them keep at the end, as a matrix. A press compares the two.

const agreement = { key: "" };

function keptAtEnd(lane) {
  const last = lane.data.stages.map((stage) => stage.kept.length > 0).lastIndexOf(true);
  return last < 0 ? null : lane.indices[last].kept;
}

// N x N numbers from 0 to 1; flags: of every lane, one per token. Null where neither keeps anything.
function agreementOf(flags) {
  return flags.map((a) => flags.map((b) => overlapOf(a, b).iou));
}

function agreementLanes() {
  return state.lanes.filter((lane) => lane.data.status === "done" && lane.data.stages.length && keptAtEnd(lane));
}

function drawAgreement() {
  const lanes = agreementLanes();
  const panel = part("agreement");
  panel.hidden = lanes.length < 2;
  const key = `${state.payload.id}/${lanes.map((lane) => `${lane.data.key}:${lane.filled}`).join()}`;
  if (panel.hidden || !panel.open || key === agreement.key) return;
  agreement.key = key;
  const values = agreementOf(lanes.map(keptAtEnd));
  const table = make("table");
  const head = make("tr");
  const corner = make("th");
  corner.append(make("span", "tv-sr", "method"));
  head.append(corner, ...lanes.map(({ data }) => headerCell("col", data.label)));
  table.append(head, ...lanes.map((lane, i) => {
    const row = make("tr");
    row.append(headerCell("row", lane.data.label), ...lanes.map((other, j) => agreementCell(lane, other, values[i][j], i === j)));
    return row;
  }));
  part("agreement-frame").replaceChildren(table);
}

function headerCell(scope, words) {
  const cell = make("th");
  cell.scope = scope;
  cell.title = words;
  cell.append(make("span", "", words));
  return cell;
}

function agreementCell(lane, other, iou, isItself) {
  const cell = make("td");
  if (isItself) {
    cell.textContent = "·";
    return cell;
  }
  const words = iou === null ? "–" : iou.toFixed(2);
  const button = make("button", "tv-agree", words);
  button.type = "button";
  button.style.setProperty("--tv-share", String(iou || 0));
  if (iou > 0.5) button.classList.add("tv-agree-much");
  button.title = `${lane.data.label} and ${other.data.label}: IoU ${words}`;
  button.setAttribute("aria-label", `${button.title}. Show A versus B.`);
  button.addEventListener("click", () => {
    Object.assign(state.settings, { a: lane.data.key, b: other.data.key });
    keepSettings();
    if (state.view === "ab") redrawWithTools();
    else element.querySelector('input[name="tv-view"][value="ab"]').click();
    part("lanes").scrollIntoView({ block: "nearest" });
  });
  cell.append(button);
  return cell;
}

function wireAgreement() {
  part("agreement").addEventListener("toggle", drawAgreement);
}
