// The answer of a lane, above its image, and what is remarked about the run, below its numbers. Both keep the same room
// whatever they hold: neither a long answer nor the notes of one lane push the others.

function buildOutcome() {
  const outcome = make("div", "tv-outcome");
  const answer = make("p", "tv-answer");
  const line = make("div", "tv-verdict-line");
  const verdict = make("p", "tv-verdict");
  const cut = make("span", "tv-cut", "cut");
  cut.tabIndex = 0;
  const more = make("button", "tv-more", "more");
  more.type = "button";
  more.hidden = cut.hidden = true;
  more.addEventListener("click", () => openAnswers(!part("root").classList.contains("tv-answers-open")));
  line.append(verdict, cut, more);
  outcome.append(answer, line);
  return { outcome, answer, verdict, cut, more };
}

// All lanes at once, so that answers stay beside each other.
function openAnswers(open) {
  part("root").classList.toggle("tv-answers-open", open);
  state.lanes.forEach(({ more }) => { more.textContent = open ? "less" : "more"; });
}

function fillOutcome(lane, data) {
  const waiting = { waiting: "waiting", running: data.answer ? "" : "running" }[data.status];
  lane.answer.className = "tv-answer";
  lane.answer.classList.toggle("tv-long", data.answer.length > 16);
  lane.answer.classList.toggle("tv-quiet", Boolean(waiting || data.error));
  const words = data.said.some(([, text]) => text);
  sayWords(lane.answer, words ? data.said : []);
  if (!words) lane.answer.textContent = data.error || waiting || data.answer || "(empty answer)";
  lane.answer.title = data.error || "";
  lane.verdict.className = "tv-verdict";
  lane.verdict.textContent = "";
  if (data.error) {
    lane.verdict.classList.add("tv-bad");
    lane.verdict.textContent = "could not run";
  } else if (data.verdict) {
    lane.verdict.classList.add(`tv-${data.verdict.kind}`);
    lane.verdict.append(make("span", "tv-sign", data.verdict.sign), ` ${data.verdict.text}`);
  }
  lane.verdict.title = lane.verdict.textContent;
  lane.cut.hidden = !data.cut;
  lane.cut.dataset.hint = data.cut ? `The answer was cut after ${data.cut} new tokens. “Max new tokens”, under Advanced, allows more.` : "";
  lane.more.setAttribute("aria-label", `Whole answer of ${data.label}`);
}

// A word or two is all there; of a longer answer the first two lines, until it is opened.
// Asked when lanes stand where they are seen: before, nothing has a height.
function showWhatHasMore() {
  if (part("root").classList.contains("tv-answers-open")) return;
  const has = state.lanes.map(({ answer }) => answer.scrollHeight > answer.clientHeight + 2);
  state.lanes.forEach(({ more }, i) => { more.hidden = !has[i]; });
}

// Flags of serving stacks and warnings, folded: one line says what is inside.
function fillRemarks(lane, data) {
  const flags = data.serving || [];
  const folded = [];
  if (data.warnings.length) folded.push(fold("tv-fold-warning", data.warnings[0], data.warnings.length, data.warnings.map((text) => make("p", "tv-warning", text))));
  if (flags.length) folded.push(fold("tv-serving", `As deployed: ${flags[0].stack}`, flags.length, flags.map(servingNode)));
  lane.remarks.replaceChildren(...folded);
}

function fold(className, first, count, nodes) {
  const root = make("details", `tv-fold ${className}`);
  const summary = make("summary", "tv-fold-summary");
  summary.append(make("span", "tv-fold-first", first), make("span", "tv-fold-count", count > 1 ? `+ ${count - 1}` : ""));
  root.append(summary, ...nodes);
  return root;
}

function servingNode(flag) {
  const node = make("div", "tv-serving-flag");
  const head = make("p", "tv-serving-head", flag.stack);
  node.append(head);
  if (flag.command) {
    const code = make("code", "tv-serving-command");
    // A line ends between arguments: browsers would break one behind its hyphens.
    flag.command.split(" ").forEach((word, i) => code.append(i ? " " : "", make("span", "", word)));
    const copy = make("button", "tv-serving-copy", "copy");
    copy.type = "button";
    copy.setAttribute("aria-label", `Copy the command for ${flag.stack}`);
    copy.addEventListener("click", () => copyCommand(copy, code));
    head.append(copy);
    node.append(code);
  }
  node.append(make("p", "tv-serving-read", [flag.note, `Read in: ${flag.read_in}`].filter(Boolean).join(". ")));
  return node;
}

// Where the clipboard is closed to the page (plain http), the command is selected for the keyboard's own copy.
async function copyCommand(button, code) {
  let said = "copied";
  try {
    await navigator.clipboard.writeText(code.textContent);
  } catch {
    getSelection().selectAllChildren(code);
    said = "selected";
  }
  button.textContent = said;
  setTimeout(() => { button.textContent = "copy"; }, 1500);
}
