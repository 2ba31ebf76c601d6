// The menu of methods: reads props.families (fixed) and props.value {chosen, params, missing}; writes props.value.

const part = (name) => element.querySelector(`.tm-${name}`);
const MANY_LANES = 8;
const menu = { chosen: new Set(), params: {}, missing: {}, rows: new Map(), groups: [], published: "" };

function make(tag, className, text) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text !== undefined) node.textContent = text;
  return node;
}

function publish() {
  const value = { chosen: [...menu.rows.keys()].filter((id) => menu.chosen.has(id)), params: menu.params, missing: menu.missing };
  menu.published = JSON.stringify(value);
  props.value = JSON.parse(menu.published);
  trigger("input");
}

// --- choosing -------------------------------------------------------------------------------------------------------

function buildFamily(family) {
  const root = make("details", "tm-family");
  const summary = make("summary", "tm-summary tm-family-summary");
  const count = make("span", "tm-family-count");
  const line = make("span", "tm-family-line");
  line.append(make("span", "tm-family-name", family.label), count);
  summary.append(line, make("span", "tm-family-why", family.why));
  root.append(summary, ...family.methods.map(buildMethod));
  menu.groups.push({ root, count, ids: family.methods.map((method) => method.id) });
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
  box.addEventListener("change", () => {
    if (box.checked) menu.chosen.add(method.id);
    else menu.chosen.delete(method.id);
    publish();
    draw();
  });
  const name = make("span", "tm-label", method.label);
  label.append(box, name, claim, missing);
  root.append(label);
  if (method.paper && method.paper.url.startsWith("https://")) {
    const link = make("a", "tm-paper", `${method.paper.year} ↗`);
    Object.assign(link, { href: method.paper.url, target: "_blank", rel: "noopener noreferrer", title: method.paper.about });
    link.setAttribute("aria-label", `Paper of ${method.label}: ${method.paper.about}, opens in a new tab`);
    root.append(link);
  }
  menu.rows.set(method.id, { root, box, missing, method, settings: null });
  return root;
}

function draw() {
  menu.rows.forEach(({ root, box, missing }, id) => {
    const reason = menu.missing[id] || "";
    box.checked = menu.chosen.has(id);
    // What is chosen can always be taken out again.
    box.disabled = Boolean(reason) && !box.checked;
    missing.textContent = reason;
    root.classList.toggle("tm-unserved", Boolean(reason));
  });
  menu.groups.forEach(({ count, ids }) => {
    const on = ids.filter((id) => menu.chosen.has(id)).length;
    const unserved = ids.filter((id) => menu.missing[id]).length;
    count.textContent = [on ? `${on} of ${ids.length}` : `${ids.length}`, unserved ? `${unserved} unavailable` : ""].filter(Boolean).join(" · ");
    count.classList.toggle("tm-on", on > 0);
  });
  const n = menu.chosen.size;
  part("count").textContent = `${n} of ${menu.rows.size} chosen`;
  part("many").hidden = n <= MANY_LANES;
  part("many").textContent = `${n} methods and no pruning run one after another: ${n + 1} answers to wait for, ${n + 1} images to compare.`;
  drawSettings();
}

function openChosen() {
  menu.groups.forEach(({ root, ids }) => { root.open = root.open || ids.some((id) => menu.chosen.has(id)); });
}

// --- settings -------------------------------------------------------------------------------------------------------

function drawSettings() {
  const shown = [...menu.rows.values()].filter(({ method }) => menu.chosen.has(method.id) && method.params.length);
  part("all-settings").hidden = !shown.length;
  part("all-settings").querySelector("summary").textContent = `Settings of ${shown.length === 1 ? "1 chosen method" : `${shown.length} chosen methods`}`;
  const nodes = shown.map((row) => {
    row.settings = row.settings || buildSettings(row.method);
    row.settings.set();
    return row.settings.root;
  });
  const groups = part("groups");
  if (groups.children.length !== nodes.length || nodes.some((node, i) => groups.children[i] !== node)) groups.replaceChildren(...nodes);
}

function valueOf(method, param) {
  const given = (menu.params[method.id] || {})[param.name];
  return given === undefined || given === null ? param.default : given;
}

function buildSettings(method) {
  const root = make("section", "tm-group");
  const head = make("div", "tm-group-head");
  const reset = make("button", "tm-reset", "defaults");
  reset.type = "button";
  reset.setAttribute("aria-label", `Defaults of ${method.label}`);
  head.append(make("h3", "tm-group-title", method.label), reset);
  const controls = method.params.map((param) => buildControl(method, param));
  const set = () => {
    controls.forEach((control, i) => control.set(valueOf(method, method.params[i])));
    reset.hidden = method.params.every((param) => valueOf(method, param) === param.default);
  };
  reset.addEventListener("click", () => {
    delete menu.params[method.id];
    publish();
    set();
  });
  root.append(head, ...controls.map((control) => control.root));
  return { root, set };
}

// One control from its spec: choice, switch, number with or without a slider.
function buildControl(method, param) {
  const root = make("div", "tm-param");
  const id = `tokviz-${method.id}-${param.name}`;
  root.id = id;
  const label = make("label", "tm-param-label", param.label);
  label.htmlFor = `${id}-input`;
  const help = make("p", "tm-help", param.help);
  help.id = `${id}-help`;
  const change = (value) => {
    menu.params[method.id] = { ...menu.params[method.id], [param.name]: value };
    publish();
    menu.rows.get(method.id).settings.set();
  };
  const build = { bool: switchFor, choice: selectFor }[param.kind] || numberFor;
  const { nodes, input, set } = build(param, change);
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
    if (input.value.trim() === "" || !input.checkValidity() || !Number.isFinite(value)) menu.rows.forEach((row) => row.settings && row.settings.set());
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

// An update may hold any of the three keys; the others stay as they are in this browser.
function accept(value) {
  if (!value || JSON.stringify(value) === menu.published) return;
  if (value.chosen) menu.chosen = new Set(value.chosen.filter((id) => menu.rows.has(id)));
  if (value.params) menu.params = { ...menu.params, ...JSON.parse(JSON.stringify(value.params)) };
  if (value.missing) menu.missing = { ...value.missing };
  if (value.chosen) openChosen();
  draw();
  publish();
}

part("family-list").replaceChildren(...props.families.map(buildFamily));
watch("value", () => accept(props.value));
accept(props.value);
