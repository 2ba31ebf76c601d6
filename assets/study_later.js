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
    const answer = await fetch("tokviz/study.js");
    if (!answer.ok) throw new Error(`${answer.status} ${answer.statusText}`);
    const raise = (name, data) => {
      if (EVENTS.includes(name)) trigger(name, data);
    };
    new Function("element", "props", "trigger", "watch", await answer.text())(element, props, raise, watch);
  } catch (error) {
    console.error("tokviz: the section beneath the lanes could not be loaded", error);
    wanted = false;
    SIGNS.forEach((sign) => addEventListener(sign, begin, true));
  }
}

SIGNS.forEach((sign) => addEventListener(sign, begin, true));
