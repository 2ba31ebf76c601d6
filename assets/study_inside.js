// Inside the model: where every layer looks. Curves over the layers of the LLM, a map for every word of the answer, and a
// map with an entropy for every layer of the vision tower.

const KIND_WORDS = { system: "text before the image", image: "image", question: "question", template: "rest of the prompt", output: "answer so far" };
const layersOf = (count, at) => Array.from({ length: count }, (_, i) => [i, at(i)]);
const layerTicks = (count) => Array.from({ length: count }, (_, i) => [i, String(i)]);

function ratioChart(data) {
  const { layers } = data;
  const series = [
    ["text → image", "text_to_image"], ["image → text behind it", "image_to_text"], ["image → text before it", "image_to_system"],
  ].map(([label, name], i) => ({ label, ...look(i), points: layersOf(layers.length, (at) => layers[at][name]) }));
  return lineChart({
    name: "Attention between text and image", small: true, xs: layers.map((_, i) => i), ticks: layerTicks(layers.length), low: 0,
    x_label: "layer of the LLM", y_label: "share of attention, mean over heads", series: series.filter((one) => one.points.some(([, y]) => y !== null)),
    lines: [[data.tau, `ToDRE’s threshold, ${number(data.tau)}`]],
    verticals: data.withdrawn === null ? [] : [[data.withdrawn, "ToDRE drops the image"]],
    rest: "Causal masking makes image → text behind it exactly 0 in every layer.",
  }, { words: (one, [layer, share]) => `layer ${layer}: ${one.label} ${number(share)}` });
}

function outputChart(data) {
  const { layers, kinds } = data;
  if (!layers.some((one) => one.output)) return null;
  const series = kinds.map((kind, k) => ({ label: KIND_WORDS[kind] || kind, ...look(k), points: layersOf(layers.length, (at) => (layers[at].output ? layers[at].output[k] : null)) }));
  return lineChart({
    name: "What the answer’s own tokens look at", small: true, xs: layers.map((_, i) => i), ticks: layerTicks(layers.length), low: 0,
    x_label: "layer of the LLM", y_label: "share of attention, mean over heads and tokens", series, lines: [],
    rest: `The image is ${percent(data.counts[1] / data.counts.reduce((a, b) => a + b, 0))} of all tokens.`,
  }, { words: (one, [layer, share]) => `layer ${layer}: ${percent(share)} on ${one.label}` });
}

// The words as buttons; the one that is pressed shows where the model looked when it said it.
function wordMaps(data) {
  const root = make("div", "ts-words-part");
  root.append(make("h3", "ts-part-name", "Where it looked when it said a word"));
  const row = make("div", "ts-words");
  row.setAttribute("role", "group");
  row.setAttribute("aria-label", "Words of the answer");
  const select = make("select");
  select.append(...["mean over all layers", ...data.map_layers.map((layer) => `layer ${layer}`)].map((name, i) => Object.assign(make("option", "", name), { value: String(i) })));
  const chooser = make("label", "ts-choice", "attention in ");
  chooser.append(select);
  let values = [];
  const picture = patchPicture("Attention on the patches", (token) => `${placeWords(token)}: ${values[token] === null ? "not there any more in this layer" : `attention ${number(values[token])}`}`);
  const scale = heatScale();
  const mine = { word: data.words.findIndex((word) => word.maps.length) };
  const choose = (at) => {
    mine.word = at;
    [...row.children].forEach((node, i) => node.setAttribute("aria-pressed", String(i === at)));
    const map = data.words[at].maps[Number(select.value)];
    if (!map) return;
    values = unpacked(map);
    const [sum, most] = [values.reduce((total, value) => total + (value || 0), 0), values.indexOf(Math.max(...values.filter((value) => value !== null)))];
    picture.rest = `“${data.words[at].text}”: ${percent(sum)} of its attention is on patches; most at ${placeWords(most)}.`;
    scale.set(values);
    picture.draw({ values, view: "score", scale: "log", kept: [] });
    picture.point(-1);
  };
  data.words.forEach((word, i) => {
    const node = button("ts-word", word.text, () => choose(i));
    node.disabled = !word.maps.length;
    if (!word.maps.length) node.title = "The maps of this word were not kept: the answer is too long.";
    row.append(node);
  });
  select.addEventListener("change", () => choose(mine.word));
  if (data.words.length > 1) root.append(row);
  else if (data.words.length) root.lastChild.textContent = `Where it looked when it said “${data.words[0].text}”`;
  root.append(chooser, picture.root, scale.root);
  if (mine.word < 0) return data.words.length ? root : null;
  mine.begin = () => choose(mine.word);
  root.tsBegin = mine.begin;
  return root;
}

function towerPart(data) {
  const { tower } = data;
  if (!tower.length) return null;
  const isCls = data.tower_kind === "cls_attention";
  const root = make("div", "ts-tower-part");
  root.append(make("h3", "ts-part-name", isCls ? "What [CLS] looks at in the vision tower" : "What patches receive in the vision tower"));
  const range = Object.assign(make("input"), { type: "range", min: 0, max: tower.length - 1, step: 1 });
  range.setAttribute("aria-label", "Layer of the vision tower");
  const words = make("span", "ts-tower-layer");
  const chooser = make("label", "ts-choice ts-range");
  chooser.append(range, words);
  let values = [];
  const picture = patchPicture("Attention in the vision tower", (token) => `${placeWords(token)}: ${number(values[token])}`);
  const scale = heatScale();
  const choose = (at) => {
    range.value = String(at);
    const layer = tower[at];
    values = unpacked(layer);
    const used = at === data.feature_layer ? ", whose output becomes the visual tokens" : "";
    words.textContent = `layer ${at} of ${tower.length}`;
    range.setAttribute("aria-valuetext", words.textContent);
    picture.rest = `Layer ${at}${used}: entropy ${number(layer.entropy)} nats${layer.windowed ? "; attends within windows" : ""}.`;
    scale.set(values);
    picture.draw({ values, view: "score", scale: "log", kept: [] });
    picture.point(-1);
  };
  range.addEventListener("input", () => choose(Number(range.value)));
  const chart = lineChart({
    name: "How spread out that is", small: true, width: 340, xs: tower.map((_, i) => i), ticks: layerTicks(tower.length), x_label: "layer of the vision tower",
    y_label: "entropy, nats; lower is more focused", series: [{ label: "entropy", ...look(0), points: layersOf(tower.length, (at) => tower[at].entropy) }],
    lines: data.uniform === null ? [] : [[data.uniform, `spread evenly, ${number(data.uniform)}`]],
    verticals: data.feature_layer === null ? [] : [[data.feature_layer, "features"]], rest: "Press a point to see that layer.",
  }, { words: (_, [layer, entropy]) => `layer ${layer}: entropy ${number(entropy)} nats`, pick: (_, [layer]) => choose(layer) });
  root.append(chooser, picture.root, scale.root);
  root.tsChart = chart;
  root.tsBegin = () => choose(data.feature_layer ?? tower.length - 1);
  return root;
}

function insideResult(data) {
  const answer = make("p", "ts-answer");
  answer.append(`${data.label}, ${data.left} of ${data.n_tokens} tokens left at the end, answers: `, make("b", "", data.answer));
  const curves = make("div", "ts-pair");
  const output = outputChart(data);
  curves.append(ratioChart(data));
  if (output) curves.append(output);
  else curves.append(make("p", "ts-note", "The answer is one token long and was predicted by the prompt, so there are no tokens of the answer that look at anything."));
  const parts = [wordMaps(data), towerPart(data)].filter(Boolean);
  const maps = make("div", "ts-pair ts-maps");
  parts.forEach((part) => maps.append(part, ...(part.tsChart ? [part.tsChart] : [])));
  const table = numbersTable(["layer", "visual tokens", "text → image", "image → text behind it", "image → text before it", ...data.kinds.map((kind) => `answer → ${KIND_WORDS[kind] || kind}`)],
    () => data.layers.map((layer, i) => [String(i), String(layer.visual), layer.text_to_image, layer.image_to_text, layer.image_to_system, ...data.kinds.map((_, k) => (layer.output ? layer.output[k] : null))]));
  const towers = numbersTable(["layer of the tower", "entropy"], () => data.tower.map((layer, i) => [String(i), layer.entropy]));
  towers.querySelector("summary").textContent = "numbers of the tower";
  setTimeout(() => parts.forEach((part) => part.tsBegin?.())); // once they have a width
  return [answer, curves, table, maps, towers, ...noteList(data.notes)];
}
