// The component: opens a run, keeps address and page in step, answers presses. What it draws is in the other files.

const canSort = [["losses", "lost by most of the shown"], ["ordinal", "order of the file"], ["margin", "margin, unpruned"], ["evidence_size", "evidence size"], ["cls_entropy", "attention entropy"], ["effective_rank", "effective rank"], ["family", "family"], ["question", "question"]];
const canSortByRow = ["evidence_kept", "evidence_lost", "margin", "agreement", "flip_budget"];

async function guarded(act) {
  try {
    const told = await act();
    find(".wb-error").hidden = true;
    return told;
  } catch (error) {
    find(".wb-error").textContent = error.message;
    find(".wb-error").hidden = false;
    if (wb.place === "case") say(error.message);
    return null;
  }
}

// --- setting up ---

function fillSetup() {
  const { run } = wb;
  find(".wb-title").textContent = run.run;
  const facts = [run.file, `${count(run.cases)} cases${run.cases < run.asked ? ` of ${count(run.asked)}` : ""}`, run.model, `${run.methods.length} methods`, run.status === "running" ? "still being mined" : `mined ${run.created.slice(0, 10)}`];
  find(".wb-about").textContent = facts.filter(Boolean).join(" · ");
  find(".wb-about").title = run.command;
  const runs = find(".wb-runs");
  runs.hidden = wb.runs.length < 2;
  runs.querySelector("select").replaceChildren(...wb.runs.map((name) => Object.assign(el("option", "", name), { value: name })));
  runs.querySelector("select").value = run.run;
  find(".wb-segments").replaceChildren(...run.budgets.map((budget) => {
    const label = el("label");
    const radio = Object.assign(el("input"), { type: "radio", name: "wb-budget", value: budget, checked: budget === wb.budget });
    radio.addEventListener("change", () => chooseBudget(budget));
    label.append(radio, el("span", "", String(budget)));
    return label;
  }));
  fillLanes();
  const tabs = Object.entries(TABS).filter(([tab]) => tab !== "map" || run.has_map);
  find(".wb-tabs").replaceChildren(...tabs.map(([tab, name]) => {
    const button = el("button", "wb-tab", name);
    button.type = "button";
    button.dataset.tab = tab;
    button.setAttribute("role", "tab");
    button.addEventListener("click", () => { wb.tab = tab; remember(); showTab(); });
    button.addEventListener("keydown", (event) => {
      const way = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (way) tabs[(tabs.findIndex(([one]) => one === tab) + way + tabs.length) % tabs.length] && element.querySelectorAll(".wb-tab")[(tabs.findIndex(([one]) => one === tab) + way + tabs.length) % tabs.length].focus();
    });
    return button;
  }));
  const options = [...canSort, ...canSortByRow.map((column) => [`row.${column}`, `${MEASURES[column]}, ${labelOf(wb.methods[0])}`])];
  const sort = find(".wb-sort select");
  sort.replaceChildren(...options.map(([value, name]) => Object.assign(el("option", "", name), { value })));
  sort.value = wb.sort.method ? `row.${wb.sort.column}` : wb.sort.column;
  find(".wb-order").textContent = wb.sort.descending ? "↓" : "↑";
  find(".wb-order").setAttribute("aria-label", wb.sort.descending ? "Descending; press for ascending" : "Ascending; press for descending");
  find(".wb-bulk-status").replaceChildren(Object.assign(el("option", "", "set status"), { value: "" }), ...run.statuses.map((name) => Object.assign(el("option", "", name), { value: name })));
  fillExports();
}

function fillLanes() {
  const keys = wb.run.methods.map(({ key }) => key);
  const nodes = wb.methods.map((method, at) => choiceOf(at ? "" : "Show", method, methodOptions(), (key) => {
    wb.methods = wb.methods.map((one, i) => (i === at ? key : one === key ? method : one));
    changedSetup();
  }));
  nodes.forEach((node, at) => node.querySelector("select").setAttribute("aria-label", at ? `Method ${at + 1} on the cards` : "First method: its numbers have filters"));
  if (wb.methods.length < Math.min(4, keys.length)) {
    const more = el("button", "wb-button", "+");
    more.type = "button";
    more.setAttribute("aria-label", "Show another method");
    more.addEventListener("click", () => { wb.methods = [...wb.methods, keys.find((key) => !wb.methods.includes(key))]; changedSetup(); });
    nodes.push(more);
  }
  if (wb.methods.length > 1) {
    const fewer = el("button", "wb-button", "−");
    fewer.type = "button";
    fewer.setAttribute("aria-label", "Show one method fewer");
    fewer.addEventListener("click", () => { wb.methods = wb.methods.slice(0, -1); changedSetup(); });
    nodes.push(fewer);
  }
  find(".wb-lanes").replaceChildren(...nodes);
}

// Conditions at the budget that was shown go along to the new one.
function chooseBudget(budget) {
  wb.conditions = wb.conditions.map((one) => (one.budget === wb.budget ? { ...one, budget } : one));
  if (wb.sort.method) wb.sort = { ...wb.sort, budget };
  wb.budget = budget;
  changedSetup();
}

function changedSetup() {
  if (wb.sort.method) wb.sort = { ...wb.sort, method: wb.methods[0], budget: wb.budget };
  fillSetup();
  changedFilter();
}

const EXPORTS = [["report", "Report (HTML, opens offline)"], ["figure-pdf", "Figure of the first cases (PDF)"], ["figure-png", "Figure (PNG)"], ["jsonl", "Rows (JSONL)"], ["csv", "Rows (CSV)"], ["parquet", "Rows (Parquet)"], ["cases", "cases.jsonl, to mine again"]];

function fillExports() {
  find(".wb-export ul").replaceChildren(...EXPORTS.map(([kind, name]) => {
    const item = el("li");
    const link = el("a", "", name);
    link.href = "#";
    link.addEventListener("click", (event) => {
      event.preventDefault();
      find(".wb-export").open = false;
      download(kind, name);
    });
    item.append(link);
    return item;
  }));
}

async function download(kind, name) {
  say(`Making: ${name} …`);
  const address = new URL(`tokviz/workbench/export/${kind}`, `${location.origin}${location.pathname.replace(/[^/]*$/, "")}`);
  address.searchParams.set("view", JSON.stringify(wb.chosen.size && !wb.all ? viewOf({ filter: { conditions: [{ kind: "cases", ordinals: wb.result.cards.filter(({ id }) => wb.chosen.has(id)).map(({ ordinal }) => ordinal) }] } }) : viewOf()));
  await guarded(async () => {
    const response = await fetch(address);
    if (!response.ok) throw new Error((await response.json()).error);
    const link = el("a");
    link.href = URL.createObjectURL(await response.blob());
    link.download = decodeURIComponent((response.headers.get("content-disposition") || "").split("''")[1] || "tokviz");
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60000);
    say(`Downloaded ${link.download}.`);
  });
}

// --- searching ---

async function search({ keepPage = false, replace = false } = {}) {
  if (!keepPage) remember(replace);
  const began = performance.now();
  const told = await guarded(() => askLast("search", "search", viewOf({ offset: wb.page * PER_PAGE })));
  if (!told) return;
  wb.result = told;
  wb.latest = told.latest;
  fillPills();
  fillFacets(told.facets);
  showResult();
  showTab();
  find(".wb-root").dataset.searchMs = (performance.now() - began).toFixed(0);
}

async function turnPage(page) {
  wb.page = page;
  remember();
  const began = performance.now();
  const told = await guarded(() => askLast("search", "page", viewOf({ offset: page * PER_PAGE })));
  if (!told) return;
  wb.result = { ...wb.result, ...told };
  wb.latest = told.latest;
  showResult();
  find(".wb-main").scrollIntoView({ block: "start" });
  find(".wb-root").dataset.pageMs = (performance.now() - began).toFixed(0);
}

function showResult() {
  const { found, total, cards } = wb.result;
  find(".wb-count").replaceChildren(el("b", "", count(found)), document.createTextNode(found === total ? ` cases` : ` of ${count(total)} cases`));
  find(".wb-side-close").textContent = found === 1 ? "Show the case" : `Show ${count(found)} cases`;
  fillCards(cards);
  fillPages();
  showChosen();
  const known = wb.result.facets.tags.map(([tag]) => Object.assign(el("option"), { value: tag }));
  find("#wb-known-tags").replaceChildren(...known);
}

function fillPages() {
  const pages = Math.max(1, Math.ceil(wb.result.found / PER_PAGE));
  const bar = find(".wb-pages");
  bar.hidden = pages < 2;
  const button = (words, page, label) => {
    const node = el("button", "wb-button", words);
    node.type = "button";
    node.disabled = page < 0 || page >= pages;
    node.setAttribute("aria-label", label);
    node.addEventListener("click", () => turnPage(page));
    return node;
  };
  bar.replaceChildren(button("‹", wb.page - 1, "Previous page"), el("span", "", `${count(wb.page + 1)} of ${count(pages)}`), button("›", wb.page + 1, "Next page"));
}

function fillPills() {
  const pills = wb.conditions.map((condition, at) => {
    const item = el("li", "wb-pill");
    const turn = el("button", "wb-pill-text", wordsOf(condition));
    turn.type = "button";
    turn.title = "Press for the opposite";
    turn.addEventListener("click", () => { wb.conditions = wb.conditions.map((one, i) => (i === at ? { ...one, negate: !one.negate } : one)); changedFilter(); });
    const away = el("button", "wb-away", "×");
    away.type = "button";
    away.setAttribute("aria-label", `Remove: ${wordsOf(condition)}`);
    away.addEventListener("click", () => { wb.conditions = wb.conditions.filter((_, i) => i !== at); changedFilter(); });
    item.append(turn, away);
    return item;
  });
  if (pills.length > 1) {
    const item = el("li");
    const clear = el("button", "wb-more", "clear all");
    clear.type = "button";
    clear.addEventListener("click", () => { wb.conditions = []; changedFilter(); });
    item.append(clear);
    pills.push(item);
  }
  find(".wb-pills").replaceChildren(...pills);
  find(".wb-save").hidden = !wb.conditions.length || !wb.run.can_edit;
  const text = wb.conditions.find(({ kind }) => kind === "text");
  const field = find(".wb-search input");
  if (document.activeElement !== field) field.value = text ? text.text : "";
}

function showTab() {
  const tab = wb.tab === "map" && !wb.run.has_map ? "cases" : wb.tab;
  element.querySelectorAll(".wb-tab").forEach((button) => {
    button.setAttribute("aria-selected", String(button.dataset.tab === tab));
    button.tabIndex = button.dataset.tab === tab ? 0 : -1;
  });
  element.querySelectorAll(".wb-panel").forEach((panel) => { panel.hidden = panel.dataset.tab !== tab; });
  for (const name of [".wb-sort", ".wb-order", ".wb-pages"]) find(name).classList.toggle("wb-away-now", tab !== "cases");
  if (tab === "map") showMap();
  if (tab === "slices") showSlices();
  if (tab === "tables") showTables();
}

async function deleteSlice(one) {
  const told = await guarded(() => ask("delete_slice", { run: wb.run.run, name: one.name, seen: one.changed, who: me() }));
  if (!told) return;
  wb.run.slices = told.slices;
  fillFacets(wb.result.facets);
}

// --- going places ---

function showPlace() {
  find(".wb-waiting")?.remove();
  doc.dataset.tokvizPlace = wb.place;
  find(".wb-failures").hidden = wb.place !== "failures";
  find(".wb-case").hidden = wb.place !== "case";
  find(".wb-root").hidden = wb.place === "compare";
  document.querySelectorAll(".tokviz-nav a").forEach((link) => {
    const here = link.hash === "#compare" ? wb.place === "compare" : wb.place !== "compare";
    if (here) link.setAttribute("aria-current", "page"); else link.removeAttribute("aria-current");
  });
  scrollTo(0, 0);
}

function startMethods(run) {
  const keys = run.methods.map(({ key }) => key);
  const liked = ["apet", "fastv", "random"].filter((key) => keys.includes(key));
  return [...liked, ...keys.filter((key) => !liked.includes(key))].slice(0, 3);
}

async function openRun(name) {
  const run = await guarded(() => ask("run", { run: name }));
  if (!run) return false;
  wb.run = run;
  wb.latest = run.latest;
  return true;
}

async function follow() {
  const said = readAddress();
  if (said.place === "compare") {
    wb.place = "compare";
    return showPlace();
  }
  const name = wb.runs.includes(said.run) ? said.run : wb.runs[0];
  wb.place = said.place;
  showPlace();
  if (wb.run?.run !== name && !(await openRun(name))) return;
  const keys = wb.run.methods.map(({ key }) => key);
  const methods = said.methods.filter((key, i, all) => keys.includes(key) && all.indexOf(key) === i);
  Object.assign(wb, {
    budget: wb.run.budgets.includes(said.budget) ? said.budget : wb.run.budgets[wb.run.budgets.length - 1], methods: methods.length ? methods : startMethods(wb.run),
    conditions: said.conditions, sort: said.sort, page: said.page, tab: said.tab, pair: said.pair, ordinal: said.ordinal, seed: said.seed,
  });
  if (wb.run.budgets.length > 1 && said.budget === null && wb.run.budgets.includes(64)) wb.budget = 64;
  fillSetup();
  if (wb.place === "case") showCase(); else await search({ replace: true });
}

function wire() {
  find(".wb-runs select").addEventListener("change", (event) => {
    Object.assign(wb, { conditions: [], sort: { column: "losses", descending: true }, page: 0, methods: [], pair: null });
    location.hash = `#failures?run=${encodeURIComponent(event.target.value)}`;
  });
  // On a narrow screen the filters lie over the cases.
  const showFilters = (open) => {
    find(".wb-side").classList.toggle("wb-is-open", open);
    find(".wb-filters-button").setAttribute("aria-expanded", String(open));
    find(open ? ".wb-search input" : ".wb-filters-button").focus({ preventScroll: true });
    find(".wb-facets").querySelectorAll("details[open] .wb-histogram").forEach(drawHistogram);
  };
  find(".wb-filters-button").addEventListener("click", () => showFilters(true));
  find(".wb-side-close").addEventListener("click", () => showFilters(false));
  find(".wb-side").addEventListener("keydown", (event) => { if (event.key === "Escape" && find(".wb-side").classList.contains("wb-is-open")) showFilters(false); });
  find(".wb-view-button").addEventListener("click", (event) => {
    event.currentTarget.setAttribute("aria-expanded", String(find(".wb-top").classList.toggle("wb-is-open")));
  });
  let typing = 0;
  find(".wb-search input").addEventListener("input", (event) => {
    clearTimeout(typing);
    typing = setTimeout(() => {
      const text = event.target.value.trim();
      const rest = wb.conditions.filter(({ kind }) => kind !== "text");
      wb.conditions = text ? [...rest, { kind: "text", text }] : rest;
      changedFilter();
    }, 100);
  });
  find(".wb-sort select").addEventListener("change", (event) => {
    const [, of, column] = event.target.value.match(/^(row\.)?(.*)$/);
    wb.sort = of ? { column, method: wb.methods[0], budget: wb.budget, descending: wb.sort.descending || false } : { column, descending: wb.sort.descending || false };
    changedFilter();
  });
  find(".wb-order").addEventListener("click", () => {
    wb.sort = { ...wb.sort, descending: !wb.sort.descending };
    fillSetup();
    changedFilter();
  });
  find(".wb-save").addEventListener("submit", async (event) => {
    event.preventDefault();
    const field = event.target.querySelector("input");
    if (!field.value.trim()) return field.focus();
    const told = await guarded(() => ask("save_slice", { run: wb.run.run, name: field.value, filter: { conditions: wb.conditions }, who: me() }));
    if (!told) return;
    field.value = "";
    wb.run.slices = told.slices;
    openGroups.add("saved");
    fillFacets(wb.result.facets);
    say("Slice saved.");
  });
  find(".wb-choose-all").addEventListener("click", () => { wb.all = true; showChosen(); });
  find(".wb-choose-none").addEventListener("click", () => { wb.all = false; wb.chosen.clear(); showChosen(); });
  find(".wb-bulk-status").addEventListener("change", (event) => {
    const status = event.target.value;
    event.target.value = "";
    if (status) guarded(() => editChosen({ status }));
  });
  find(".wb-bulk-tag").addEventListener("submit", (event) => {
    event.preventDefault();
    const field = event.target.querySelector("input");
    if (!field.value.trim()) return field.focus();
    guarded(() => editChosen({ [event.submitter?.value === "remove" ? "remove" : "add"]: [field.value] }));
    field.value = "";
  });
  find(".wb-toast button").addEventListener("click", () => guarded(undo));
  addEventListener("popstate", follow);
  addEventListener("resize", () => { repaintCards(); element.querySelectorAll("details[open] .wb-histogram").forEach(drawHistogram); if (wb.tab === "map") drawMap(); });
  new MutationObserver(() => { repaintCards(); element.querySelectorAll("details[open] .wb-histogram").forEach(drawHistogram); if (wb.tab === "map") drawMap(); }).observe(document.body, { attributes: true, attributeFilter: ["class"] });
  document.addEventListener("click", (event) => { if (!find(".wb-export").contains(event.target)) find(".wb-export").open = false; });
  wireCase();
  wireMap();
}

// A page that has been loaded shows its own first: a case of the address comes into the lanes when they are there.
async function start() {
  const told = await ask("runs", {}).catch((error) => ({ runs: [], error: error.message }));
  wb.runs = told.runs;
  if (!wb.runs.length) {
    find(".wb-waiting").textContent = told.error || "The folder that this server was started with holds no run any more.";
    return;
  }
  wire();
  for (let i = 0; i < 100 && !document.querySelector(".tv-root[data-ready]"); i++) await new Promise((done) => setTimeout(done, 50));
  await follow();
}
start();
