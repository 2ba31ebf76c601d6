// Answers of all lanes in one row above them, where the lanes themselves fill more than one: which one differs is seen
// without scrolling. A press goes to the lane.

function fillAnswersBar() {
  const bar = part("answers-bar");
  const lanes = lanesInOrder().filter((lane) => !lane.root.hidden);
  const shown = lanes.map((lane) => [lane.data.label, lane.data.answer || (lane.data.error ? "could not run" : "…"), lane.data.verdict]);
  const key = JSON.stringify([shown, lanes.map((lane) => lane.number)]);
  if (bar.tvKey === key) return;
  bar.tvKey = key;
  bar.replaceChildren(...shown.map(([label, answer, verdict], i) => {
    const item = make("li");
    const button = make("button", `tv-jump${verdict ? ` tv-jump-${verdict.kind}` : ""}`);
    button.type = "button";
    const said = make("span", "tv-jump-answer", answer);
    if (verdict) said.prepend(make("span", "tv-sign", `${verdict.sign} `));
    button.append(make("span", "tv-jump-label", label), said);
    button.title = `${label}: ${answer}${verdict ? ` (${verdict.text})` : ""}`;
    button.addEventListener("click", () => jumpTo(lanes[i]));
    item.append(button);
    return item;
  }));
}

function jumpTo(lane) {
  const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
  lane.root.scrollIntoView({ behavior: calm ? "auto" : "smooth", block: "start" });
  lane.image.focus({ preventScroll: true });
}
