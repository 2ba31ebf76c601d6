// One case: the bar above the lanes, with what people say of it and the way to the next. The lanes themselves are those
// of the Compare page, which the server fills with what was stored.

let shownCase = null;

function openCase(ordinal, replace = false) {
  wb.place = "case";
  wb.ordinal = ordinal;
  remember(replace);
  showPlace();
  showCase();
}

function closeCase() {
  wb.place = "failures";
  const last = wb.ordinal;
  wb.ordinal = null;
  remember();
  showPlace();
  search({ keepPage: true }).then(() => {
    const card = find(`.wb-card[data-ordinal="${last}"] .wb-question`);
    card?.focus();
    card?.scrollIntoView({ block: "center" });
  });
}

async function showCase() {
  const wanted = viewOf({ ordinal: wb.ordinal });
  // The lanes come by an event of the page, the bar by a request: at the same time.
  props.value = { open: { run: wanted.run, ordinal: wanted.ordinal, methods: wanted.methods, budget: wanted.budget, seed: wanted.seed ?? null } };
  trigger("select");
  const told = await guarded(() => askLast("case", "case", wanted));
  if (!told) return;
  shownCase = told;
  wb.latest = told.latest;
  fillCaseBar();
}

function fillCaseBar() {
  const { card, at, of, before, after } = shownCase;
  find(".wb-case-place").textContent = at === null ? `Case ${card.id}, not among the ${count(of)} filtered` : `Case ${count(at + 1)} of ${count(of)}`;
  find(".wb-before").disabled = before === null;
  find(".wb-after").disabled = after === null;
  find(".wb-back").href = addressOf({ place: "failures", ordinal: null });
  const given = card.given || { tags: [], status: "unreviewed", note: "" };
  const status = find(".wb-case-status select");
  status.replaceChildren(...wb.run.statuses.map((name) => Object.assign(el("option", "", name), { value: name })));
  status.value = given.status;
  status.disabled = !wb.run.can_edit;
  find(".wb-case .wb-tags").replaceChildren(...given.tags.map(tagNode));
  find(".wb-case .wb-tag-form").hidden = !wb.run.can_edit;
  const note = find(".wb-case-note textarea");
  if (document.activeElement !== note) note.value = given.note;
  note.readOnly = !wb.run.can_edit;
  const facts = [card.id, card.family, card.expected.length ? `expected ${card.expected.join(" or ")}` : ""];
  const lost = wb.run.methods.filter(({ key }) => card.outcomes[key] === "lost").map(({ label }) => label);
  facts.push(lost.length ? `lost at ${wb.budget} tokens by ${lost.join(", ")}` : `lost at ${wb.budget} tokens by no method`);
  find(".wb-case-facts").replaceChildren(outcomeStrip(card), el("span", "", facts.filter(Boolean).join(" · ")));
}

function tagNode(tag) {
  const item = el("li", "wb-tag", tag);
  if (wb.run.can_edit) {
    const away = el("button", "wb-away", "×");
    away.type = "button";
    away.setAttribute("aria-label", `Remove the tag ${tag}`);
    away.addEventListener("click", () => editCase({ remove: [tag] }));
    item.append(away);
  }
  return item;
}

async function editCase(edit) {
  const { card } = shownCase;
  const told = await guarded(() => ask("edit", { run: wb.run.run, edit: { ...edit, case_ids: [card.id], seen: wb.latest }, who: me() }));
  if (!told) return;
  card.given = told.given[card.id];
  afterEdit(told);
  if (told.clashes.length) say("Somebody else changed this case meanwhile: what they wrote is shown now.");
  fillCaseBar();
}

function step(way) {
  const next = shownCase && shownCase[way];
  if (next !== null && next !== undefined) openCase(next, true);
}

const isTyping = (target) => target.closest("input:not([type=checkbox]), textarea, select, [contenteditable]") !== null;

function onKeys(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || isTyping(event.target) || !wb.run) return;
  if (wb.place === "case") {
    const act = { j: () => step("after"), k: () => step("before"), u: closeCase, t: () => find(".wb-case .wb-tag-form input").focus(), n: () => find(".wb-case-note textarea").focus() }[event.key];
    if (!act) return;
    event.preventDefault();
    act();
  } else if (wb.place === "failures" && wb.tab === "cases" && "jkx/".includes(event.key)) {
    event.preventDefault();
    if (event.key === "/") return find(".wb-search input").focus();
    const cards = [...element.querySelectorAll(".wb-card")];
    const at = cards.findIndex((card) => card.contains(document.activeElement));
    if (event.key === "x") return cards[at]?.querySelector("input").click();
    cards[Math.min(cards.length - 1, Math.max(0, at + (event.key === "j" ? 1 : -1)))]?.querySelector(".wb-question").focus();
  }
}

function wireCase() {
  find(".wb-back").addEventListener("click", (event) => { event.preventDefault(); closeCase(); });
  find(".wb-before").addEventListener("click", () => step("before"));
  find(".wb-after").addEventListener("click", () => step("after"));
  find(".wb-case-status select").addEventListener("change", (event) => editCase({ status: event.target.value }));
  find(".wb-case-note textarea").addEventListener("change", (event) => editCase({ note: event.target.value }));
  find(".wb-case .wb-tag-form").addEventListener("submit", (event) => {
    event.preventDefault();
    const field = event.target.querySelector("input");
    if (field.value.trim()) editCase({ add: [field.value] });
    field.value = "";
  });
  find(".wb-live").addEventListener("click", () => document.querySelector("#tokviz-compare")?.click());
  document.addEventListener("keydown", onKeys);
}
