// Sweep: how likely the unpruned answer stays over budgets, per method. Every point can be loaded into the lanes.

const MEAN = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;

// The points of one method by budget, from large to small: mean over seeds, and its band where there are several.
function sweepSeries(curve, i) {
  const budgets = new Map();
  curve.points.forEach(([budget, seed, logprob, same, answer, verdict]) => {
    if (!budgets.has(budget)) budgets.set(budget, []);
    budgets.get(budget).push({ seed, logprob, same, answer, verdict });
  });
  const rows = [...budgets].sort(([a], [b]) => a - b).map(([budget, runs]) => {
    const known = runs.map((run) => run.logprob).filter((value) => value !== null);
    const same = runs.filter((run) => run.same).length;
    return { budget, runs, same, mean: known.length ? MEAN(known) : null, low: Math.min(...known), high: Math.max(...known), open: same < runs.length, answer: runs[0].answer };
  });
  const flip = [...rows].reverse().find((row) => !row.runs[0].same);
  return {
    ...look(i), label: curve.label, key: curve.key, curve, rows, flip,
    points: rows.map((row) => [row.budget, row.mean, row]),
    band: rows.some((row) => row.runs.length > 1) ? rows.filter((row) => row.mean !== null).map((row) => [row.budget, row.low, row.high]) : [],
    rings: flip && flip.mean !== null ? [[flip.budget, flip.mean]] : [],
  };
}

function sweepWords(series, [budget, mean, row]) {
  const said = row.runs.length > 1 ? `${row.same} of ${row.runs.length} seeds give the unpruned answer`
    : `answers “${row.answer}”${row.same ? ", the unpruned answer" : ""}`;
  const band = row.runs.length > 1 ? ` (mean; ${number(row.low)} to ${number(row.high)})` : "";
  return `${series.label}, ${budget} tokens: ${said} · log-probability ${number(mean)} nats${band}`;
}

function flipWords(series, data) {
  const { rows, flip, curve } = series;
  if (curve.error) return curve.error;
  if (!rows.length) return curve.refused ? "cannot keep any of these budgets" : "…";
  const above = rows.filter((row) => !flip || row.budget > flip.budget).at(0);
  if (!flip) return `the same answer down to ${rows[0].budget} tokens`;
  if (curve.random) {
    const least = rows[0];
    return `seed ${flip.runs[0].seed} breaks at ${flip.budget} of ${data.n_tokens}; with ${least.budget}, ${least.same} of ${least.runs.length} seeds give the unpruned answer`;
  }
  const last = above ? `holds to ${above.budget}, ` : "";
  return `${last}breaks at ${flip.budget} of ${data.n_tokens}: “${flip.answer}”`;
}

function sweepResult(data, goesOn, load) {
  const series = data.curves.map(sweepSeries);
  const chart = lineChart({
    name: "How likely the unpruned answer stays", xs: data.budgets, log: true,
    ticks: data.budgets.map((budget) => [budget, String(budget)]),
    x_label: `visual tokens kept, of ${data.n_tokens} (logarithmic)`, y_label: "log-probability of the unpruned answer, nats; higher is likelier",
    series: series.filter((one) => one.points.length), high: 0,
    lines: [[data.logprob, `no pruning, ${number(data.logprob)}`]],
    key: [["", "the unpruned answer"], ["open", "another answer"], ["ring", "flip point: the first that breaks"]],
    rest: goesOn ? "" : "Press a point to load that budget into the lanes.",
  }, { words: sweepWords, pick: goesOn ? null : (one, [budget, , row]) => load(budget, row.runs[0].seed) });
  const list = make("ul", "ts-flips");
  series.forEach((one) => {
    const item = make("li");
    const name = make("b", "", one.label);
    const swatch = make("i", "ts-flip-swatch");
    swatch.style.background = one.colour;
    const words = make("span", "", flipWords(one, data));
    item.append(swatch, name, words);
    list.append(item);
  });
  const answer = make("p", "ts-answer");
  answer.append("Unpruned answer: ", make("b", "", data.answer));
  const side = make("div", "ts-side");
  side.append(answer, list, ...noteList(data.notes));
  const body = make("div", "ts-sweep");
  body.append(chart, side);
  const table = numbersTable(["method", "budget", "seed", "answer", "log-probability", "unpruned answer"],
    () => data.curves.flatMap((curve) => curve.points.map(([budget, seed, logprob, same, answer]) => [curve.label, String(budget), String(seed), answer, logprob, same ? "yes" : "no"])));
  return [body, table];
}
