// The failures are loaded when somebody points at their link, or is there: by a press, the way back, or an address.

// What its scripts raise: Gradio takes the names of a component's events from here.
const EVENTS = ["select"];
const waiting = element.querySelector(".wb-waiting");
const isThere = () => location.hash.startsWith("#failures");
let loading = null;

async function loadFailures() {
  try {
    const failures = await import(new URL("tokviz/failures.js", document.baseURI).href);
    failures.default(element, props, (name, data) => { if (EVENTS.includes(name)) trigger(name, data); }, watch);
  } catch (error) {
    console.error("tokviz: the failures could not be loaded", error);
    loading = null;
    waiting.textContent = "The failures could not be loaded. If the server is running, reload the page.";
  }
}

// Until the scripts are there and read the address, which takes this line away, the page is already the one asked for.
function arrive() {
  if (!waiting.isConnected) return;
  waiting.hidden = !isThere();
  document.documentElement.dataset.tokvizPlace = isThere() ? (/[?&]case=\d/.test(location.hash) ? "case" : "failures") : "compare";
  if (isThere()) loading ??= loadFailures();
}

document.addEventListener("tokviz:failures", () => { loading ??= loadFailures(); });
addEventListener("popstate", arrive);
if (isThere()) arrive();
