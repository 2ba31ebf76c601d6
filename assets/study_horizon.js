// Information horizon: what leaving each block of the image out before a layer does to the unpruned answer.

function horizonWords(data) {
  const last = data.layers.at(-1);
  if (data.horizon === null) return `In the last measured layer, ${last.layer}, some block still changes the answer’s likelihood: this model has no horizon here.`;
  if (data.horizon === data.layers[0].layer) return "No block changes the answer’s likelihood in any measured layer.";
  return `From layer ${data.horizon} on, leaving out any one block no longer changes the answer’s likelihood.`;
}

function horizonResult(data) {
  const { layers } = data;
  const n = lanes().state.payload.grid.row.length;
  const most = Math.max(...layers.map((entry) => entry.largest), 1e-9);
  const answer = make("p", "ts-answer");
  answer.append("Unpruned answer: ", make("b", "", data.answer));
  const range = Object.assign(make("input"), { type: "range", min: 0, max: layers.length - 1, step: 1 });
  range.setAttribute("aria-label", "Layer from which on a block is left out");
  const words = make("span", "ts-tower-layer");
  const chooser = make("label", "ts-choice ts-range");
  chooser.append(range, words);
  let values = new Array(n).fill(null);
  const signedNats = (value) => `${value < 0 ? "−" : "+"}${number(Math.abs(value))} nats`;
  const picture = patchPicture("What leaving a block out does", (token) => `${placeWords(token)}: ${values[token] === null ? "no patch" : `without its block the answer changes by ${signedNats(-values[token])}`}`);
  const choose = (at) => {
    const entry = layers[at];
    range.value = String(at);
    values = entry.change;
    words.textContent = `left out before layer ${entry.layer}`;
    range.setAttribute("aria-valuetext", words.textContent);
    picture.rest = `Before layer ${entry.layer}: the most that a block does is ${number(entry.largest)} nats.`;
    picture.draw({ values: values.map((value) => (value === null ? null : (4 * value) / most)), view: "chance", opacity: 0.78 });
    picture.point(-1);
  };
  range.addEventListener("input", () => choose(Number(range.value)));
  const scale = make("p", "ts-scale");
  scale.append(make("span", "", `likelier without, −${number(most)}`), make("i"), make("span", "", `+${number(most)} nats, missed`));
  const left = make("div");
  left.append(make("h3", "ts-part-name", "How much each block matters"), chooser, picture.root, scale);
  const series = [["largest change of a block", "largest"], ["mean change", "mean"]].map(([label, name], i) => ({ label, ...look(i), points: layers.map((entry) => [entry.layer, entry[name]]) }));
  const chart = lineChart({
    name: "How far into the LLM the image matters", small: true, xs: layers.map((entry) => entry.layer), ticks: layers.map((entry) => [entry.layer, String(entry.layer)]), low: 0,
    x_label: "layer before which a block is left out", y_label: "change of the answer’s log-probability, nats", series, lines: [],
    verticals: data.horizon === null ? [] : [[data.horizon, "horizon"]], rest: "Press a point to see that layer.",
  }, { words: (one, [layer, value]) => `before layer ${layer}: ${one.label} ${number(value)} nats`, pick: (_, [layer]) => choose(layers.findIndex((entry) => entry.layer === layer)) });
  const body = make("div", "ts-pair");
  body.append(left, chart);
  const table = numbersTable(["before layer", "largest change, nats", "mean change", "noise or least", `log-probability with ${data.budget} random tokens`, "without any"],
    () => layers.map((entry) => [String(entry.layer), entry.largest, entry.mean, entry.floor, entry.random.map(number).join(", "), entry.withdrawn]));
  setTimeout(() => choose(0));
  return [answer, make("p", "", horizonWords(data)), body, table, ...noteList(data.notes)];
}
