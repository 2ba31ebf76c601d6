// Which methods lose the answer of a stored case: all that were asked when it was found, not only those that are shown.
// A press on one adds it as a lane: the page asks again with it.

function fillOutcomes(payload) {
  const found = payload.outcomes || [];
  const button = part("outcomes-open");
  const list = part("outcomes");
  button.hidden = !found.length;
  if (!found.length) return list.hidePopover?.();
  const lost = found.filter(({ right }) => !right).length;
  button.textContent = `${lost} of ${found.length} methods lose this answer`;
  const families = [...new Set(found.map(({ family }) => family))];
  list.replaceChildren(make("p", "tv-outcomes-note", "Stored answers of all methods at this budget. A press adds one as a lane; the model answers again."),
    ...families.map((family) => {
      const group = make("div", "tv-outcomes-family");
      const methods = make("ul");
      methods.append(...found.filter((one) => one.family === family).map((one) => outcomeItem(one, payload)));
      group.append(make("h3", "", family), methods);
      return group;
    }));
}

function outcomeItem({ id, label, answer, right }, payload) {
  const item = make("li");
  const shown = payload.lanes.some((lane) => lane.key === id);
  const button = make("button", `tv-outcome-method ${right ? "tv-outcome-right" : "tv-outcome-wrong"}`);
  button.type = "button";
  button.append(make("span", "tv-sign", right ? "✓" : "✗"), make("b", "", label), make("span", "tv-outcome-said", `“${answer}”`));
  if (shown) button.append(make("span", "tv-outcome-shown", "shown"));
  button.setAttribute("aria-label", `${label}: ${right ? "keeps the answer" : "loses the answer"}, “${answer}”. ${shown ? "Go to its lane" : "Add it as a lane"}`);
  button.addEventListener("click", () => {
    part("outcomes").hidePopover();
    const lane = state.lanes.find(({ data }) => data.key === id);
    if (lane) jumpTo(lane);
    else document.dispatchEvent(new CustomEvent("tokviz:add-lane", { detail: id }));
  });
  item.append(button);
  return item;
}

// Under its button, inside the window; the browser closes it on Escape and on a press elsewhere.
function openOutcomes() {
  const list = part("outcomes");
  list.togglePopover();
  if (!list.matches(":popover-open")) return;
  const [at, own] = [part("outcomes-open").getBoundingClientRect(), list.getBoundingClientRect()];
  list.style.left = `${Math.max(8, Math.min(at.left, innerWidth - own.width - 8))}px`;
  list.style.top = `${Math.min(at.bottom + 6, Math.max(8, innerHeight - own.height - 8))}px`;
}
