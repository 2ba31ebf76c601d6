// What the page shows and asks is kept in the address (what a link can carry: example, question, methods, parameters,
// budget, view) and in the browser's storage (the rest: which run is shown, the other fields). Reload and a second tab come
// back to it. In the head of the document, before any part of the page. Behind the # of the address, which no server and
// no log gets to see.

window.tokvizMemory = (() => {
  const NAME = "tokviz-state";
  const VIEW_NAMES = ["view", "a", "b", "scale"];
  const kept = { shown: "", form: null, view: null, file: null };
  const memory = {
    pending: false, // whether an answer to recall() is on its way
    defaults: () => ({}), // of a method's parameters, by its id; the menu of methods knows them
  };
  let later = 0;
  let returned = false;
  let untouched = null; // the form as it came, when there is nothing to come back to

  const read = (storage) => {
    try {
      const found = JSON.parse(storage().getItem(NAME));
      return found && typeof found === "object" ? found : null;
    } catch {
      return null; // a private window, or somebody else's text
    }
  };
  const write = (storage, state) => {
    try { storage().setItem(NAME, JSON.stringify(state)); } catch { /* a private window, or no room */ }
  };
  const [tab, browser] = [() => sessionStorage, () => localStorage];

  // fastv~layer=3~ratio=0.5,random: methods with what was set of their parameters.
  function methodsText(methods) {
    const changed = (id, params) => Object.entries(params || {}).filter(([name, value]) => value !== memory.defaults(id)[name]);
    const plain = (part) => encodeURIComponent(part).replaceAll("~", "%7E");
    return methods.map(([id, params]) => [id, ...changed(id, params).map(([name, value]) => `${name}=${value}`)].map(plain).join("~")).join(",");
  }

  function methodsOf(text) {
    return text.split(",").filter(Boolean).map((entry) => {
      const [id, ...params] = entry.split("~").map(decodeURIComponent);
      return [id, Object.fromEntries(params.map((param) => {
        const at = param.indexOf("=");
        return [param.slice(0, at), valueOf(param.slice(at + 1))];
      }))];
    });
  }

  function valueOf(text) {
    if (text === "true" || text === "false") return text === "true";
    return text.trim() !== "" && Number.isFinite(Number(text)) ? Number(text) : text;
  }

  function addressOf({ shown, form, view }, whole = false) {
    const parts = [];
    const add = (name, value) => { if (value !== null && value !== undefined && value !== "") parts.push(`${name}=${encodeURIComponent(value)}`); };
    if (shown.startsWith("example-")) add("example", document.documentElement.dataset.tokvizExampleName);
    if (form && (whole || JSON.stringify(form) !== untouched)) {
      add("question", form.question);
      if (form.methods.length) parts.push(`methods=${methodsText(form.methods)}`);
      add("budget", form.budget);
      if (form.budget_as !== "published") add("as", form.budget_as);
      if (form.seed) add("seed", form.seed);
      if (form.max_new_tokens && form.max_new_tokens !== 32) add("new", form.max_new_tokens);
    } else if (form) parts.length = 0; // the first screen has the bare address
    if (view) {
      if (view.view !== "kept") add("view", view.view);
      ["a", "b", "scale"].forEach((name) => add(name, view.settings[name]));
    }
    return parts.length ? `#compare?${parts.join("&")}` : "";
  }

  // Parts are decoded one by one: a comma or a tilde inside a value is not one between values.
  function fromAddress(address) {
    if (!address.startsWith("#compare?")) return null;
    const given = {};
    for (const part of address.replace(/^#compare\?/, "").split("&")) {
      const at = part.indexOf("=");
      try { if (at > 0) given[part.slice(0, at)] = part.startsWith("methods=") ? part.slice(at + 1) : decodeURIComponent(part.slice(at + 1)); } catch { /* broken */ }
    }
    const form = {};
    if (given.question !== undefined) form.question = given.question;
    if (given.budget !== undefined) form.budget = Number(given.budget);
    if (given.as !== undefined) form.budget_as = given.as;
    if (given.seed !== undefined) form.seed = Number(given.seed);
    if (given.new !== undefined) form.max_new_tokens = Number(given.new);
    try { if (given.methods !== undefined) form.methods = methodsOf(given.methods); } catch { /* a broken link: the rest of it still counts */ }
    const view = Object.fromEntries(VIEW_NAMES.filter((name) => given[name] !== undefined).map((name) => [name, given[name]]));
    if (!given.example && !Object.keys(form).length && !Object.keys(view).length) return null;
    return { example: given.example || "", form, view: { view: view.view || "kept", settings: { a: view.a, b: view.b, scale: view.scale } } };
  }

  // Of this tab; of the browser, where this address was last in use there or none is given; else what the address says.
  function found() {
    if (location.hash.startsWith("#failures")) return null; // mined cases are opened by the part that shows them
    const mine = read(tab);
    const last = read(browser);
    const linked = fromAddress(location.hash);
    if (!linked) return mine || last;
    return [mine, last].find((state) => state && state.address === location.hash) || linked;
  }

  const first = found();
  if (first) {
    Object.assign(kept, { shown: first.shown || "", view: first.view || null, file: first.file || null });
    memory.pending = true;
    setTimeout(() => memory.recalled(), 8000); // whatever becomes of the answer
  }

  function save() {
    const address = addressOf(kept);
    if (location.hash.startsWith("#failures")) return;
    const isOurs = !location.hash || location.hash.startsWith("#compare");
    if (isOurs && address !== location.hash) history.replaceState(history.state, "", location.pathname + location.search + address);
    const state = { ...kept, address, example: kept.shown.startsWith("example-") ? document.documentElement.dataset.tokvizExampleName || "" : "" };
    write(tab, state);
    write(browser, state);
  }

  function soon() {
    if (memory.pending) return; // what is on its way from the server would be overwritten by what it replaces
    clearTimeout(later);
    later = setTimeout(save, 150);
  }

  // A file that was chosen and not yet asked about belongs to no lanes: its place on the server is remembered until it is.
  document.addEventListener("tokviz:media", ({ detail: { file, byVisitor } }) => {
    if (memory.pending) return;
    kept.file = byVisitor && file ? { path: file.path, name: file.orig_name, mime: file.mime_type } : null;
    soon();
  });
  document.addEventListener("tokviz:asked", () => {
    kept.file = null;
    soon();
  });

  return Object.assign(memory, {
    view: () => kept.view,
    // What the server is asked for when the page opens: as text, empty when there is nothing to come back to.
    recall() {
      if (!first) return "";
      return JSON.stringify({ shown: first.shown || "", example: first.example || "", form: first.form || {}, file: first.file || null });
    },
    // Whether a file that the server puts into the form is the visitor's own choice, which came back.
    isChosen(file) {
      const is = Boolean(kept.file && file && file.path === kept.file.path);
      returned = returned || is;
      return is;
    },
    hasChosen: () => Boolean(kept.file),
    recalled() {
      if (!memory.pending) return;
      memory.pending = false;
      if (!returned) kept.file = null; // no longer on the server, which says so
      document.dispatchEvent(new CustomEvent("tokviz:recalled"));
      soon();
    },
    chosen(model) {
      document.documentElement.dataset.tokvizChosen = model || "";
      document.dispatchEvent(new CustomEvent("tokviz:chosen-model"));
    },
    remember(shown, form) {
      if (!first && untouched === null) untouched = JSON.stringify(form);
      kept.shown = shown || "";
      kept.form = form;
      soon();
    },
    look(view) {
      kept.view = view;
      soon();
    },
    address: () => addressOf(kept),
    link: () => location.origin + location.pathname + location.search + addressOf(kept, true),
  });
})();
