// What the workbench looks at, in one object, and its way into the address and back. Every text of a run is untrusted
// and reaches the page as text content only.

const doc = document.documentElement;
const PER_PAGE = 60;
const TABS = { cases: "Cases", map: "Map", slices: "Slices", tables: "Tables" };
const OUTCOME_WORDS = {
  kept: "right, as before", lost: "lost: right before, wrong now", rescued: "rescued: wrong before, right now",
  changed: "wrong, otherwise than before", wrong: "wrong, as before", same: "same answer", differs: "another answer", error: "could not run",
};
const COLUMNS = {
  family: "family", split: "split", metric: "metric", answer: "unpruned answer", model: "model", right: "unpruned answer is right",
  difficult: "downsampling fails", is_video: "video", margin: "margin, unpruned", score: "score, unpruned",
  logprob: "log-probability, unpruned", cls_entropy: "attention entropy", effective_rank: "effective rank",
  evidence_size: "evidence size", evidence_tokens: "evidence tokens", n_tokens: "visual tokens",
};
const MEASURES = {
  evidence_kept: "evidence kept", evidence_absorbed: "evidence absorbed", evidence_lost: "evidence lost",
  evidence_gone_layer: "layer where the evidence is gone", margin: "margin", agreement: "agreement with other methods",
  flip_budget: "flip budget", effective_rank: "effective rank of what is kept", logprob: "log-probability",
  reference_logprob: "log-probability of the unpruned answer", n_kept: "tokens kept", n_final: "tokens at the end",
  average_tokens: "mean tokens per layer", score: "score",
};
const FLAG_WORDS = {
  only_failure: "only it fails", all_failed: "all methods fail", random_beats_it: "random beats it", flipped: "verdict flipped",
};

const wb = {
  place: "", run: null, runs: [], budget: 0, methods: [], conditions: [], sort: { column: "losses", descending: true }, page: 0, tab: "cases",
  ordinal: null, pair: null, seed: null, result: null, chosen: new Set(), all: false, latest: 0, request: 0, colour: "outcome",
};

function el(name, className = "", text = "") {
  const node = document.createElement(name);
  if (className) node.className = className;
  if (text !== "") node.textContent = text;
  return node;
}
const find = (selector) => element.querySelector(selector);
const number = (value) => (Math.abs(value) >= 1000 ? Math.round(value).toLocaleString("en") : Number(value.toPrecision(3)).toString());
const count = (value) => value.toLocaleString("en");
const percent = (share) => `${(100 * share).toFixed(1)}%`;
const labelOf = (key) => wb.run.methods.find((method) => method.key === key)?.label || key;

// --- asking the server ---

const answered = new Map();

async function ask(action, body, signal) {
  const address = new URL(`tokviz/workbench/${action}`, `${location.origin}${location.pathname.replace(/[^/]*$/, "")}`);
  let response;
  try {
    response = await fetch(address, {
      method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body), signal,
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The server does not answer: is it still running?");
  }
  if (response.ok) return response.json(); // given up while it comes: an AbortError like any other
  const told = await response.json().catch(() => ({}));
  throw new Error(told.error || `The server refused the request (${response.status}).`);
}

const pending = {};
// The newest request of a kind is the one that counts: those before it are given up.
async function askLast(kind, action, body) {
  pending[kind]?.abort();
  const control = (pending[kind] = new AbortController());
  try {
    return await ask(action, body, control.signal);
  } catch (error) {
    if (error.name === "AbortError") return null;
    throw error;
  } finally {
    if (pending[kind] === control) delete pending[kind];
  }
}

function viewOf(more = {}) {
  const view = { run: wb.run.run, filter: { conditions: wb.conditions }, sort: wb.sort, budget: wb.budget, methods: wb.methods };
  if (wb.seed !== null) view.seed = wb.seed;
  return { ...view, ...more };
}

// --- the address ---

function addressOf(more = {}) {
  const now = { ...wb, ...more };
  if (now.place === "compare" || !now.run) return now.place === "compare" ? "#compare" : "#failures";
  const words = new URLSearchParams();
  words.set("run", now.run.run);
  words.set("budget", now.budget);
  now.methods.forEach((method) => words.append("method", method));
  if (now.conditions.length) words.set("filter", JSON.stringify(now.conditions));
  if (now.sort.column !== "losses" || !now.sort.descending) words.set("sort", JSON.stringify(now.sort));
  if (now.page) words.set("page", now.page + 1);
  if (now.tab !== "cases") words.set("tab", now.tab);
  if (now.pair) now.pair.forEach((method) => words.append("pair", method));
  if (now.seed !== null) words.set("seed", now.seed);
  if (now.ordinal !== null) words.set("case", now.ordinal);
  return `#failures?${words}`;
}

function remember(replace = false) {
  const address = addressOf();
  if (location.hash === address) return;
  history[replace ? "replaceState" : "pushState"](history.state, "", address);
}

const parsedJson = (text, otherwise) => {
  try { return JSON.parse(text) ?? otherwise; } catch { return otherwise; }
};

// What an address says. It may come from anybody: the server checks every value of it.
function readAddress() {
  const [place, query = ""] = location.hash.replace(/^#/, "").split(/\?(.*)/s);
  const words = new URLSearchParams(query);
  const whole = (name) => (/^\d{1,9}$/.test(words.get(name) || "") ? Number(words.get(name)) : null);
  const conditions = parsedJson(words.get("filter"), []);
  const pair = words.getAll("pair");
  return {
    place: place === "failures" ? (whole("case") === null ? "failures" : "case") : "compare", run: words.get("run"), budget: whole("budget"),
    methods: words.getAll("method").slice(0, 4), conditions: Array.isArray(conditions) ? conditions.filter((one) => one && typeof one === "object") : [],
    sort: parsedJson(words.get("sort"), { column: "losses", descending: true }), page: Math.max(0, (whole("page") || 1) - 1),
    tab: words.get("tab") in TABS ? words.get("tab") : "cases", pair: pair.length === 2 ? pair : null, ordinal: whole("case"), seed: whole("seed"),
  };
}

// --- conditions ---

const sameSubject = (a, b) => a.kind === b.kind && a.column === b.column && a.method === b.method && a.budget === b.budget;
const conditionAt = (about) => wb.conditions.findIndex((one) => !one.negate && sameSubject(one, about));

function setCondition(condition, isEmpty) {
  const at = conditionAt(condition);
  const rest = wb.conditions.filter((_, i) => i !== at);
  wb.conditions = isEmpty ? rest : at < 0 ? [...rest, condition] : wb.conditions.map((one, i) => (i === at ? condition : one));
  changedFilter();
}

// One of the values of a facet, on or off.
function toggleValue(about, list, value) {
  const now = wb.conditions[conditionAt(about)]?.[list] || [];
  const next = now.includes(value) ? now.filter((one) => one !== value) : [...now, value];
  setCondition({ ...about, [list]: next }, !next.length);
}

const hasValue = (about, list, value) => (wb.conditions[conditionAt(about)]?.[list] || []).includes(value);

function changedFilter() {
  wb.page = 0;
  wb.chosen.clear();
  wb.all = false;
  search();
}

function wordsOf(condition) {
  const ends = (low, high) => (low == null && high == null ? "is known" : low == null ? `≤ ${number(high)}` : high == null ? `≥ ${number(low)}` : `${number(low)} – ${number(high)}`);
  const at = condition.method ? `${labelOf(condition.method)}${condition.budget === wb.budget ? "" : ` at ${condition.budget}`}` : "";
  const said = {
    is: () => `${COLUMNS[condition.column] || condition.column}: ${(condition.values || []).map((value) => value ?? "none").join(" or ")}`,
    bool: () => `${COLUMNS[condition.column]}: ${(condition.values || []).map((value) => (value === null ? "not known" : value ? "yes" : "no")).join(" or ")}`,
    range: () => `${COLUMNS[condition.column] || condition.column} ${ends(condition.low, condition.high)}`,
    outcome: () => `${at} ${(condition.results || []).join(" or ")}${condition.seeds && condition.seeds !== "most" ? ` (${condition.seeds} seeds)` : ""}`,
    measure: () => `${at}: ${MEASURES[condition.column]} ${ends(condition.low, condition.high)}`,
    flag: () => `${at}: ${condition.value === false ? "not " : ""}${FLAG_WORDS[condition.column]}`,
    text: () => `“${condition.text}”${condition.where && condition.where !== "all" ? ` in ${condition.where}` : ""}`,
    lasso: () => "inside the lasso", tag: () => `tag: ${(condition.values || []).join(" or ")}`,
    status: () => `status: ${(condition.values || []).join(" or ")}`, note: () => "has a note",
    cases: () => `${count((condition.ordinals || []).length)} chosen cases`, any: () => (condition.of || []).map(wordsOf).join(" or "),
  }[condition.kind];
  const words = said ? said() : "unknown condition";
  return condition.negate ? `not (${words})` : words;
}
