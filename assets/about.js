// The page About: a dialog of the browser's own, which keeps the focus inside and closes with Escape. Its address is
// #about, so that it can be linked to.

const about = element.querySelector(".ab-root");

function openAbout() {
  if (!about.open) about.showModal();
  about.scrollTop = 0;
  if (location.hash !== "#about") history.replaceState(history.state, "", "#about");
}

about.addEventListener("close", () => {
  if (location.hash === "#about") history.replaceState(history.state, "", location.pathname + location.search + (window.tokvizMemory?.address() ?? ""));
});
about.addEventListener("click", (event) => { if (event.target === about) about.close(); }); // the backdrop
about.querySelector(".ab-close").addEventListener("click", () => about.close());
about.querySelectorAll(".ab-picture").forEach(drawKind);
document.addEventListener("tokviz:about", openAbout);
addEventListener("hashchange", () => { if (location.hash === "#about") openAbout(); });
if (location.hash === "#about") openAbout();

// One picture per kind of methods: a small image of 8 x 8 patches with one object, and what such a method leaves of it.
// kept: rows of patches, # kept, . dropped, digits: merged into the kept patch of that group.
function drawKind(holder) {
  const rows = holder.dataset.patches.trim().split(/\s+/);
  const side = 12;
  const node = (tag, attributes) => {
    const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
    Object.entries(attributes).forEach(([name, value]) => made.setAttribute(name, value));
    return made;
  };
  const svg = node("svg", { viewBox: `0 0 ${rows[0].length * side} ${rows.length * side}`, "aria-hidden": "true" });
  const isObject = (row, column) => row >= 2 && row <= 4 && column >= 4 && column <= 6;
  rows.forEach((line, row) => [...line].forEach((sign, column) => {
    const kind = sign === "#" ? "kept" : sign === "." ? "dropped" : `group ab-group-${sign}`;
    const at = { x: column * side + 0.5, y: row * side + 0.5, width: side - 1, height: side - 1, rx: 1.5 };
    svg.append(node("rect", { ...at, class: `ab-patch ab-${kind}${isObject(row, column) ? " ab-object" : ""}` }));
  }));
  holder.append(svg);
}
