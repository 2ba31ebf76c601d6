// A short tour. Each step points at a real control, which stays usable: the frame around it lets the pointer through.

const STEPS = [
  ["#tokviz-examples", "Start with a case", "Each card is a question that some methods still answer after pruning and others do not. The answers are stored, so nothing has to run."],
  [".tv-lane", "Answer first, then the reason", "A lane is one method: its answer, and below it the image as that method leaves it. Hatched patches were dropped. The dashed frame is the evidence. Point at a patch: the same one lights up in every lane. A click pins it."],
  [".tv-bar", "Ask the picture other questions", "Scores, the order of picking, what was merged into what, where each token was dropped, two methods against each other, or against chance."],
  ["#tokviz-image", "Bring your own image", "Drop, paste or choose an image or a video, and write a question."],
  [".tokviz-card:has(#tokviz-budget)", "Set the budget", "How many visual tokens may remain. The buttons set the numbers that papers report."],
  ["#tokviz-methods", "Pick methods", "One of each kind shows most. Random is the baseline that every method has to beat."],
  ["#tokviz-compare", "Compare", "The unpruned model and each method answer one after another. Stop keeps what is finished."],
  [".ts-root", "Look closer", "Sweep the budgets, look inside the layers, find how deep the image matters, edit the kept tokens by hand, or find the dropped part that would have saved the answer."],
  ["#tokviz-tabs", "Take it with you", "All numbers as a table, figures for a paper, and the session as a file that opens here again."],
];
const tour = { at: -1, root: null, ring: null, from: null };

function buildTour() {
  const element = (tag, className, text) => Object.assign(document.createElement(tag), { className, textContent: text || "" });
  tour.ring = element("div", "tokviz-ring");
  tour.root = element("div", "tokviz-tour");
  tour.root.setAttribute("role", "dialog");
  tour.root.setAttribute("aria-labelledby", "tokviz-tour-title");
  tour.root.setAttribute("aria-describedby", "tokviz-tour-text");
  const title = Object.assign(element("h2", "tokviz-tour-title"), { id: "tokviz-tour-title", tabIndex: -1 });
  const words = Object.assign(element("p", "tokviz-tour-text"), { id: "tokviz-tour-text" });
  const foot = element("div", "tokviz-tour-foot");
  const count = element("span", "tokviz-tour-count");
  const button = (text, className, act) => {
    const made = Object.assign(element("button", className, text), { type: "button" });
    made.addEventListener("click", act);
    return made;
  };
  const back = button("Back", "tokviz-tour-back", () => goTo(tour.at - 1));
  const next = button("Next", "tokviz-tour-next", () => goTo(tour.at + 1));
  foot.append(count, back, next);
  tour.root.append(button("×", "tokviz-tour-close", endTour), title, words, foot);
  tour.root.querySelector(".tokviz-tour-close").setAttribute("aria-label", "Close the guide");
  tour.root.addEventListener("keydown", (event) => {
    if (event.key === "ArrowRight") goTo(tour.at + 1);
    else if (event.key === "ArrowLeft") goTo(tour.at - 1);
    else return;
    event.preventDefault();
  });
  Object.assign(tour, { title, words, count, back, next });
  document.body.append(tour.ring, tour.root);
}

// What is not on the page (no examples, no lanes yet) is left out.
const stepsNow = () => STEPS.filter(([selector]) => document.querySelector(selector)?.getClientRects().length);

function startTour(from) {
  if (!tour.root) buildTour();
  tour.from = from;
  tour.root.hidden = tour.ring.hidden = false;
  goTo(0);
}

function endTour() {
  if (!tour.root || tour.root.hidden) return;
  tour.root.hidden = tour.ring.hidden = true;
  tour.at = -1;
  tour.from?.focus();
}

function goTo(step) {
  const steps = stepsNow();
  if (step >= steps.length) return endTour();
  tour.at = Math.max(step, 0);
  const [selector, title, words] = steps[tour.at];
  tour.title.textContent = title;
  tour.words.textContent = words;
  tour.count.textContent = `${tour.at + 1} of ${steps.length}`;
  tour.back.disabled = tour.at === 0;
  tour.next.textContent = tour.at === steps.length - 1 ? "Done" : "Next";
  const target = document.querySelector(selector);
  const box = target.getBoundingClientRect();
  if (box.top < 0 || box.bottom > innerHeight) target.scrollIntoView({ block: box.height > innerHeight * 0.5 ? "start" : "center" });
  place();
  tour.title.focus({ preventScroll: true });
}

// The frame on the control; the words beside it, where there is most room.
function place() {
  if (tour.at < 0) return;
  const target = document.querySelector(stepsNow()[tour.at]?.[0] || "body");
  const box = target.getBoundingClientRect();
  const pad = 5;
  const top = Math.max(box.top - pad, 3);
  const bottom = Math.min(box.bottom + pad, innerHeight - 3);
  Object.assign(tour.ring.style, { left: `${Math.max(box.left - pad, 3)}px`, top: `${top}px`, width: `${Math.min(box.width + 2 * pad, innerWidth - 6)}px`, height: `${Math.max(bottom - top, 0)}px` });
  const own = tour.root.getBoundingClientRect();
  const beside = innerWidth - box.right > own.width + 24;
  const fitsBelow = innerHeight - bottom > own.height + 12;
  const left = beside && !fitsBelow ? box.right + 14 : Math.min(Math.max(box.left, 10), innerWidth - own.width - 10);
  const y = beside && !fitsBelow ? Math.min(top, innerHeight - own.height - 10) : fitsBelow ? bottom + 8 : top - own.height - 8 > 6 ? top - own.height - 8 : innerHeight - own.height - 10;
  Object.assign(tour.root.style, { left: `${left}px`, top: `${Math.max(y, 8)}px` });
}

document.addEventListener("keydown", (event) => { if (event.key === "Escape") endTour(); });
addEventListener("resize", place);
document.addEventListener("scroll", place, { capture: true, passive: true });

document.addEventListener("tokviz:guide", ({ detail }) => startTour(detail));
