// The numbers behind a lane's picture: a row for every visual token, sorted by any column, copied as text for a sheet. Drawn
// when it is opened; pointing at a row lights its patch in every lane.

const TABLE_STEP = 200; // rows drawn at once
const table = { lane: null, key: "", sortBy: "token", falling: false, shown: TABLE_STEP, rows: [], columns: [] };

function tableParts() {
  const root = part("patches");
  return { root, frame: part("patches-frame"), body: part("patches-frame").querySelector("table"), told: part("patches-told"), keptOnly: part("patches-kept").querySelector("input") };
}

function drawTable() {
  const lanes = whyLanes();
  const { root } = tableParts();
  root.hidden = !lanes.length;
  if (!lanes.length || !root.open) return;
  if (!lanes.includes(table.lane)) table.lane = lanes[0];
  laneRadios(part("patches-lanes"), "tv-patches-lane", lanes, table.lane, (lane) => { table.lane = lane; drawTable(); });
  const { lane } = table;
  const key = `${state.payload.id}/${state.lanes.indexOf(lane)}/${lane.stageAt}/${lane.data.status}/${lane.filled}/${state.settings.reach}`;
  if (key === table.key) return;
  table.key = key;
  table.shown = TABLE_STEP;
  table.columns = columnsOf(lane).map((column) => ({ ...column, isNumber: state.grid.row.some((_, token) => typeof column.of(token) === "number") }));
  if (!table.columns.some(({ name }) => name === table.sortBy)) table.sortBy = "token";
  fillTable();
}

// {name, of(token): a number, a text, or null for nothing, rises: sorted from low to high at first}
function columnsOf(lane) {
  const stage = lane.data.stages[lane.stageAt];
  const index = lane.indices[lane.stageAt];
  const { grid } = state;
  const shows = new Set(grid.shows);
  const place = (value, token) => (grid.row[token] < 0 ? null : value(grid, token));
  const merged = stage.carriers;
  return [
    { name: "token", rises: true, of: (token) => token },
    ...(grid.views.length > 1 ? [{ name: "view", of: (token) => grid.views[grid.view[token]]?.name ?? null }] : []),
    { name: "row", rises: true, of: (token) => place(rowInLevel, token) },
    { name: "column", rises: true, of: (token) => place(colInLevel, token) },
    { name: "fate", of: (token) => shortFate(lane, token) },
    ...stage.maps.map((map) => ({ name: map.unit ? `${map.label}, ${map.unit}` : map.label, of: (token) => map.values[token] })),
    ...(index.ranks ? [{ name: "rank of the score", rises: true, of: (token) => index.ranks.ranks[token] }] : []),
    ...index.orderings.map(({ label: name, places }) => ({ name, rises: true, of: (token) => places[token] })),
    ...(merged ? [{ name: stage.covers ? "covered by token" : "in token", rises: true, of: (token) => (merged[token] >= 0 ? merged[token] : null) },
      { name: "group size", of: (token) => index.groups.get(merged[token])?.length ?? null }] : []),
    ...(lane.survival.stages > 1 ? [{ name: "stages survived", of: (token) => lane.survival.depth[token] }] : []),
    { name: "vs random, sd", of: (token) => chanceOf(lane).values[token] },
    ...(shows.size ? [{ name: "evidence", of: (token) => (shows.has(token) ? "yes" : "no") }] : []),
  ].map((column, i, all) => (all.findIndex(({ name }) => name === column.name) === i ? column : { ...column, name: `${column.name} (${i})` }));
}

function shortFate(lane, token) {
  const stage = lane.data.stages[lane.stageAt];
  const index = lane.indices[lane.stageAt];
  if (index.kept[token]) return index.basis[token] ? "kept, basis" : "kept";
  if (!stage.covers && stage.carriers && stage.carriers[token] >= 0) return "merged";
  return lane.survival.depth[token] < lane.stageAt ? "dropped earlier" : "dropped";
}

function cellText(value) {
  if (value === null || value === undefined) return "";
  return typeof value === "number" && !Number.isInteger(value) ? shortNumber(value) : String(value);
}

function sortRows() {
  const { of } = table.columns.find(({ name }) => name === table.sortBy);
  const kept = tableParts().keptOnly.checked ? table.lane.indices[table.lane.stageAt].kept : null;
  const tokens = state.grid.row.map((_, token) => token).filter((token) => !kept || kept[token]);
  const keys = new Map(tokens.map((token) => [token, of(token)]));
  const sign = table.falling ? -1 : 1;
  // What is missing goes last whichever way is sorted; equal ones stay in the order of the tokens.
  table.rows = tokens.sort((a, b) => {
    const [x, y] = [keys.get(a), keys.get(b)];
    if (x === null || y === null) return (x === null) - (y === null) || a - b;
    return (x < y ? -sign : x > y ? sign : 0) || a - b;
  });
}

function fillTable() {
  sortRows();
  const { body, told } = tableParts();
  const head = make("tr");
  table.columns.forEach(({ name, isNumber }) => {
    const cell = make("th", isNumber ? "tv-number" : "");
    const sorted = name === table.sortBy;
    cell.scope = "col";
    cell.setAttribute("aria-sort", sorted ? (table.falling ? "descending" : "ascending") : "none");
    const button = make("button", "tv-sort", name);
    button.type = "button";
    button.append(make("span", "tv-sort-sign", sorted ? (table.falling ? "▼" : "▲") : ""));
    button.addEventListener("click", () => sortTable(name));
    cell.append(button);
    head.append(cell);
  });
  const heads = make("thead");
  heads.append(head);
  const rows = make("tbody");
  rows.append(...table.rows.slice(0, table.shown).map(tableRow));
  body.replaceChildren(heads, rows);
  const most = Math.min(table.shown, table.rows.length);
  told.textContent = `${most} of ${table.rows.length} rows`;
  if (most < table.rows.length) {
    const more = make("button", "tv-ask-why", "more rows");
    more.type = "button";
    more.addEventListener("click", () => { table.shown += 5 * TABLE_STEP; fillTable(); });
    told.append(" ", more);
  }
  lightTable(state.hover >= 0 ? state.hover : state.pin);
}

function tableRow(token) {
  const row = make("tr");
  row.dataset.token = String(token);
  table.columns.forEach(({ of, isNumber }) => row.append(make("td", isNumber ? "tv-number" : "", cellText(of(token)))));
  return row;
}

// A second press turns the order; values begin with the highest, places and words with the lowest.
function sortTable(name) {
  const { isNumber, rises } = table.columns.find((column) => column.name === name);
  table.falling = name === table.sortBy ? !table.falling : isNumber && !rises;
  table.sortBy = name;
  table.shown = TABLE_STEP;
  fillTable();
  tableParts().frame.scrollTop = 0;
  tableParts().body.querySelector('th:is([aria-sort="ascending"], [aria-sort="descending"]) button').focus({ preventScroll: true });
}

function lightTable(token) {
  const { root, body } = tableParts();
  if (!root.open) return;
  body.querySelector(".tv-row-lit")?.classList.remove("tv-row-lit");
  if (token >= 0) body.querySelector(`tr[data-token="${token}"]`)?.classList.add("tv-row-lit");
}

function openTable(lane) {
  table.lane = lane;
  const { root } = tableParts();
  root.open = true;
  drawTable();
  root.scrollIntoView({ behavior: matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth", block: "start" });
  root.querySelector("summary").focus({ preventScroll: true });
}

// Full precision, as it came; for a spreadsheet, whose cells must not begin like a formula.
function tableText() {
  const plain = (text) => text.replace(/[\t\r\n]+/g, " ").replace(/^(?=[=+@])/, "'");
  const lines = table.rows.map((token) => table.columns.map(({ of }) => {
    const value = of(token);
    return typeof value === "number" ? String(value) : plain(value ?? "");
  }));
  return [table.columns.map(({ name }) => plain(name)), ...lines].map((cells) => cells.join("\t")).join("\n");
}

async function copyTable(button) {
  const before = "copy all rows";
  try {
    await navigator.clipboard.writeText(tableText());
    button.textContent = "copied";
  } catch { // closed to the page on plain http: selected for the keyboard's own copy
    table.shown = table.rows.length;
    fillTable();
    getSelection().selectAllChildren(tableParts().body);
    button.textContent = "selected";
  }
  setTimeout(() => { button.textContent = before; }, 1500);
}

function wireTable() {
  const { root, body, keptOnly } = tableParts();
  const tokenOf = (event) => Number(event.target.closest("tr[data-token]")?.dataset.token ?? -1);
  root.addEventListener("toggle", drawTable);
  keptOnly.addEventListener("change", () => { table.shown = TABLE_STEP; fillTable(); });
  body.addEventListener("pointermove", (event) => hover(tokenOf(event)));
  body.addEventListener("pointerleave", () => hover(-1));
  body.addEventListener("click", (event) => { if (tokenOf(event) >= 0) pin(tokenOf(event)); });
  part("patches-copy").addEventListener("click", ({ target }) => copyTable(target));
}
