// Slices that separate two methods, and tables whose cells open the cases they count.

function choiceOf(label, value, options, act) {
  const field = el("label", "wb-field");
  const select = el("select");
  select.append(...options.map(([key, name]) => Object.assign(el("option", "", name), { value: key })));
  select.value = value;
  select.addEventListener("change", () => act(select.value));
  field.append(el("span", "", label), select);
  return field;
}

const methodOptions = () => wb.run.methods.map(({ key, label }) => [key, label]);
const isOfMethod = (one) => ["outcome", "measure", "flag"].includes(one.kind) || (one.of || []).some(isOfMethod);
const rightAt = (method, budget, negate = false) => ({ kind: "outcome", method, budget, results: ["right"], negate });

function lookAt(conditions, budget = wb.budget) {
  wb.conditions = conditions;
  wb.budget = budget;
  wb.tab = "cases";
  fillSetup();
  changedFilter();
}

function pairOf() {
  const keys = wb.run.methods.map(({ key }) => key);
  const known = (wb.pair || []).filter((key) => keys.includes(key));
  return known.length === 2 && known[0] !== known[1] ? known : [wb.methods[0], wb.methods[1] || keys.find((key) => key !== wb.methods[0]) || wb.methods[0]];
}

async function showSlices() {
  const [a, b] = pairOf();
  const frame = find(".wb-slices");
  const told = await guarded(() => askLast("slices", "slices", { ...viewOf(), a, b }));
  if (!told) return;
  const bar = el("div", "wb-pair");
  const choose = (at) => (key) => { wb.pair = at ? [a, key] : [key, b]; remember(); showSlices(); };
  bar.append(choiceOf("Where", a, methodOptions(), choose(0)), choiceOf("and", b, methodOptions(), choose(1)), el("span", "wb-quiet", `differ most, at ${wb.budget} tokens, on ${count(told.cases)} cases`));
  const plain = wb.conditions.filter((one) => !isOfMethod(one));
  const nodes = [bar];
  if (plain.length < wb.conditions.length) nodes.push(el("p", "wb-note", "Filters on what methods did are left out here: cases that were chosen by their outcome prove nothing about it."));
  if (told.not_said) nodes.push(el("p", "wb-warning", told.not_said));
  if (told.saved.length) nodes.push(el("h3", "", "Saved"), sliceTable(told.saved, a, b, []));
  nodes.push(el("h3", "", "Found"), told.slices.length ? sliceTable(told.slices, a, b, plain) : el("p", "wb-quiet", "No slice of at least 10 cases can be made of these: remove a filter."));
  nodes.push(el("p", "wb-note", "Every family, third of a number, frequent word and answer is tried. p: McNemar’s exact test on the cases of the slice; found slices are corrected for all that were tried (Holm), saved ones stand alone. Bold: p < 0.05. “Beyond”: by how much the difference exceeds that on all other cases; found slices are ordered by it."));
  frame.replaceChildren(...nodes);
}

function signed(share) {
  const text = `${share > 0 ? "+" : share < 0 ? "−" : ""}${(100 * Math.abs(share)).toFixed(1)}`;
  return text;
}

const pWords = (p) => (p === null ? "–" : p < 0.001 ? "< 0.001" : p.toFixed(3));

function sliceTable(slices, a, b, among) {
  const frame = el("div", "wb-table-frame");
  const table = el("table", "wb-table");
  const head = table.createTHead().insertRow();
  for (const words of ["slice", "cases", `${labelOf(a)} right`, `${labelOf(b)} right`, "difference, points", "beyond, points", "p"]) head.append(Object.assign(el("th", "", words), { scope: "col" }));
  const body = table.createTBody();
  for (const one of slices) {
    const row = body.insertRow();
    const name = row.insertCell();
    const open = el("button", "wb-open", one.name);
    open.type = "button";
    const conditions = one.conditions || one.filter.conditions;
    open.addEventListener("click", () => lookAt([...among, ...conditions]));
    name.append(open);
    if (one.error || !one.cases) {
      const cell = row.insertCell();
      cell.colSpan = 6;
      cell.textContent = one.error || "no cases";
      continue;
    }
    row.append(cellOf(count(one.cases)), cellOf(percent(one.right_a / one.cases)), cellOf(percent(one.right_b / one.cases)));
    const cell = el("td", "wb-cell");
    const apart = el("button", "wb-open", signed(one.difference));
    apart.type = "button";
    apart.title = `${count(one.only_a)} cases only ${labelOf(a)} is right on, ${count(one.only_b)} only ${labelOf(b)}: open the ${one.difference >= 0 ? "first" : "second"}`;
    const [better, worse] = one.difference >= 0 ? [a, b] : [b, a];
    apart.addEventListener("click", () => lookAt([...among, ...conditions, rightAt(better, wb.budget), rightAt(worse, wb.budget, true)]));
    cell.append(apart);
    const p = one.p_holm ?? one.p;
    row.append(cell, cellOf(signed(one.beyond)), cellOf(pWords(p), p !== null && p < 0.05 ? "wb-strong" : ""));
  }
  frame.tabIndex = 0;
  frame.setAttribute("role", "region");
  frame.setAttribute("aria-label", "Slices");
  frame.append(table);
  return frame;
}

const cellOf = (words, className = "") => el("td", `wb-cell ${className}`, words);

// --- tables ---

async function showTables() {
  const told = await guarded(() => askLast("tables", "tables", viewOf()));
  if (!told) return;
  const nodes = told.tables.map((one) => [el("h3", "", one.title), rateTable(one), el("p", "wb-note", one.note)]).flat();
  find(".wb-tables").replaceChildren(...nodes);
}

// A cell: right of how many, and the conditions that find its cases. The darker, the more is lost.
function rateTable(told) {
  const frame = el("div", "wb-table-frame");
  const table = el("table", "wb-table wb-rates");
  const head = table.createTHead().insertRow();
  head.append(Object.assign(el("th", "", "method"), { scope: "col" }));
  for (const column of told.columns) {
    const th = Object.assign(el("th", "", column.name), { scope: "col" });
    if (column.n !== undefined) th.append(el("small", "", `${count(column.n)}`));
    head.append(th);
  }
  const body = table.createTBody();
  for (const line of told.rows) {
    const row = body.insertRow();
    row.append(Object.assign(el("th", "", line.name), { scope: "row" }));
    line.cells.forEach((cell) => {
      const td = el("td", "wb-cell");
      if (!cell || !cell.n) { td.textContent = "–"; row.append(td); return; }
      const open = el("button", "wb-rate", percent(cell.right / cell.n));
      open.type = "button";
      open.style.setProperty("--wb-share", `${Math.min(100, (100 * (cell.lost ?? 0)) / cell.n)}%`);
      open.title = `${count(cell.right)} of ${count(cell.n)} right${cell.lost === undefined ? "" : `, ${count(cell.lost)} lost`}${cell.low === undefined ? "" : `; 95% interval ${percent(cell.low)} – ${percent(cell.high)}`}. Open the lost ones.`;
      open.addEventListener("click", () => lookAt([...wb.conditions.filter((one) => !isOfMethod(one)), ...cell.conditions], cell.budget));
      td.append(open);
      row.append(td);
    });
  }
  frame.tabIndex = 0;
  frame.setAttribute("role", "region");
  frame.setAttribute("aria-label", told.title);
  frame.append(table);
  return frame;
}
