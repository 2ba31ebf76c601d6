// Rescue: which dropped block, given back, makes the answer likely again; beside random sets of as many tokens.

const STRIP = { width: 420, height: 190, left: 96, right: 16, top: 16, bottom: 44 };

// Two rows of dots over one axis of nats: what blocks gain, and what random sets of dropped tokens do.
function gainStrip(data, light) {
  const root = make("figure", "ts-chart");
  root.append(make("figcaption", "ts-chart-name", "Gain of each block, and of as many tokens from anywhere"));
  const { width, height, left, right, top, bottom } = STRIP;
  const gains = [...data.blocks.map((one) => one.gain), ...data.control.map(([, gain]) => gain), 0, data.floor ?? 0];
  const [low, high] = lanes().rangeOf(gains, 0.06);
  const px = (gain) => left + ((gain - low) / (high - low)) * (width - left - right);
  const rows = [top + 30, top + 88];
  const drawing = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": "Gains of blocks and of random sets, in nats. The numbers are in the table below." }, "ts-plot");
  lanes().ticksOf(low, high, 4).forEach((gain) => drawing.append(svg("line", { x1: px(gain), x2: px(gain), y1: top, y2: height - bottom }, "ts-grid"),
    svg("text", { x: px(gain), y: height - bottom + 16, "text-anchor": "middle" }, "ts-tick", number(Number(gain.toPrecision(8))))));
  drawing.append(svg("text", { x: (left + width - right) / 2, y: height - 6, "text-anchor": "middle" }, "ts-axis", "gain in log-probability of the answer, nats"));
  ["blocks", "random sets"].forEach((words, i) => drawing.append(svg("text", { x: left - 10, y: rows[i] + 4, "text-anchor": "end" }, "ts-tick", words)));
  if (data.floor !== null) {
    drawing.append(svg("line", { x1: px(data.floor), x2: px(data.floor), y1: top, y2: height - bottom }, "ts-line"),
      svg("text", { x: px(data.floor) > width * 0.6 ? px(data.floor) - 5 : px(data.floor) + 5, y: top + 6, "text-anchor": px(data.floor) > width * 0.6 ? "end" : "start" }, "ts-line-words", "what chance gains"));
  }
  // Dots of one gain would lie on each other: they are spread up and down, always the same way.
  const spread = (i) => (((i * 7) % 11) - 5) * 2.6;
  data.blocks.forEach((one, i) => {
    const dot = svg("circle", { cx: px(one.gain), cy: rows[0] + spread(i), r: one.telling ? 4.5 : 3.2 }, one.telling ? "ts-gain ts-gain-telling" : "ts-gain");
    dot.addEventListener("pointerenter", () => light(one));
    dot.addEventListener("pointerleave", () => light(null));
    drawing.append(dot);
  });
  data.control.forEach(([, gain], i) => drawing.append(svg("circle", { cx: px(gain), cy: rows[1] + spread(i), r: 3.2 }, "ts-gain ts-gain-random")));
  root.append(drawing);
  return root;
}

function verdictOf(data) {
  const telling = data.blocks.filter((one) => one.telling);
  const restores = telling.filter((one) => one.restores).length;
  if (!telling.length) return "No block gains more than random tokens do: no single part of what was dropped is missing.";
  if (telling.length === 1) return `1 of ${data.blocks.length} blocks gains more than chance, ${restores ? "and brings the answer back by itself" : "but does not bring the answer back by itself"}.`;
  const back = restores === 1 ? "one of them brings the answer back by itself" : restores ? `${restores} of them bring the answer back, each by itself` : "none of them brings the answer back by itself";
  return `${telling.length} of ${data.blocks.length} blocks gain more than chance; ${back}.`;
}

function rescueResult(data) {
  const n = lanes().state.payload.grid.row.length;
  const values = new Array(n).fill(null);
  const blockOf = new Array(n).fill(null);
  data.blocks.forEach((one) => one.tokens.forEach((token) => { values[token] = one.gain; blockOf[token] = one; }));
  const most = Math.max(...data.blocks.map((one) => Math.abs(one.gain)), 1e-9);
  const kept = new Set(data.kept);
  const blockWords = (one) => `given back, these ${one.tokens.length} patches change the log-probability by ${one.gain < 0 ? "−" : "+"}${number(Math.abs(one.gain))} nats${one.telling ? ", more than chance" : ""}${one.restores ? "; the answer is back" : ""}`;
  const picture = patchPicture("Gain of each dropped block", (token) => `${placeWords(token)}: ${kept.has(token) ? "kept" : blockOf[token] ? blockWords(blockOf[token]) : "not given back"}`);
  const telling = data.blocks.filter((one) => one.telling).sort((a, b) => b.gain - a.gain);
  const outline = (one, className) => one.tokens.map((token) => [picture.boxOf(token), className]).filter(([box]) => box[2] > box[0]);
  const frameOf = (boxes) => (boxes.length ? [[[0, 1, 2, 3].map((k) => Math[k < 2 ? "min" : "max"](...boxes.map(([box]) => box[k]))), "ts-best"]] : []);
  const keptBoxes = data.kept.map((token) => [picture.boxOf(token), "ts-kept-patch"]).filter(([box]) => box[2] > box[0]);
  const light = (one) => {
    const shown = one || telling[0];
    picture.boxes = [...keptBoxes, ...(shown ? frameOf(outline(shown, "ts-best")) : [])];
    picture.told.textContent = one ? blockWords(one) : picture.rest;
    picture.mark();
  };
  picture.rest = telling.length ? `The block in the frame gains most: ${number(telling[0].gain)} nats.` : "Orange: likelier with the block. Purple: less likely. Outlined: kept.";
  const scale = make("p", "ts-scale");
  scale.append(make("span", "", `−${number(most)}`), make("i"), make("span", "", `+${number(most)} nats`));
  const left = make("div");
  left.append(make("h3", "ts-part-name", "What each dropped block is worth"), picture.root, scale);

  const right = make("div", "ts-side");
  const answer = make("p", "ts-answer");
  answer.append(`${data.label} answers `, make("b", "", data.said), ", unpruned ", make("b", "", data.answer), ".");
  right.append(answer, make("p", "", verdictOf(data)),
    make("p", "ts-note", `Log-probability of “${data.answer}”: ${number(data.logprob_kept)} nats with the kept tokens, ${number(data.logprob)} with all.`), gainStrip(data, light));
  if (telling.length) {
    if (data.rescued !== null) {
      const said = make("p");
      said.append("With the best block given back it answers ", make("b", "", data.rescued), ".");
      right.append(said);
    }
    right.append(button("ts-tool ts-add-rescued", "Add that run as a lane", () => {
      if (run.busy || isLive() || isStale()) return;
      choose("edit");
      start("edit", { run: data.run, kept: [...kept, ...telling[0].tokens].sort((a, b) => a - b) });
    }));
  }
  if (telling.length) right.append(make("p", "ts-note", `About ${Math.round(data.by_chance)} of so many blocks would beat their random sets if the place did not matter.`));
  right.append(...noteList(data.notes));
  const body = make("div", "ts-pair");
  body.append(left, right);
  const table = numbersTable(["patches", "first patch", "gain, nats", "more than chance", "answer is back"],
    () => [...data.blocks].sort((a, b) => b.gain - a.gain).map((one) => [String(one.tokens.length), placeWords(one.tokens[0]), one.gain, one.telling ? "yes" : "no", one.restores ? "yes" : "no"]));
  // The scale of the lanes' own view ends at four.
  setTimeout(() => { picture.draw({ values: values.map((gain) => (gain === null ? null : (4 * gain) / most)), view: "chance", clear: data.kept, opacity: 0.78 }); light(null); });
  return [body, table];
}
