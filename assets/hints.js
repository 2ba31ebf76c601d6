// Short explanations where a term stands. Whatever has data-hint says it under the pointer, under the focus, or on a tap;
// data-term names one of the terms below. One bubble for the whole page, which takes no room in it.

const TERMS = {
  "visual token": "A vision-language model cuts an image into patches and turns each into one visual token, which its language model reads like a word. Pruning drops some of them.",
  budget: "How many visual tokens a method may leave. Fewer cost less time and memory, and lose more of the image.",
  "counted as": "Methods that drop tokens layer by layer leave more at first and fewer later. This says which of the numbers the budget is: the one their paper reports, the count after the last stage, or the mean over all layers.",
  evidence: "The patches that show what the question asks about, where it is known. A method that drops them has to guess.",
  prefill: "The model's first pass, over the whole prompt with its visual tokens, before it writes the first word. This is what pruning shortens.",
  "KV cache": "Keys and values of every token in every layer, which the model keeps in memory while it answers.",
  nats: "Natural logarithms of probabilities: 0.7 nats less is half as likely, 2.3 nats less a tenth.",
  "effective rank": "How many independent directions the kept features span: few, when they resemble each other.",
  "answer margin": "By how much the first token of the answer leads the runner-up, in nats. Near 0, the model might as well have said something else.",
};
const bubble = document.createElement("div");
bubble.className = "tokviz-bubble";
bubble.id = "tokviz-bubble";
bubble.setAttribute("role", "tooltip");
bubble.hidden = true;
document.body.append(bubble);
let hinted = null;

// What is chosen already is explained by what it shows.
const hintOf = (node) => (node.getAttribute("aria-selected") === "true" ? "" : node.dataset.hint || TERMS[node.dataset.term] || "");
const hintable = (event) => (event.target instanceof Element ? event.target.closest("[data-hint], [data-term]") : null);

function hint(node) {
  if (hinted === node) return;
  if (hinted) hinted.removeAttribute("aria-describedby");
  hinted = node;
  bubble.hidden = !node || !hintOf(node);
  if (bubble.hidden) return;
  bubble.textContent = hintOf(node);
  node.setAttribute("aria-describedby", bubble.id);
  const [at, own] = [node.getBoundingClientRect(), bubble.getBoundingClientRect()];
  const left = Math.min(Math.max(at.left, 8), innerWidth - own.width - 8);
  const below = at.bottom + 6 + own.height < innerHeight;
  bubble.style.left = `${Math.max(left, 8)}px`;
  bubble.style.top = `${below ? at.bottom + 6 : Math.max(at.top - own.height - 6, 6)}px`;
}

document.addEventListener("pointerover", (event) => hint(hintable(event)));
document.addEventListener("focusin", (event) => hint(hintable(event)));
document.addEventListener("focusout", () => hint(null));
document.addEventListener("click", (event) => {
  if (event.target instanceof Element && event.target.closest(".tokviz-what")) hint(hintable(event));
  else if (hinted && !hintOf(hinted)) hint(null);
});
document.addEventListener("keydown", (event) => { if (event.key === "Escape") hint(null); });
document.addEventListener("scroll", () => hint(null), { capture: true, passive: true });

// A question mark behind the labels of Gradio's fields, beside them and not inside: the name of a field stays its own.
const MARKED = [["#tokviz-budget label", "budget"], ["#tokviz-counted-as [data-testid='block-info']", "counted as"]];

function markTerms() {
  for (const [selector, term] of MARKED) {
    const label = document.querySelector(selector);
    if (!label || label.parentElement.querySelector(".tokviz-what")) continue;
    const mark = document.createElement("button");
    Object.assign(mark, { type: "button", className: "tokviz-what", textContent: "?" });
    mark.dataset.term = term;
    mark.setAttribute("aria-label", `What does “${label.textContent.trim()}” mean?`);
    label.after(mark);
  }
}
