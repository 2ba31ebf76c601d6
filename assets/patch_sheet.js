// What the lanes draw on: a sheet. It says which tokens are drawn and where, and which part of the image lies where.
// An image in one grid is its own sheet. An image cut into crops is drawn level by level, both levels on each other, or
// spread out as the model gets it; a video one frame at a time. Boxes of a sheet are in its own units.

const BOTH = "both";
const APART = "apart";

function isVideo(grid) {
  return grid.views.some((view) => (view.frames || []).length);
}

// What there is to choose of an image in levels; nothing to choose for others.
function sheetChoices(grid) {
  const levels = isVideo(grid) ? [] : levelsOf(grid);
  if (levels.length < 2) return [];
  return [{ value: BOTH, name: "both, overlaid" }, ...levels.map(({ level, name }) => ({ value: String(level), name })),
    { value: APART, name: "as the model sees them" }];
}

// payload: as it came. choice: one of the values of sheetChoices, or the number of a frame of a video.
// Returns {size, grid, pieces, evidence, named}: grid with its `apart` or `stacked` set where that matters for painting;
// pieces: which box of the image (source) lies in which box of the sheet (target); named: a token's place needs the
// name of its view.
function sheetOf(payload, choice) {
  const { grid, size } = payload;
  const evidence = payload.evidence || [];
  const whole = { size, evidence, pieces: [{ source: [0, 0, ...size], target: [0, 0, ...size] }], named: false };
  if (isVideo(grid)) {
    const frames = payload.evidence_frames || [];
    return { ...whole, grid: levelGrid(grid, levelOfFrame(grid, choice)), evidence: evidence.filter((_, i) => frames[i] === choice) };
  }
  if (choice === BOTH) return { ...whole, grid: stackedGrid(grid), named: true };
  if (choice === APART) return apartSheet(payload);
  return { ...whole, grid: levelGrid(grid, choice === null ? levelsOf(grid).at(-1).level : Number(choice)) };
}

function levelOfFrame(grid, frame) {
  return (grid.views.find((view) => view.frames.includes(frame)) || grid.views[0]).level;
}

function rowInLevel(grid, token) {
  return grid.row[token] < 0 ? -1 : grid.row[token] + (grid.views[grid.view[token]].top || 0);
}

function colInLevel(grid, token) {
  return grid.row[token] < 0 ? -1 : grid.col[token] + (grid.views[grid.view[token]].left || 0);
}

// Both levels in their places on the image: cells of the whole image lie under the smaller ones of its crops.
function stackedGrid(grid) {
  const levelAt = (token) => grid.views[grid.view[token]].level || 0;
  const lowest = Math.min(...levelsOf(grid).map((one) => one.level));
  return {
    ...grid,
    view: grid.row.map((row, token) => (row < 0 ? -1 : levelAt(token))),
    row: grid.row.map((_, token) => rowInLevel(grid, token)),
    col: grid.row.map((_, token) => colInLevel(grid, token)),
    stacked: grid.row.map((row, token) => row >= 0 && levelAt(token) === lowest),
  };
}

// Every view by itself, with cells of one size, as the model gets them: the whole image beside its crops, which stand
// apart. Units: one cell is 10 wide.
function apartSheet(payload) {
  const CELL = 10;
  const GAP = 14;
  const { grid } = payload;
  const shown = grid.views.map((view, at) => ({ ...view, at })).filter((view) => view.rows && view.cols && hasArea(view.seen));
  const levels = [...new Set(shown.map((view) => view.level || 0))].sort((a, b) => a - b).map((level) => {
    const views = shown.filter((view) => (view.level || 0) === level);
    const lefts = [...new Set(views.map((view) => view.left || 0))].sort((a, b) => a - b);
    const tops = [...new Set(views.map((view) => view.top || 0))].sort((a, b) => a - b);
    const placed = views.map((view) => {
      const x = (view.left || 0) * CELL + lefts.indexOf(view.left || 0) * GAP;
      const y = (view.top || 0) * CELL + tops.indexOf(view.top || 0) * GAP;
      return { at: view.at, source: view.seen, target: [x, y, x + view.cols * CELL, y + view.rows * CELL] };
    });
    return { placed, width: Math.max(...placed.map((p) => p.target[2])), height: Math.max(...placed.map((p) => p.target[3])) };
  });
  // Side by side, or one above the other where the crops are wide: whatever leaves the cells larger.
  const beside = levels.at(-1).height >= levels.at(-1).width;
  let [x, y] = [0, 0];
  const pieces = [];
  levels.forEach((level) => {
    level.placed.forEach((piece) => pieces.push({ ...piece, target: piece.target.map((edge, k) => edge + (k % 2 ? y : x)) }));
    if (beside) x += level.width + 2 * GAP;
    else y += level.height + 2 * GAP;
  });
  const size = [0, 1].map((k) => Math.max(...pieces.map((piece) => piece.target[2 + k])));
  const pieceOf = new Map(pieces.map((piece) => [piece.at, piece]));
  const box = [];
  grid.row.forEach((row, token) => {
    const piece = row >= 0 && hasArea(boxOf(grid, token)) ? pieceOf.get(grid.view[token]) : null;
    box.push(...(piece ? carry(boxOf(grid, token), piece) : [0, 0, 0, 0]));
  });
  const evidence = pieces.flatMap((piece) => (payload.evidence || []).map((one) => overlap(one, piece.source)).filter(hasArea)
    .map((one) => carry(one, piece)));
  return { size, pieces, evidence, named: true, grid: { ...grid, box, apart: true } };
}

function overlap(a, b) {
  return [Math.max(a[0], b[0]), Math.max(a[1], b[1]), Math.min(a[2], b[2]), Math.min(a[3], b[3])];
}

// A box of the image where a piece of the image lies on the sheet.
function carry(box, { source, target }) {
  return box.map((edge, i) => {
    const k = i % 2;
    return target[k] + ((edge - source[k]) / (source[2 + k] - source[k])) * (target[2 + k] - target[k]);
  });
}

// Where a token lies, in words; payload: what is drawn, with the grid as it came in `whole`.
function placeOf(payload, token) {
  const { grid, whole } = payload;
  const view = whole.views[whole.view[token]];
  const frames = (view && view.frames) || [];
  const name = frames.length ? framesWords(frames) : levelsOf(whole).length > 1 && view ? levelName(whole, view) : "";
  const here = grid.row[token] >= 0;
  const prefix = name && (!here || payload.named) ? `${name}: ` : "";
  if (whole.row[token] < 0) return `${prefix}a non-patch token`;
  const padding = hasArea(boxOf(whole, token)) ? "" : " (padding)";
  return `${prefix}row ${rowInLevel(whole, token)}, column ${colInLevel(whole, token)}${padding}`;
}

function levelName(grid, view) {
  return levelsOf(grid).find((one) => one.level === (view.level || 0)).name.replace(/^\d+ /, "");
}

// Frames are counted from 1 in words.
function framesWords(frames) {
  const numbers = frames.map((frame) => frame + 1);
  if (numbers.length === 1) return `frame ${numbers[0]}`;
  if (numbers.length === 2) return `frames ${numbers[0]} and ${numbers[1]}`;
  return `frames ${numbers[0]} to ${numbers.at(-1)}`;
}
