// The words of an answer: what differs from the unpruned answer is marked, and pointing at a word tells how likely the model
// found it. The same as a table stands in the panel "Why".

const UNSURE = 0.5; // words less likely than this are underlined

// said: [white space before, word, log-probability or null, whether it differs, words of the unpruned answer instead].
function sayWords(node, said) {
  const words = [];
  node.replaceChildren(...said.flatMap(([before, text, logprob, differs, instead]) => {
    const word = make("span", "tv-said", text);
    word.classList.toggle("tv-said-new", differs && said.length > 1); // of one word, the verdict says it
    word.classList.toggle("tv-said-gone", Boolean(instead) && !differs);
    word.classList.toggle("tv-said-unsure", logprob !== null && Math.exp(logprob) < UNSURE);
    const about = likelihood(logprob, differs, instead);
    word.addEventListener("pointerenter", () => tip(word, about));
    word.addEventListener("pointerleave", () => tip(null, ""));
    words.push({ word, about, text });
    return [before, word];
  }));
  walkWords(node, words);
}

// The answer is one place in the order of the Tab key; arrow keys go from word to word.
function walkWords(node, words) {
  const there = words.filter(({ about }) => about);
  node[there.length ? "setAttribute" : "removeAttribute"]("tabindex", "0");
  let at = -1;
  const go = (to) => {
    words.forEach(({ word }) => word.classList.remove("tv-said-at"));
    at = Math.min(Math.max(to, 0), there.length - 1);
    const { word, about, text } = there[at];
    word.classList.add("tv-said-at");
    word.scrollIntoView({ block: "nearest", inline: "nearest" });
    tip(word, about);
    part("live").textContent = `${text || "end"}: ${about}`;
  };
  const leave = () => {
    words.forEach(({ word }) => word.classList.remove("tv-said-at"));
    at = -1;
    tip(null, "");
  };
  node.onfocus = () => { if (there.length && node.matches(":focus-visible")) go(0); };
  node.onblur = leave;
  node.onkeydown = (event) => {
    if (!there.length) return;
    const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: there.length - 1 }[event.key];
    if (event.key === "Escape") leave();
    else if (to !== undefined) go(to);
    else return;
    event.preventDefault();
  };
}

function likelihood(logprob, differs, instead) {
  const likely = logprob === null ? "" : `probability ${probability(logprob)} · ${shortNumber(logprob)} nats`;
  const missing = instead.length > 80 ? `${instead.slice(0, 79)}…` : instead;
  const change = differs ? (missing ? `without pruning: “${missing}”` : "not there without pruning") : (missing ? `“${missing}” is missing before it` : "");
  return [likely, change].filter(Boolean).join(" · ");
}

function probability(logprob) {
  const share = Math.exp(logprob);
  if (share > 0.999) return "> 99.9%";
  return share < 0.001 ? "< 0.1%" : `${(100 * share).toFixed(1)}%`;
}

// Above what is pointed at, inside the window; it takes no room.
function tip(node, words) {
  const bubble = part("tip");
  bubble.hidden = !words;
  if (!words) return;
  bubble.textContent = words;
  const [at, own] = [node.getBoundingClientRect(), bubble.getBoundingClientRect()];
  const left = Math.min(Math.max(at.left + at.width / 2 - own.width / 2, 6), innerWidth - own.width - 6);
  bubble.style.left = `${left}px`;
  bubble.style.top = `${at.top - own.height - 6 > 0 ? at.top - own.height - 6 : at.bottom + 6}px`;
}

function answerCard(lane) {
  const { said } = lane.data;
  if (!said.some(([, , logprob]) => logprob !== null)) return [];
  const root = make("figure", "tv-chart tv-answer-card");
  const line = make("p", "tv-words tv-answer-words");
  line.dir = "auto";
  sayWords(line, said);
  const changed = said.filter(([, , , differs]) => differs).length;
  root.append(make("figcaption", "tv-chart-label", "Words of the answer"), line,
    make("p", "tv-note", `${changed} of ${said.length} differ from the answer without pruning; underlined with dots: less likely than ${100 * UNSURE}%.`),
    tableOf(["word", "probability", "log-probability, nats", "without pruning"], said.length, (i) => {
      const [, text, logprob, differs, instead] = said[i];
      return [text, logprob === null ? "–" : probability(logprob), shortNumber(logprob), instead || (differs ? "–" : "the same")];
    }));
  return [root];
}
