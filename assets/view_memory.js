// View settings are kept by the page (page_memory.js), where there is one: which view, opacities, scale, sides.

function settingsToKeep() {
  const { replay, ...settings } = state.settings; // a replay is over when the page is left
  return { view: state.view, opacity: state.opacity, settings: { ...settings, largest: Number.isFinite(settings.largest) ? settings.largest : null } };
}

function keepSettings() {
  window.tokvizMemory?.look(settingsToKeep());
}

const isShare = (value) => typeof value === "number" && value >= 0 && value <= 1;

// What comes from an address or from storage may be anything: only what a control could have set is taken.
function recallSettings() {
  const kept = window.tokvizMemory?.view();
  if (!kept || typeof kept !== "object") return;
  if (VIEWS.includes(kept.view)) state.view = kept.view;
  for (const view of VIEWS) if (isShare(kept.opacity?.[view])) state.opacity[view] = kept.opacity[view];
  const given = kept.settings || {};
  const taken = {
    scale: [null, "linear", "log", "rank"].includes(given.scale) ? given.scale : undefined,
    largest: given.largest === null ? Infinity : Number.isInteger(given.largest) && given.largest > 0 ? given.largest : undefined,
    reach: [1, 2, 3, 5].includes(given.reach) ? given.reach : undefined,
    compact: given.compact === true,
    sort: SORTS.includes(given.sort) && given.sort !== "own" ? given.sort : undefined,
    a: typeof given.a === "string" ? given.a : undefined,
    b: typeof given.b === "string" ? given.b : undefined,
  };
  Object.entries(taken).forEach(([name, value]) => { if (value !== undefined) state.settings[name] = value; });
  const radio = element.querySelector(`input[name="tv-view"][value="${state.view}"]`);
  if (radio) radio.checked = true;
  part("opacity").querySelector("input").value = String(Math.round(100 * state.opacity[state.view]));
}

// The link carries the example, the question, the methods with what was set, the budget and the view; no image of the
// visitor's own. It needs nothing that the server keeps.
async function copyLink({ currentTarget: button }) {
  const link = window.tokvizMemory?.link() ?? location.href;
  let said = link.includes("example=") ? "Link copied" : "Copied, without the image";
  try {
    await navigator.clipboard.writeText(link);
  } catch { // closed to the page (plain http)
    window.prompt("Copy this link", link);
    said = "Copy link";
  }
  button.textContent = said;
  setTimeout(() => { button.textContent = "Copy link"; }, 2000);
}
