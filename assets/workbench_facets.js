// The filters: outcomes of every method as bars whose parts are pressed, words and flags with counts, numbers as
// histograms over which a range is drawn. All counts come from the server, without the facet's own choice.

const openGroups = new Set(["outcomes", "case"]);
const expanded = new Set();

// nodes: made when they are first seen, since most groups are closed.
function facetGroup(name, title, make) {
  const group = el("details", "wb-group");
  group.open = openGroups.has(name);
  group.dataset.group = name;
  group.append(el("summary", "", title));
  if (group.open) group.append(...make());
  group.addEventListener("toggle", () => {
    if (group.open) openGroups.add(name); else openGroups.delete(name);
    if (group.open && group.children.length === 1) group.append(...make());
    if (group.open) group.querySelectorAll(".wb-histogram").forEach(drawHistogram);
  });
  return group;
}

// A bar whose parts are as wide as the counts, but never too narrow to be pressed.
function outcomeBar(method, counts) {
  const bar = el("div", "wb-outcome-bar");
  const about = { kind: "outcome", method, budget: wb.budget };
  for (const name of wb.run.outcomes.filter((one) => counts[one] || hasValue(about, "results", one))) {
    const part = el("button", `wb-part wb-is-${name}`);
    part.type = "button";
    part.style.flexGrow = String(counts[name] || 0);
    part.dataset.focus = `${method} ${name}`;
    part.setAttribute("aria-pressed", String(hasValue(about, "results", name)));
    part.setAttribute("aria-label", `${labelOf(method)} ${name}: ${count(counts[name] || 0)} cases`);
    part.title = `${labelOf(method)} – ${OUTCOME_WORDS[name]}: ${count(counts[name] || 0)}`;
    part.addEventListener("click", () => toggleValue(about, "results", name));
    bar.append(part);
  }
  return bar;
}

function outcomeChips(method, counts) {
  const list = el("div", "wb-chips");
  const about = { kind: "outcome", method, budget: wb.budget };
  for (const name of wb.run.outcomes.filter((one) => counts[one] || hasValue(about, "results", one))) {
    const chip = el("button", "wb-chip");
    chip.type = "button";
    chip.dataset.focus = `${method} chip ${name}`;
    chip.setAttribute("aria-pressed", String(hasValue(about, "results", name)));
    chip.append(el("i", `wb-dot wb-is-${name}`), el("span", "", name), el("b", "", count(counts[name] || 0)));
    chip.title = OUTCOME_WORDS[name];
    chip.addEventListener("click", () => toggleValue(about, "results", name));
    list.append(chip);
  }
  return list;
}

function outcomesGroup(facets) {
  const shown = wb.run.outcomes.filter((name) => Object.values(facets.outcomes).some((counts) => counts[name]));
  const legend = el("ul", "wb-legend");
  for (const name of shown) {
    const item = el("li");
    item.append(el("i", `wb-dot wb-is-${name}`), el("span", "", name));
    item.title = OUTCOME_WORDS[name];
    legend.append(item);
  }
  const order = [...wb.methods, ...wb.run.methods.map(({ key }) => key).filter((key) => !wb.methods.includes(key))];
  const rows = order.map((method) => {
    const counts = facets.outcomes[method] || {};
    const open = wb.methods.includes(method) || expanded.has(method);
    const row = el("div", "wb-method");
    const name = el("button", "wb-method-name", labelOf(method));
    name.type = "button";
    name.dataset.focus = `${method} name`;
    name.title = labelOf(method);
    name.setAttribute("aria-expanded", String(open));
    name.addEventListener("click", () => {
      if (expanded.has(method)) expanded.delete(method); else expanded.add(method);
      fillFacets(wb.result.facets);
    });
    row.append(name, outcomeBar(method, counts));
    if (open) row.append(outcomeChips(method, counts));
    return row;
  });
  return facetGroup("outcomes", `Outcome at ${wb.budget} tokens`, () => [legend, ...rows]);
}

function valueRows(pairs, about, list, most) {
  const rows = el("ul", "wb-values");
  for (const [value, n, label] of pairs) {
    const row = el("li");
    const button = el("button", "wb-value");
    button.type = "button";
    button.dataset.focus = `${about.kind} ${about.column} ${value}`;
    button.setAttribute("aria-pressed", String(hasValue(about, list, value)));
    const bar = el("i", "wb-value-bar");
    bar.style.width = `${(100 * n) / Math.max(1, most)}%`;
    button.append(bar, el("span", "wb-value-name", label ?? value ?? "none"), el("b", "", count(n)));
    button.addEventListener("click", () => toggleValue(about, list, value));
    row.append(button);
    rows.append(row);
  }
  return rows;
}

function wordFacet(column, pairs) {
  const block = el("div", "wb-facet");
  const about = { kind: "is", column };
  const shown = expanded.has(column) ? pairs : pairs.slice(0, 7);
  block.append(el("h4", "", COLUMNS[column]), valueRows(shown, about, "values", Math.max(...pairs.map(([, n]) => n))));
  if (pairs.length > 7) {
    const more = el("button", "wb-more", expanded.has(column) ? "fewer" : `${pairs.length - 7} more`);
    more.type = "button";
    more.addEventListener("click", () => {
      if (expanded.has(column)) expanded.delete(column); else expanded.add(column);
      fillFacets(wb.result.facets);
    });
    block.append(more);
  }
  return block;
}

function boolFacet(column, counts) {
  const block = el("div", "wb-facet");
  const pairs = [[true, counts.yes, "yes"], [false, counts.no, "no"], [null, counts.none, "not known"]]
    .filter(([value, n]) => n || hasValue({ kind: "bool", column }, "values", value));
  block.append(el("h4", "", COLUMNS[column]), valueRows(pairs, { kind: "bool", column }, "values", counts.yes + counts.no + counts.none));
  return block;
}

function flagFacet(facets) {
  const focus = wb.methods[0];
  const rows = el("ul", "wb-values");
  for (const [column, words] of Object.entries(FLAG_WORDS)) {
    const n = facets.flags[`row.${column}`]?.yes || 0;
    const about = { kind: "flag", column, method: focus, budget: wb.budget };
    const pressed = conditionAt(about) >= 0;
    if (!n && !pressed) continue;
    const row = el("li");
    const button = el("button", "wb-value");
    button.type = "button";
    button.dataset.focus = `flag ${column}`;
    button.setAttribute("aria-pressed", String(pressed));
    const bar = el("i", "wb-value-bar");
    bar.style.width = `${(100 * n) / Math.max(1, facets.found)}%`;
    button.append(bar, el("span", "wb-value-name", words), el("b", "", count(n)));
    button.addEventListener("click", () => setCondition({ ...about, value: true }, pressed));
    row.append(button);
    rows.append(row);
  }
  return rows;
}

// --- numbers ---

const ends = (canvas) => [Number(canvas.dataset.low), Number(canvas.dataset.high)];

function drawHistogram(canvas) {
  const counts = JSON.parse(canvas.dataset.counts);
  const scale = devicePixelRatio || 1;
  const width = canvas.clientWidth, height = canvas.clientHeight;
  if (!width) return;
  canvas.width = width * scale;
  canvas.height = height * scale;
  const pen = canvas.getContext("2d");
  pen.scale(scale, scale);
  const style = getComputedStyle(find(".wb-root"));
  const most = Math.max(1, ...counts), step = width / counts.length;
  const [low, high] = ends(canvas);
  const chosen = JSON.parse(canvas.dataset.chosen);
  const at = (value) => ((value - low) / (high - low || 1)) * width;
  const [from, to] = [chosen[0] == null ? 0 : at(chosen[0]), chosen[1] == null ? width : at(chosen[1])];
  counts.forEach((n, i) => {
    const tall = n ? Math.max(2, (n / most) * (height - 3)) : 0;
    const inside = (i + 0.5) * step >= from && (i + 0.5) * step <= to;
    pen.fillStyle = style.getPropertyValue(inside ? "--wb-bar" : "--wb-bar-off");
    pen.fillRect(i * step + 0.5, height - tall, Math.max(1, step - 1), tall);
  });
  pen.fillStyle = style.getPropertyValue("--tv-line");
  pen.fillRect(0, height - 1, width, 1);
  if (chosen[0] == null && chosen[1] == null) return;
  pen.fillStyle = style.getPropertyValue("--tv-accent");
  for (const x of [from, to]) pen.fillRect(Math.min(width - 2, Math.max(0, x - 1)), 0, 2, height);
}

function numberFacet(column, facts, about, label) {
  const block = el("div", "wb-facet wb-number");
  const now = wb.conditions[conditionAt(about)] || {};
  const canvas = el("canvas", "wb-histogram");
  Object.assign(canvas.dataset, { low: facts.low, high: facts.high, counts: JSON.stringify(facts.counts), chosen: JSON.stringify([now.low ?? null, now.high ?? null]) });
  canvas.setAttribute("aria-hidden", "true");
  const choose = (low, high) => setCondition({ ...about, low, high }, low == null && high == null);
  let start = null;
  const valueAt = (event) => {
    const frame = canvas.getBoundingClientRect();
    const share = Math.min(1, Math.max(0, (event.clientX - frame.left) / frame.width));
    return facts.low + share * (facts.high - facts.low);
  };
  canvas.addEventListener("pointerdown", (event) => { start = valueAt(event); canvas.setPointerCapture(event.pointerId); });
  canvas.addEventListener("pointermove", (event) => {
    if (start === null) return;
    canvas.dataset.chosen = JSON.stringify([Math.min(start, valueAt(event)), Math.max(start, valueAt(event))]);
    drawHistogram(canvas);
  });
  canvas.addEventListener("pointerup", (event) => {
    const stop = valueAt(event);
    const [low, high] = [Math.min(start, stop), Math.max(start, stop)];
    start = null;
    if (high - low < (facts.high - facts.low) / 60) choose(null, null);
    else choose(low <= facts.low ? null : Number(low.toPrecision(4)), high >= facts.high ? null : Number(high.toPrecision(4)));
  });
  const inputs = el("div", "wb-range");
  for (const end of ["low", "high"]) {
    const input = Object.assign(el("input"), { type: "number", step: "any", placeholder: number(facts[end]), value: now[end] ?? "" });
    input.dataset.focus = `${about.kind} ${column} ${end}`;
    input.setAttribute("aria-label", `${label}, ${end === "low" ? "at least" : "at most"}`);
    input.addEventListener("change", () => {
      const value = input.value === "" || !Number.isFinite(Number(input.value)) ? null : Number(input.value);
      choose(end === "low" ? value : now.low ?? null, end === "high" ? value : now.high ?? null);
    });
    inputs.append(input);
    if (end === "low") inputs.append(el("span", "", "to"));
  }
  if (facts.missing) inputs.append(el("span", "wb-missing", `${count(facts.missing)} without`));
  block.append(el("h4", "", label), canvas, inputs);
  return block;
}

function numberFacets(facets, names, prefix, about) {
  return Object.entries(names).flatMap(([column, label]) => {
    const facts = facets.numbers[prefix + column];
    if (!facts || facts.low === null || facts.low === facts.high) return [];
    return [numberFacet(column, facts, { ...about, column }, label)];
  });
}

// --- people's words ---

function peopleFacets(facets) {
  const nodes = [];
  const statuses = Object.entries(facets.statuses).filter(([name, n]) => n || hasValue({ kind: "status" }, "values", name));
  nodes.push(el("h4", "", "status"), valueRows(statuses, { kind: "status" }, "values", facets.found));
  if (facets.tags.length) nodes.push(el("h4", "", "tags"), valueRows(facets.tags.filter(([tag, n]) => n || hasValue({ kind: "tag" }, "values", tag)), { kind: "tag" }, "values", facets.found));
  const noted = conditionAt({ kind: "note" }) >= 0;
  if (facets.noted || noted) {
    const button = el("button", "wb-value");
    button.type = "button";
    button.setAttribute("aria-pressed", String(noted));
    button.append(el("span", "wb-value-name", "has a note"), el("b", "", count(facets.noted)));
    button.addEventListener("click", () => setCondition({ kind: "note" }, noted));
    nodes.push(button);
  }
  return nodes;
}

function savedSlices() {
  return wb.run.slices.map((one) => {
    const row = el("div", "wb-saved");
    const open = el("button", "wb-value");
    open.type = "button";
    open.append(el("span", "wb-value-name", one.name), el("b", "", one.size === null ? "–" : count(one.size)));
    open.addEventListener("click", () => { wb.conditions = one.filter.conditions; changedFilter(); });
    row.append(open);
    if (wb.run.can_edit) {
      const away = el("button", "wb-away", "×");
      away.type = "button";
      away.setAttribute("aria-label", `Delete the slice ${one.name}`);
      away.addEventListener("click", () => deleteSlice(one));
      row.append(away);
    }
    return row;
  });
}

function fillFacets(facets) {
  const focus = wb.methods[0];
  const held = document.activeElement?.dataset?.focus;
  const words = Object.entries(facets.words).filter(([column, pairs]) => pairs.length > 1 || conditionAt({ kind: "is", column }) >= 0);
  const bools = ["right", "difficult", "is_video"].filter((column) => {
    const { yes, no, none } = facets.flags[column];
    return [yes, no, none].filter(Boolean).length > 1 || conditionAt({ kind: "bool", column }) >= 0;
  });
  const groups = [outcomesGroup(facets)];
  if (wb.run.slices.length) groups.push(facetGroup("saved", "Saved slices", savedSlices));
  groups.push(facetGroup("case", "The case", () => [...words.map(([column, pairs]) => wordFacet(column, pairs)), ...bools.map((column) => boolFacet(column, facets.flags[column]))]));
  groups.push(facetGroup("flags", `${labelOf(focus)} beside the others`, () => [flagFacet(facets)]));
  groups.push(facetGroup("numbers", "Numbers of the case", () => numberFacets(facets, COLUMNS, "", { kind: "range" })));
  groups.push(facetGroup("measures", `Numbers of ${labelOf(focus)} at ${wb.budget}`, () => numberFacets(facets, MEASURES, "row.", { kind: "measure", method: focus, budget: wb.budget })));
  groups.push(facetGroup("people", "Review", () => peopleFacets(facets)));
  find(".wb-facets").replaceChildren(...groups);
  find(".wb-facets").querySelectorAll("details[open] .wb-histogram").forEach(drawHistogram);
  if (held) [...find(".wb-facets").querySelectorAll("[data-focus]")].find((node) => node.dataset.focus === held)?.focus();
}
