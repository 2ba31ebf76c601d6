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

const FIRST_SLICES = 15;

async function showSlices() {
  const [a, b] = pairOf();
  const frame = find(".wb-slices");
  if (!frame.children.length) frame.append(el("p", "wb-empty", "Comparing the methods on every slice …"));
  frame.setAttribute("aria-busy", "true");
  const told = await guarded(() => askLast("slices", "slices", { ...viewOf(), a, b }));
  frame.removeAttribute("aria-busy");
  if (!told) return;
  const bar = el("div", "wb-pair");
  // By the pair of this moment: the other may have been chosen while the table was made. The same twice changes places.
  const choose = (at) => (key) => {
    const now = pairOf();
    wb.pair = now.map((one, i) => (i === at ? key : one === key ? now[at] : one));
    remember();
    showSlices();
  };
  bar.append(choiceOf("Where", a, methodOptions(), choose(0)), choiceOf("and", b, methodOptions(), choose(1)), el("span", "wb-quiet", `differ most, at ${wb.budget} tokens, on ${count(told.cases)} cases`));
  const plain = wb.conditions.filter((one) => !isOfMethod(one));
  const nodes = [bar];
  if (plain.length < wb.conditions.length) nodes.push(el("p", "wb-note", "Filters on what methods did are left out here: cases that were chosen by their outcome prove nothing about it."));
  if (told.not_said) nodes.push(el("p", "wb-warning", told.not_said));
  if (told.saved.length) nodes.push(el("h3", "", "Saved"), sliceTable(told.saved, a, b, []));
  const found = expanded.has("slices") ? told.slices : told.slices.slice(0, FIRST_SLICES);
  nodes.push(el("h3", "", "Found"), found.length ? sliceTable(found, a, b, plain) : el("p", "wb-quiet", "No slice of at least 10 cases can be made of these: remove a filter."));
  if (found.length < told.slices.length) {
    const more = el("button", "wb-button wb-slices-more", `Show all ${count(told.slices.length)} slices`);
    more.type = "button";
    more.addEventListener("click", () => { expanded.add("slices"); showSlices(); });
    nodes.push(more);
  }
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
  for (const words of ["slice", "cases", "difference, points", "p", `${labelOf(a)} right`, `${labelOf(b)} right`, "beyond, points"]) head.append(Object.assign(el("th", "", words), { scope: "col" }));
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
    const cell = el("td", "wb-cell");
    const apart = el("button", "wb-open", signed(one.difference));
    apart.type = "button";
    apart.title = `${count(one.only_a)} cases only ${labelOf(a)} is right on, ${count(one.only_b)} only ${labelOf(b)}: open the ${one.difference >= 0 ? "first" : "second"}`;
    const [better, worse] = one.difference >= 0 ? [a, b] : [b, a];
    apart.addEventListener("click", () => lookAt([...among, ...conditions, rightAt(better, wb.budget), rightAt(worse, wb.budget, true)]));
    cell.append(apart);
    const p = one.p_holm ?? one.p;
    row.append(cellOf(count(one.cases)), cell, cellOf(pWords(p), p !== null && p < 0.05 ? "wb-strong" : ""));
    row.append(...[one.right_a, one.right_b].map((right) => cellOf(percent(right / one.cases))), cellOf(signed(one.beyond)));
  }
  frame.tabIndex = 0;
  frame.setAttribute("role", "region");
  frame.setAttribute("aria-label", "Slices");
  frame.append(table);
  return frame;
}

const cellOf = (words, className = "") => el("td", `wb-cell ${className}`, words);

// --- tables ---

const TABLES = { slice: "by slice", budget: "by budget", against: "against one", retention: "retention" };
const shownTable = { kind: "slice", by: "family", reference: "", told: null };

async function showTables() {
  const { run } = wb;
  const bar = el("div", "wb-pair");
  const kinds = el("span", "wb-segments");
  kinds.setAttribute("role", "group");
  kinds.setAttribute("aria-label", "Table");
  kinds.append(...Object.entries(TABLES).map(([kind, name]) => {
    const label = el("label");
    const radio = Object.assign(el("input"), { type: "radio", name: "wb-table", value: kind, checked: kind === shownTable.kind });
    radio.addEventListener("change", () => { shownTable.kind = kind; showTables(); });
    label.append(radio, el("span", "", name));
    return label;
  }));
  bar.append(kinds);
  const { kind } = shownTable;
  if (kind === "slice" || kind === "retention") bar.append(choiceOf("Slices", shownTable.by, run.slice_columns.map((column) => [column, COLUMNS[column] || column]), (by) => { shownTable.by = by; showTables(); }));
  if (kind === "against") bar.append(choiceOf("Reference", shownTable.reference, [["", "random, or unpruned"], ["full", "no pruning"], ...methodOptions()], (key) => { shownTable.reference = key; showTables(); }));
  for (const [format, name] of [["markdown", "Markdown"], ["csv", "CSV"], ["latex", "LaTeX"]]) {
    const copy = el("button", "wb-button", `Copy ${name}`);
    copy.type = "button";
    copy.addEventListener("click", () => copyText(shownTable.told?.[format] || "", name));
    bar.append(copy);
  }
  const frame = find(".wb-tables");
  const body = el("div");
  body.append(el("p", "wb-quiet", "Counting …"));
  frame.replaceChildren(bar, body);
  const asked = { ...viewOf(), table: kind, by: shownTable.by, ...(kind === "against" && shownTable.reference ? { reference: shownTable.reference } : {}) };
  const told = await guarded(() => askLast("tables", "table", asked));
  shownTable.told = told;
  if (!told) { body.replaceChildren(); return; }
  // The head of the page names the run, and the case file below it.
  const ours = (words) => (words.startsWith(`${run.file}: `) ? words.slice(run.file.length + 2).replace(/^./, (first) => first.toUpperCase()) : words);
  const notes = wb.conditions.some(isOfMethod) ? ["Filters on what methods did are left out here: cases that were chosen by their outcome prove nothing about it."] : [];
  body.replaceChildren(el("h3", "", ours(told.title)), resultTable(told), ...[...notes, ...told.notes].map((note) => el("p", "wb-note", ours(note))));
}

async function copyText(text, name) {
  try {
    await navigator.clipboard.writeText(text);
    say(`Copied as ${name}.`);
  } catch {
    say("The browser does not let this page copy: use tokviz tables.");
  }
}

// The lower among the methods of a column, the darker. A press opens the cell's cases.
function resultTable(told) {
  const frame = el("div", "wb-table-frame");
  const table = el("table", "wb-table wb-rates");
  const head = table.createTHead().insertRow();
  for (const words of [told.head, ...told.columns.map((column) => column.replace(" (n = ", "\n(n = "))]) head.append(Object.assign(el("th", "", words), { scope: "col" }));
  const body = table.createTBody();
  const isScore = shownTable.kind !== "against";
  const span = told.columns.map((_, at) => {
    const values = told.rows.filter(({ kind }) => kind === "method" || kind === "control").map(({ cells }) => cells[at].value).filter((value) => value !== null);
    return [Math.min(...values), Math.max(...values)];
  });
  let group = "";
  for (const line of told.rows) {
    if (line.group && line.group !== group) {
      group = line.group;
      body.insertRow().append(Object.assign(el("th", "wb-group-head", group), { colSpan: told.columns.length + 1, scope: "colgroup" }));
    }
    const row = body.insertRow();
    row.className = `wb-row-${line.kind}`;
    const name = Object.assign(el("th", "", line.name), { scope: "row" });
    if (line.source) name.append(el("small", "", `published: ${line.source}`));
    row.append(name);
    line.cells.forEach((cell, at) => row.append(resultCell(cell, isScore && line.kind !== "published" && line.kind !== "unpruned" ? span[at] : null)));
  }
  frame.tabIndex = 0;
  frame.setAttribute("role", "region");
  frame.setAttribute("aria-label", told.title);
  frame.append(table);
  return frame;
}

function resultCell(cell, span) {
  const td = el("td", "wb-cell");
  const words = cell.text || "–";
  const ends = cell.low === null || cell.high === null ? "" : `${cell.low.toFixed(1)} – ${cell.high.toFixed(1)}`;
  const told = [ends && `95% interval over images ${ends}`, cell.band && `seeds from ${cell.band[0].toFixed(1)} to ${cell.band[1].toFixed(1)}`, cell.n && `${count(cell.n)} cases`, cell.refusal].filter(Boolean).join("; ");
  if (!cell.conditions) {
    td.append(el("span", "wb-plain", words));
    td.title = told;
    return td;
  }
  const open = el("button", "wb-rate", words);
  open.type = "button";
  if (ends) open.append(el("small", "", ends));
  if (span && cell.value !== null && span[1] > span[0]) open.style.setProperty("--wb-share", `${(62 * (span[1] - cell.value)) / (span[1] - span[0])}%`);
  open.title = `${told}${told ? ". " : ""}Open: ${cell.conditions.map(wordsOf).join(", ") || "all cases"}`;
  open.addEventListener("click", () => lookAt([...wb.conditions.filter((one) => !isOfMethod(one)), ...cell.conditions], cell.budget ?? wb.budget));
  td.append(open);
  return td;
}
