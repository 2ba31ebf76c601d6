// The menu of methods: reads props.families, props.stack (JSON text), props.most (all fixed), props.value {chosen, missing}, which it writes.
// A method may be chosen more than once: each of its copies has parameters of its own and is a lane of its own.

const part = (name) => element.querySelector(`.tm-${name}`);
const MANY_LANES = 8;
const menu = { rows: new Map(), missing: {}, groups: [], published: "" };

function make(tag, className, text) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text !== undefined) node.textContent = text;
  return node;
}

function makeButton(className, text, name, act) {
  const button = make("button", className, text);
  button.type = "button";
  button.setAttribute("aria-label", name);
  button.addEventListener("click", act);
  return button;
}

function publish() {
  const chosen = [...menu.rows.values()].flatMap(({ method, copies }) => copies.map((copy) => [method.id, copy.params]));
  menu.published = JSON.stringify({ chosen, missing: menu.missing });
  props.value = JSON.parse(menu.published);
  trigger("input");
}

function update() {
  publish();
  draw();
}

// --- copies of a method ---------------------------------------------------------------------------------------------

function valueOf(copy, param) {
  const given = copy.params[param.name];
  return given === undefined || given === null ? param.default : given;
}

function valuesOf({ method }, copy) {
  return JSON.stringify(method.params.map((param) => valueOf(copy, param)));
}

// As the lanes will be labelled: with what is not the default, where a method runs more than once.
function variantOf(row, copy) {
  const changed = row.method.params.filter((param) => valueOf(copy, param) !== param.default);
  return changed.map((param) => `${param.name}=${shownValue(valueOf(copy, param))}`).join(", ");
}

function shownValue(value) {
  return typeof value === "number" && !Number.isInteger(value) ? String(Number(value.toPrecision(6))) : String(value);
}

function labelOf(row, copy) {
  const variant = new Set(row.copies.map((one) => valuesOf(row, one))).size > 1 ? variantOf(row, copy) : "";
  return variant ? `${row.method.label} (${variant})` : row.method.label;
}

// The earlier copy with the same settings, counted from 1; 0: there is none.
function sameAs(row, copy) {
  return row.copies.slice(0, row.copies.indexOf(copy)).findIndex((one) => valuesOf(row, one) === valuesOf(row, copy)) + 1;
}

function makeCopy(params) {
  return { params: { ...params }, settings: null };
}

function chosenTotal() {
  return [...menu.rows.values()].reduce((total, { copies }) => total + copies.length, 0);
}

// A copy begins as the last one was; as it is of no use before something is changed, its settings are opened.
function addCopy(row) {
  const copy = makeCopy(row.copies.at(-1).params);
  row.copies.push(copy);
  update();
  openSettings(copy);
}

function removeCopy(row, copy) {
  row.copies = row.copies.filter((one) => one !== copy);
  update();
  (row.copies.length ? row.again : row.box).focus();
}

function openSettings(copy) {
  part("all-settings").open = true;
  copy.settings.root.scrollIntoView({ block: "nearest" });
  copy.settings.root.querySelector("input, select").focus({ preventScroll: true });
}

// --- choosing -------------------------------------------------------------------------------------------------------

function buildFamily(family) {
  const root = make("details", "tm-family");
  const summary = make("summary", "tm-summary tm-family-summary");
  const count = make("span", "tm-family-count");
  const line = make("span", "tm-family-line");
  line.append(make("span", "tm-family-name", family.label), count);
  summary.append(line, make("span", "tm-family-why", family.why));
  const rows = family.methods.map(buildMethod);
  root.append(summary, ...rows.map((row) => row.root));
  menu.groups.push({ root, count, rows });
  return root;
}

function buildMethod(method) {
  const root = make("div", "tm-method");
  root.id = `tokviz-method-${method.id}`;
  const label = make("label", "tm-pick");
  const box = Object.assign(make("input"), { type: "checkbox" });
  const claim = make("span", "tm-claim", method.claim);
  const missing = make("span", "tm-missing");
  claim.id = `tokviz-claim-${method.id}`;
  missing.id = `tokviz-missing-${method.id}`;
  box.setAttribute("aria-describedby", `${claim.id} ${missing.id}`);
  const row = { root, box, missing, method, copies: [], before: [makeCopy({})], list: make("ul", "tm-copies") };
  // What is chosen again comes back as it was.
  box.addEventListener("change", () => {
    [row.copies, row.before] = box.checked ? [row.before, []] : [[], row.copies];
    update();
  });
  label.append(box, make("span", "tm-label", method.label), claim, missing);
  const aside = make("span", "tm-aside");
  row.again = makeButton("tm-again", "+", `Add ${method.label} again, with other settings`, () => addCopy(row));
  aside.append(row.again);
  root.append(label, aside, row.list);
  if (method.paper && method.paper.url.startsWith("https://")) {
    const link = make("a", "tm-paper", `${method.paper.year} ↗`);
    Object.assign(link, { href: method.paper.url, target: "_blank", rel: "noopener noreferrer", title: method.paper.about });
    link.setAttribute("aria-label", `Paper of ${method.label}: ${method.paper.about}, opens in a new tab`);
    aside.append(link);
  }
  menu.rows.set(method.id, row);
  return row;
}

// --- two methods on top of each other -------------------------------------------------------------------------------

// Made of what tokviz/pruners/stack.py makes it of: the share, and the parameters of both under names of their own.
const recipe = JSON.parse(props.stack);
const filled = (words, values) => words.replace(/\{(\w+)\}/g, (_, name) => values[name]);

function stackOf(first, second) {
  const labels = { first: first.label, second: second.label };
  const own = (place, method) => method.params.map((param) => ({
    ...param, name: filled(recipe.param.name, { place, name: param.name }), label: filled(recipe.param.label, { method: method.label, label: param.label }),
  }));
  return {
    id: first.id + recipe.join + second.id, parts: [first.id, second.id], label: filled(recipe.label, labels), claim: filled(recipe.claim, labels),
    paper: null, params: [recipe.share, ...own("first", first), ...own("second", second)],
  };
}

// The row of a stack, made when it is first asked for; undefined where one of its methods is unknown.
function stackRow(id) {
  const [first, second, more] = id.split(recipe.join).map((part) => menu.rows.get(part)?.method);
  if (menu.rows.has(id) || !first || !second || more) return menu.rows.get(id);
  const row = buildMethod(stackOf(first, second));
  part("stack-list").append(row.root);
  part("stacks").open = true;
  return row;
}

function buildStackMaker() {
  const methods = [...menu.rows.values()].map(({ method }) => method);
  const pick = (place, name) => {
    const select = make("select", "tm-stack-pick");
    select.setAttribute("aria-label", name);
    select.append(...methods.filter((method) => method.place === place)
      .map((method) => Object.assign(make("option", "", method.label), { value: method.id })));
    return select;
  };
  const [first, second] = [pick("first", "Method before the LLM"), pick("second", "Method inside the LLM")];
  const add = makeButton("tm-stack-add", "Add", "Add this stack", () => {
    const row = stackRow(first.value + recipe.join + second.value);
    if (row.copies.length) return row.root.scrollIntoView({ block: "nearest" });
    row.box.click();
  });
  menu.stackMaker = { first, second, add };
  part("stack-new").append(first, make("span", "tm-stack-plus", "+"), second, add);
  part("stacks").hidden = !first.options.length || !second.options.length;
}

function missingOf(method) {
  return [method.id, ...(method.parts || [])].map((id) => menu.missing[id]).find(Boolean) || "";
}

function drawRow(row, isFull) {
  const { root, box, missing, method, copies, again } = row;
  const reason = missingOf(method);
  box.checked = copies.length > 0;
  // What is chosen can always be taken out again.
  box.disabled = Boolean(reason) && !box.checked;
  missing.textContent = reason;
  root.classList.toggle("tm-unserved", Boolean(reason));
  again.hidden = !copies.length || !method.params.length;
  again.disabled = isFull;
  again.title = isFull ? `At most ${props.most} entries` : "Add again, with other settings";
  row.list.replaceChildren(...(copies.length > 1 ? copies.map((copy) => copyLine(row, copy)) : []));
}

function copyLine(row, copy) {
  const line = make("li", "tm-copy");
  const [words, label] = [variantOf(row, copy) || "default settings", labelOf(row, copy)];
  const same = sameAs(row, copy);
  line.append(makeButton("tm-copy-name", words, `Settings of ${label}`, () => openSettings(copy)),
    makeButton("tm-copy-remove", "×", `Remove ${label}`, () => removeCopy(row, copy)));
  if (same) line.append(make("span", "tm-copy-same", "same as above, runs once"));
  return line;
}

function draw() {
  const n = chosenTotal();
  menu.rows.forEach((row) => drawRow(row, n >= props.most));
  menu.stackMaker.add.disabled = n >= props.most;
  menu.groups.forEach(({ count, rows }) => {
    const on = rows.filter(({ copies }) => copies.length).length;
    const unserved = rows.filter(({ method }) => menu.missing[method.id]).length;
    count.textContent = [on ? `${on} of ${rows.length}` : `${rows.length}`, unserved ? `${unserved} unavailable` : ""].filter(Boolean).join(" · ");
    count.classList.toggle("tm-on", on > 0);
  });
  const methods = [...menu.rows.values()].filter(({ copies }) => copies.length).length;
  part("count").textContent = `${methods} of ${menu.rows.size} chosen${n > methods ? ` + ${n - methods} ${n - methods === 1 ? "copy" : "copies"}` : ""}`;
  part("many").hidden = n <= MANY_LANES;
  part("many").textContent = `${n} methods and the unpruned model run one after another: ${n + 1} answers to wait for, ${n + 1} images to compare.`;
  drawSettings();
}

function openChosen() {
  menu.groups.forEach(({ root, rows }) => { root.open = root.open || rows.some(({ copies }) => copies.length); });
}

// --- settings -------------------------------------------------------------------------------------------------------

function drawSettings() {
  const shown = [...menu.rows.values()].filter(({ method }) => method.params.length)
    .flatMap((row) => row.copies.map((copy) => [row, copy]));
  part("all-settings").hidden = !shown.length;
  part("all-settings").querySelector("summary").textContent = `Settings of ${shown.length === 1 ? "the chosen method" : `the ${shown.length} chosen methods`}`;
  const nodes = shown.map(([row, copy]) => {
    copy.settings = copy.settings || buildSettings(row, copy);
    copy.settings.set();
    return copy.settings.root;
  });
  const groups = part("groups");
  if (groups.children.length !== nodes.length || nodes.some((node, i) => groups.children[i] !== node)) groups.replaceChildren(...nodes);
}

let groupsBuilt = 0;

function buildSettings(row, copy) {
  const { method } = row;
  const root = make("section", "tm-group");
  root.dataset.method = method.id;
  groupsBuilt += 1;
  const head = make("div", "tm-group-head");
  const title = make("h3", "tm-group-title");
  const reset = makeButton("tm-reset", "defaults", "", () => { copy.params = {}; update(); });
  const remove = makeButton("tm-reset", "remove", "", () => removeCopy(row, copy));
  const same = make("p", "tm-copy-same");
  head.append(title, reset, remove);
  const change = (name, value) => { copy.params = { ...copy.params, [name]: value }; update(); };
  const controls = method.params.map((param) => buildControl(`tokviz-${method.id}-${groupsBuilt}-${param.name}`, param, change));
  const set = () => {
    const label = labelOf(row, copy);
    title.textContent = label;
    reset.setAttribute("aria-label", `Defaults of ${label}`);
    remove.setAttribute("aria-label", `Remove ${label}`);
    controls.forEach((control, i) => control.set(valueOf(copy, method.params[i])));
    reset.hidden = !variantOf(row, copy);
    remove.hidden = row.copies.length < 2;
    same.textContent = sameAs(row, copy) ? "The same settings as above: both would be the same run. Change a setting." : "";
  };
  root.append(head, same, ...controls.map((control) => control.root));
  return { root, set };
}

// One control from its spec: choice, switch, number with or without a slider.
function buildControl(id, param, change) {
  const root = make("div", "tm-param");
  root.dataset.param = param.name;
  const label = make("label", "tm-param-label", param.label);
  label.htmlFor = `${id}-input`;
  const help = make("p", "tm-help", param.help);
  help.id = `${id}-help`;
  const build = { bool: switchFor, choice: selectFor }[param.kind] || numberFor;
  const { nodes, input, set } = build(param, (value) => change(param.name, value));
  input.id = `${id}-input`;
  nodes.forEach((node) => node.setAttribute("aria-describedby", help.id));
  root.append(label, ...nodes, help);
  root.classList.add(`tm-kind-${param.kind}`);
  return { root, set };
}

function switchFor(param, change) {
  const input = Object.assign(make("input"), { type: "checkbox" });
  input.addEventListener("change", () => change(input.checked));
  return { nodes: [input], input, set: (value) => { input.checked = Boolean(value); } };
}

function selectFor(param, change) {
  const input = make("select");
  input.append(...param.choices.map((choice) => Object.assign(make("option", "", choice), { value: choice })));
  input.addEventListener("change", () => change(input.value));
  return { nodes: [input], input, set: (value) => { input.value = String(value); } };
}

function numberFor(param, change) {
  const bounded = param.minimum !== null && param.maximum !== null;
  const step = param.step || (param.kind === "int" ? 1 : "any");
  const limits = { step };
  if (param.minimum !== null) limits.min = param.minimum;
  if (param.maximum !== null) limits.max = param.maximum;
  const input = Object.assign(make("input", "tm-number"), { type: "number", ...limits, step: param.kind === "int" ? 1 : "any" });
  const slider = bounded ? Object.assign(make("input", "tm-slider"), { type: "range", ...limits }) : null;
  const set = (value) => {
    input.value = String(value);
    if (slider) slider.value = String(value);
  };
  // What cannot be a value of this parameter goes back to what it was.
  input.addEventListener("change", () => {
    const value = Number(input.value);
    if (input.value.trim() === "" || !input.checkValidity() || !Number.isFinite(value)) drawSettings();
    else change(value);
  });
  if (slider) {
    slider.setAttribute("aria-label", param.label);
    slider.addEventListener("input", () => { input.value = slider.value; });
    slider.addEventListener("change", () => change(Number(slider.value)));
  }
  return { nodes: slider ? [slider, input] : [input], input, set };
}

// --- values from Python ---------------------------------------------------------------------------------------------

// An update may hold either key; the other stays as it is in this browser.
function accept(value) {
  if (!value || JSON.stringify(value) === menu.published) return;
  if (value.chosen) {
    const entries = value.chosen.map((entry) => (typeof entry === "string" ? [entry, {}] : entry));
    entries.forEach(([id]) => id.includes(recipe.join) && stackRow(id));
    menu.rows.forEach((row, id) => {
      const copies = entries.filter(([method]) => method === id).map(([, params]) => makeCopy(params));
      if (!copies.length && row.copies.length) row.before = row.copies;
      row.copies = copies;
    });
    openChosen();
  }
  if (value.missing) menu.missing = { ...value.missing };
  update();
}

// A method is wanted as a lane: chosen here, and asked at once. Gradio hears of the choice before it hears of the press.
document.addEventListener("tokviz:add-lane", ({ detail }) => {
  const row = menu.rows.get(detail);
  if (!element.isConnected || !row) return;
  if (!row.copies.length) row.box.click();
  setTimeout(() => document.querySelector("#tokviz-compare").click(), 50);
});

part("family-list").replaceChildren(...JSON.parse(props.families).map(buildFamily));
buildStackMaker();
if (window.tokvizMemory) {
  window.tokvizMemory.defaults = (id) => Object.fromEntries((menu.rows.get(id)?.method.params || []).map((param) => [param.name, param.default]));
}
watch("value", () => accept(props.value));
accept(props.value);
