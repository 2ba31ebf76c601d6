// The examples as cards: image, question, which kinds of methods lose the answer and which keep it. The value holds what the
// cards show; a press adds which one was chosen. The card that is lit is the example that the view shows, which the view
// alone knows: it writes its number on the document.

const root = element.querySelector(".ep-root");
const row = element.querySelector(".ep-row");
const all = element.querySelector(".ep-all");
const page = document.documentElement;

function make(tag, className, text) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text !== undefined) node.textContent = text;
  return node;
}

// kinds: [[family, [names of its methods that lose or keep the answer]], ...]; all names show under the pointer.
function kindsLine(className, sign, words, kinds) {
  const line = make("span", `ep-kinds ${className}`);
  line.append(make("b", "", sign), ` ${kinds.map(([family]) => family).join(", ") || "none"}`);
  line.dataset.hint = kinds.length ? `${words}: ${kinds.map(([family, names]) => `${family} (${names.join(", ")})`).join("; ")}` : "";
  return line;
}

function card({ question, thumb, video, loses, wins }, index) {
  const button = make("button", "ep-card");
  button.type = "button";
  const picture = make("span", video ? "ep-thumb ep-film" : "ep-thumb");
  if (thumb.startsWith("data:image/")) picture.append(Object.assign(make("img"), { src: thumb, alt: "", width: 60, height: 60 }));
  button.append(picture, make("span", "ep-question", question));
  if (loses.length || wins.length) button.append(kindsLine("ep-loses", "✗", "Lose the answer", loses), kindsLine("ep-wins", "✓", "Keep it", wins));
  button.setAttribute("aria-label", [video ? `Video: ${question}` : question, loses.length ? `lost by ${loses.map(([family]) => family).join(", ")}` : "",
    wins.length ? `kept by ${wins.map(([family]) => family).join(", ")}` : ""].filter(Boolean).join("; "));
  button.addEventListener("click", () => {
    props.value = { cards: props.value.cards, chosen: index };
    trigger("select");
  });
  const item = make("li");
  item.append(button);
  return item;
}

function light() {
  const shown = page.dataset.tokvizExample;
  row.querySelectorAll(".ep-card").forEach((button, i) => {
    const lit = String(i) === shown;
    if (lit && !button.hasAttribute("aria-current")) {
      button.setAttribute("aria-current", "true");
      // Only sideways: the page stays where it is.
      const [mine, its] = [button.getBoundingClientRect(), row.getBoundingClientRect()];
      if (mine.left < its.left || mine.right > its.right - 62) row.scrollLeft += mine.left - its.left - 40;
    } else if (!lit) button.removeAttribute("aria-current");
  });
}

function tellMore() {
  const open = root.classList.contains("ep-open");
  all.hidden = !open && row.scrollWidth <= row.clientWidth + 2;
  all.textContent = open ? "Show one row" : `All ${row.children.length} ›`;
  all.setAttribute("aria-expanded", String(open));
  all.setAttribute("aria-label", open ? "Show the examples in one row" : `Show all ${row.children.length} examples`);
}

row.replaceChildren(...props.value.cards.map(card));
all.addEventListener("click", () => {
  root.classList.toggle("ep-open");
  tellMore();
});
new MutationObserver(light).observe(page, { attributes: true, attributeFilter: ["data-tokviz-example"] });
new ResizeObserver(tellMore).observe(row);
light();
tellMore();
