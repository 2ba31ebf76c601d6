// The section beneath the lanes is loaded when the visitor does anything at all: the first lanes need not wait for it.

// What its scripts raise: Gradio takes the names of a component's events from here.
const EVENTS = ["study", "halt", "leave", "load_run"];
const SIGNS = ["pointermove", "pointerdown", "keydown", "wheel", "touchstart", "scroll"];
let wanted = false;

async function begin() {
  if (wanted) return;
  wanted = true;
  SIGNS.forEach((sign) => removeEventListener(sign, begin, true));
  try {
    const studies = await import(new URL("tokviz/study.js", document.baseURI).href);
    studies.default(element, props, (name, data) => { if (EVENTS.includes(name)) trigger(name, data); }, watch);
  } catch (error) {
    console.error("tokviz: the section beneath the lanes could not be loaded", error);
    wanted = false;
    SIGNS.forEach((sign) => addEventListener(sign, begin, true));
  }
}

SIGNS.forEach((sign) => addEventListener(sign, begin, true));
