// The view of groups: what was merged into which token, or stands for which. Painting, and the marks of a pointed group.

// The largest groups in colours of their own, all others in one grey: dozens of colours cannot be told apart.
function paintClusters(brush, scene) {
  const { index, stage, colours } = scene;
  const { carriers } = stage;
  const { stacked } = brush.grid;
  const isLarge = (absorber) => index.hues.get(absorber) < scene.settings.largest;
  veil(brush, tokensWhere(brush, (token) => carriers[token] < 0), scene, tokensWhere(brush, (token) => carriers[token] >= 0));
  laidOn(brush, scene.opacity * 0.9, (over) => {
    for (const lower of stacked ? [true, false] : [false]) {
      for (const [absorber, members] of index.groups) {
        const here = stacked ? members.filter((token) => stacked[token] === lower) : members;
        over.context.fillStyle = isLarge(absorber) ? groupColour(index.hues.get(absorber), 1) : SMALL_GROUP;
        if (members.length > 1) over.context.fill(cellPath(over, here));
        else if (stacked && !lower) cutOut(over, here);
      }
    }
  });
  const grouped = tokensWhere(brush, (token) => carriers[token] >= 0 && index.groups.get(carriers[token]).length > 1);
  strokeSides(brush, grouped, "rgba(0,0,0,.55)", 1.25, (token, other) => carriers[token] !== carriers[other]);
  outline(brush, stage.kept.filter((token) => index.groups.get(token).length === 1), colours.kept, 1.5, 0.55);
  for (const [absorber, members] of index.groups) {
    if (members.length > 1 && isLarge(absorber)) paintTarget(brush, absorber, members.length);
  }
}

const SMALL_GROUP = "rgb(168,171,176)";

// The patch that carries a group: a ring, and inside it how many patches the token now stands for.
function paintTarget(brush, token, size) {
  const { context, ratio } = brush;
  const box = boxOf(brush.grid, token);
  if (!hasArea(box)) return;
  const [x, y] = centreOf(brush.grid, token);
  const side = Math.min((box[2] - box[0]) * brush.sx, (box[3] - box[1]) * brush.sy);
  const numbered = side >= 17 * ratio;
  const circle = (radius) => {
    context.beginPath();
    context.arc(x * brush.sx, y * brush.sy, radius, 0, 2 * Math.PI);
  };
  const radius = Math.max(side * (numbered ? 0.42 : 0.3), 2 * ratio);
  if (numbered) {
    circle(radius);
    context.fillStyle = "rgba(0,0,0,.72)";
    context.fill();
  }
  for (const [colour, line] of [["rgba(0,0,0,.75)", 2.4], ["#fff", 1.1]]) {
    circle(radius);
    context.strokeStyle = colour;
    context.lineWidth = line * ratio;
    context.stroke();
  }
  if (numbered) label(brush, token, String(size), "#fff", 17);
}

function groupMarks(scene, shown, pixel) {
  const { grid, size: [width, height] } = scene.payload;
  const absorber = scene.stage.carriers[shown];
  // Stages that merge over all levels: only what lies in the level that is drawn has a place here.
  const members = (scene.index.groups.get(absorber) || []).filter((token) => hasArea(boxOf(grid, token)));
  if ((scene.index.groups.get(absorber) || []).length < 2) return [];
  const cells = members.map((token) => boxPath(boxOf(grid, token))).join("");
  const nodes = [svgNode("path", { d: `M0 0H${width}V${height}H0Z${cells}`, "fill-rule": "evenodd" }, "tv-dim")];
  if (!members.includes(absorber)) return nodes;
  for (const member of members) if (member !== absorber) nodes.push(...link(grid, member, absorber, "tv-link"));
  const [x, y] = centreOf(grid, absorber);
  const text = svgNode("text", { x, y, "font-size": 13 * pixel, "stroke-width": 3 * pixel, "dominant-baseline": "central" }, "tv-size");
  text.textContent = String(scene.index.groups.get(absorber).length);
  return [...nodes, text];
}

// Evidence that was merged is not lost: a line from each such patch to the one that carries it.
const MOST_LINKS = 200;

function absorbedLinks(scene, pixel) {
  const { grid } = scene.payload;
  const { carriers, covers } = scene.stage;
  if (covers) return [];
  const drawn = (token) => token >= 0 && hasArea(boxOf(grid, token));
  const merged = grid.shows.filter((token) => carriers[token] !== token && drawn(token) && drawn(carriers[token])).slice(0, MOST_LINKS);
  const rings = [...new Set(merged.map((token) => carriers[token]))].map((token) => {
    const [cx, cy] = centreOf(grid, token);
    return svgNode("circle", { cx, cy, r: 5 * pixel }, "tv-absorber");
  });
  return [...merged.flatMap((token) => link(grid, token, carriers[token], "tv-absorbed")), ...rings];
}

function link(grid, from, to, className) {
  const [[x1, y1], [x2, y2]] = [centreOf(grid, from), centreOf(grid, to)];
  return ["tv-link-casing", className].map((name) => svgNode("line", { x1, y1, x2, y2 }, name));
}

function boxPath([x0, y0, x1, y1]) {
  return `M${x0} ${y0}H${x1}V${y1}H${x0}Z`;
}
