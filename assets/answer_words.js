// The words of an answer: what differs from the unpruned answer is marked, and pointing at a word tells how likely the model
// found it. The same as a table stands in the panel "Why".

const UNSURE = 0.5; // words less likely than this are underlined

// said: [white space before, word, log-probability or null, whether it differs, words of the unpruned answer instead].
function sayWords(node, said) {
  node.replaceChildren(...said.flatMap(([before, text, logprob, differs, instead]) => {
    const word = make("span", "tv-said", text);
    word.classList.toggle("tv-said-new", differs && said.length > 1); // of one word, the verdict says it
    word.classList.toggle("tv-said-gone", Boolean(instead) && !differs);
    word.classList.toggle("tv-said-unsure", logprob !== null && Math.exp(logprob) < UNSURE);
    word.addEventListener("pointerenter", () => tip(word, likelihood(logprob, differs, instead)));
    word.addEventListener("pointerleave", () => tip(null, ""));
    return [before, word];
  }));
}

function likelihood(logprob, differs, instead) {
  const likely = logprob === null ? "" : `probability ${probability(logprob)} · ${shortNumber(logprob).replace("-", "−")} nats`;
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
