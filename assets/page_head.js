const root = document.documentElement;
function showChips() {
  for (const [name, text] of [["model", root.dataset.tokvizModel], ["setting", root.dataset.tokvizSetting]]) {
    const chip = element.querySelector(`[data-chip="${name}"]`);
    chip.textContent = text || "";
    chip.hidden = !text;
  }
}
new MutationObserver(showChips).observe(root, { attributes: true, attributeFilter: ["data-tokviz-model", "data-tokviz-setting"] });
showChips();
element.querySelector(".tokviz-theme").addEventListener("click", () => document.body.classList.toggle("dark"));

// The tour is loaded when somebody asks for it.
let guide = null;
element.querySelector('[data-open="guide"]').addEventListener("click", async ({ currentTarget }) => {
  guide ??= import(new URL("tokviz/guide.js", document.baseURI).href).then((loaded) => loaded.default(element, props, trigger, watch));
  try {
    await guide;
    document.dispatchEvent(new CustomEvent("tokviz:guide", { detail: currentTarget }));
  } catch (error) {
    console.error("tokviz: the guide could not be loaded", error);
    guide = null;
  }
});
element.querySelector('[data-open="about"]').addEventListener("click", () => document.dispatchEvent(new CustomEvent("tokviz:about")));

// Mined cases, on a server that has a run: their part of the page is loaded when somebody is about to ask for it.
const pages = element.querySelector(".tokviz-nav");
pages.hidden = !props.has_failures;
["pointerenter", "focus"].forEach((sign) => pages.lastElementChild.addEventListener(sign, () => document.dispatchEvent(new CustomEvent("tokviz:failures"))));

// The address behind # holds the page's state: a jump must not replace it.
element.querySelector(".tokviz-jump").addEventListener("click", (event) => {
  event.preventDefault();
  document.querySelector("#tokviz-request").scrollIntoView();
});

// Tab leaves Gradio's menus open over the form: they take any key, Shift too, for a wish to be open, and put their list,
// which scrolls, in the way. A menu that hears of neither key closes when it is left.
const LEAVING = ["Tab", "Shift"];
document.addEventListener("keydown", (event) => {
  const menu = LEAVING.includes(event.key) && event.target.closest('[role="combobox"][readonly]');
  if (!menu) return;
  const list = document.getElementById(menu.getAttribute("aria-controls"));
  if (list) list.tabIndex = -1;
  event.stopImmediatePropagation();
}, true);

// Gradio brings the parts of the page one after another, and each pushes others down: they are shown when the last is in
// place (page.css shows them after some seconds whatever happens here).
const PARTS = ["#tokviz-model input", ".mf-root", "#tokviz-question textarea", "#tokviz-facts textarea, #tokviz-facts input",
  "#tokviz-budget input", "#tokviz-share textarea, #tokviz-share input", "#tokviz-budgets button:nth-of-type(4)",
  "#tokviz-method-menu .tm-method", "#tokviz-stop", ".tv-root[data-ready]"];

async function reveal() {
  await Promise.race([document.fonts.ready, new Promise((done) => setTimeout(done, 1000))]);
  markTerms();
  // Gradio's own words at the foot of the page, with its rocket.
  document.querySelector("footer .show-api")?.replaceChildren("API and Python");
  requestAnimationFrame(() => { root.dataset.tokvizReady = ""; });
}

function isComplete() {
  return !window.tokvizMemory?.pending && PARTS.every((selector) => document.querySelector(selector));
}

function arrived() {
  if (!isComplete()) return;
  arrivals.disconnect();
  document.removeEventListener("tokviz:recalled", arrived);
  reveal();
}

const arrivals = new MutationObserver(arrived);
document.addEventListener("tokviz:recalled", arrived);
arrivals.observe(document.body, { childList: true, subtree: true });
