// Two selections beside each other, and one beside what a random one of the same size would be. No DOM here; the same
// numbers as tokviz/chance.py.

// a, b: N flags each. byChance: tokens that two random selections of these sizes share on average.
function overlapOf(a, b) {
  const counts = { both: 0, onlyA: 0, onlyB: 0, neither: 0 };
  for (let token = 0; token < a.length; token += 1) {
    counts[a[token] ? (b[token] ? "both" : "onlyA") : (b[token] ? "onlyB" : "neither")] += 1;
  }
  const union = counts.both + counts.onlyA + counts.onlyB;
  const [inA, inB] = [counts.both + counts.onlyA, counts.both + counts.onlyB];
  return { ...counts, iou: union ? counts.both / union : null, byChance: (inA * inB) / a.length };
}

// Sums over the patches of one level: sum(rows 0..r, columns 0..c) at (r + 1, c + 1).
function summedArea(rows, cols, places) {
  const wide = cols + 1;
  const sums = new Float64Array((rows + 1) * wide);
  places.forEach(([row, col]) => { sums[(row + 1) * wide + col + 1] += 1; });
  for (let r = 1; r <= rows; r += 1) {
    for (let c = 1; c <= cols; c += 1) {
      sums[r * wide + c] += sums[(r - 1) * wide + c] + sums[r * wide + c - 1] - sums[(r - 1) * wide + c - 1];
    }
  }
  return (r0, c0, r1, c1) => sums[r1 * wide + c1] - sums[r0 * wide + c1] - sums[r1 * wide + c0] + sums[r0 * wide + c0];
}

// For each patch the square of patches around it (radius in patches, cut at the edges of its level): how many of them
// are kept, minus what a random selection of as many tokens keeps there on average, in standard deviations of that.
// Returns {values, near, kept, share, clumping}; clumping: the mean square of the values, 1 on average for random.
function randomDifference(grid, kept, radius) {
  const n = grid.row.length;
  const share = kept.reduce((sum, flag) => sum + flag, 0) / n;
  const found = { values: new Array(n).fill(null), near: new Array(n).fill(0), kept: new Array(n).fill(0), share, clumping: null };
  const levels = new Map();
  grid.row.forEach((row, token) => {
    if (row < 0) return;
    const level = grid.views[grid.view[token]].level || 0;
    if (!levels.has(level)) levels.set(level, []);
    levels.get(level).push([token, rowInLevel(grid, token), colInLevel(grid, token)]);
  });
  let [squares, counted] = [0, 0];
  for (const patches of levels.values()) {
    const [rows, cols] = [1, 2].map((k) => patches.reduce((most, patch) => Math.max(most, patch[k]), 0) + 1);
    const there = summedArea(rows, cols, patches.map(([, row, col]) => [row, col]));
    const taken = summedArea(rows, cols, patches.filter(([token]) => kept[token]).map(([, row, col]) => [row, col]));
    for (const [token, row, col] of patches) {
      const box = [Math.max(row - radius, 0), Math.max(col - radius, 0), Math.min(row + radius + 1, rows), Math.min(col + radius + 1, cols)];
      const near = there(...box);
      found.near[token] = near;
      found.kept[token] = taken(...box);
      const spread = Math.sqrt((near * share * (1 - share) * (n - near)) / Math.max(n - 1, 1));
      if (!(spread > 0)) continue;
      found.values[token] = (found.kept[token] - near * share) / spread;
      squares += found.values[token] ** 2;
      counted += 1;
    }
  }
  if (counted) found.clumping = squares / counted;
  return found;
}

// How likely a random selection of `taken` of n tokens holds at least `least` of `special` ones (hypergeometric).
function chanceOfAtLeast(n, taken, special, least) {
  const logs = new Float64Array(n + 1);
  for (let i = 2; i <= n; i += 1) logs[i] = logs[i - 1] + Math.log(i);
  const choose = (from, k) => logs[from] - logs[k] - logs[from - k];
  let sum = 0;
  for (let hits = Math.max(least, taken + special - n, 0); hits <= Math.min(taken, special); hits += 1) {
    sum += Math.exp(choose(special, hits) + choose(n - special, taken - hits) - choose(n, taken));
  }
  return Math.min(sum, 1);
}

// What became of some tokens: kept themselves, absorbed by kept ones (into how many), or lost.
function fatesOf(tokens, stage) {
  const kept = new Set(stage.kept);
  const carriers = stage.carriers && !stage.covers ? stage.carriers : null;
  const absorbed = tokens.filter((token) => !kept.has(token) && carriers && carriers[token] >= 0);
  const stay = tokens.filter((token) => kept.has(token)).length;
  return { kept: stay, absorbed: absorbed.length, into: new Set(absorbed.map((token) => carriers[token])).size, lost: tokens.length - stay - absorbed.length };
}
