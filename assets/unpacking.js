// Reads back what tokviz/ui/packing.py wrote: lists of a stage as short text.

const PACKED = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
const PACKED_AT = new Uint8Array(128);
[...PACKED].forEach((letter, i) => { PACKED_AT[letter.charCodeAt(0)] = i; });
const MANTISSAS = 9000;

function readNumbers(text, width) {
  const numbers = new Array(text.length / width);
  for (let i = 0, at = 0; at < text.length; i++) {
    let number = 0;
    for (let k = 0; k < width; k++) number = number * 64 + PACKED_AT[text.charCodeAt(at++)];
    numbers[i] = number;
  }
  return numbers;
}

function readValues(values) {
  if (Array.isArray(values)) return values;
  if (values.of) return readNumbers(values.at, 1).map((code) => (code ? values.of[code - 1] : null));
  const { lowest, signs, at } = values;
  return readNumbers(at, 3).map((code) => {
    if (code < 2) return code ? 0 : null;
    const rest = Math.floor((code - 2) / MANTISSAS);
    // Read as it is written in decimals, so that it is the very number that was sent.
    const size = Number(`${(code - 2) % MANTISSAS + 1000}e${Math.floor(rest / signs) + lowest}`);
    return signs === 2 && rest % 2 ? -size : size;
  });
}

function readPairs(text, gone, kept) {
  if (typeof text !== "string") return text;
  return readNumbers(text, 2).flatMap((place, i) => (place ? [gone[i], kept[place - 1]] : []));
}

function readOrder(order, length) {
  if (typeof order !== "string") return order;
  const steps = new Array(length).fill(-1);
  readNumbers(order, 3).forEach((at, step) => { steps[at] = step; });
  return steps;
}

function readStages(stages, nTokens) {
  let alive = Array.from({ length: nTokens }, (_, token) => token);
  return stages.map((stage) => {
    if (typeof stage.gone !== "string") return stage;
    const bits = readNumbers(stage.gone, 1);
    const leaves = (_, i) => bits[Math.floor(i / 6)] & (32 >> (i % 6));
    const gone = alive.filter(leaves);
    const kept = alive.filter((token, i) => !leaves(token, i));
    const read = {
      ...stage, gone, order: readOrder(stage.order, alive.length), maps: stage.maps.map((map) => ({ ...map, values: readValues(map.values) })),
      absorbed: readPairs(stage.absorbed, gone, kept), covered: readPairs(stage.covered, gone, kept),
    };
    alive = kept;
    return read;
  });
}
