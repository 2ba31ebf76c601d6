// The numbers of a lane. Narrow lanes show those that tell most, the others on demand: in all lanes at once, so that they
// stay beside each other.

// Which of the page's terms a number is about; the words are in hints.js.
const NUMBER_TERMS = [[/^visual tokens|^mean per layer/, "visual token"], [/evidence|absorbed|carried/, "evidence"], [/prefill/, "prefill"],
  [/KV/, "KV cache"], [/effective rank/, "effective rank"], [/margin/, "answer margin"]];
const MAJOR = /^(visual tokens|before withdrawal|mean per layer|evidence (into LLM|absorbed|lost|at end)|absorbed at end|lost at end|prefill|KV cache)$/;

function fillNumbers(lane, numbers) {
  // How times were measured is said once, where it starts or changes.
  const shown = numbers.map((number, i) => {
    const before = numbers.slice(0, i).map((other) => other.how).filter(Boolean).pop();
    return { ...number, how: number.how === before ? "" : number.how };
  });
  const nodes = shown.flatMap((number) => numberNodes(number, lane.number === 0));
  if (numbers.some(({ label }) => !MAJOR.test(label))) nodes.push(allNumbersButton(lane.data.label));
  lane.numbers.replaceChildren(...nodes);
}

// Terms of the first lane can be reached by keys; those of the others say the same.
function numberNodes(number, isFirst) {
  const term = make("dt");
  const name = make("span", "", number.label);
  const known = NUMBER_TERMS.find(([pattern]) => pattern.test(number.label));
  if (known) name.dataset.term = known[1];
  if (known && isFirst) name.tabIndex = 0;
  term.append(name);
  if (number.how) term.append(make("span", "tv-how", number.how));
  const value = make("dd", `tv-value tv-${number.look}`);
  value.append(make("span", "", number.value));
  const nodes = [term, value, make("dd", "tv-ratio", number.ratio)];
  if (!MAJOR.test(number.label)) nodes.forEach((node) => node.classList.add("tv-minor"));
  return nodes;
}

function allNumbersButton(label) {
  const holder = make("dd", "tv-all-numbers");
  const button = make("button", "tv-more", "all numbers");
  button.type = "button";
  button.setAttribute("aria-label", `All numbers of ${label}`);
  button.addEventListener("click", () => {
    const open = part("lanes").classList.toggle("tv-numbers-open");
    part("lanes").querySelectorAll(".tv-all-numbers button").forEach((one) => { one.textContent = open ? "fewer numbers" : "all numbers"; });
    keepRoom();
  });
  holder.append(button);
  return holder;
}
