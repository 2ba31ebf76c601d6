// One zoom for all lanes: wheel, pinch, drag, buttons and keys; what is drawn follows on every image at once. The image
// and the marks are scaled by the browser while the hand moves, and drawn sharply when it rests.

const MOST_ZOOM = 12;
const ZOOM_STEP = 1.5;
const RESTS_MS = 90;
const zoom = { scale: 1, x: 0, y: 0, pointers: new Map(), last: null, moved: 0, rests: 0, frame: 0 };

// x, y: the left upper corner of what is seen, as shares of the image.
function limited({ scale, x, y }) {
  const held = Math.min(Math.max(scale, 1), MOST_ZOOM);
  const most = 1 - 1 / held;
  return { scale: held, x: Math.min(Math.max(x, 0), most), y: Math.min(Math.max(y, 0), most) };
}

// Around a point of the image frame (shares of it), which stays where it is.
function zoomedAt(from, factor, [px, py]) {
  const scale = Math.min(Math.max(from.scale * factor, 1), MOST_ZOOM);
  return limited({ scale, x: from.x + px / from.scale - px / scale, y: from.y + py / from.scale - py / scale });
}

function setZoom(next) {
  const { scale, x, y } = limited(next);
  if (scale === zoom.scale && x === zoom.x && y === zoom.y) return;
  Object.assign(zoom, { scale, x, y });
  cancelAnimationFrame(zoom.frame);
  zoom.frame = requestAnimationFrame(applyZoom);
}

function applyZoom() {
  const { scale, x, y } = zoom;
  const root = part("root");
  root.style.setProperty("--tv-zoom", String(scale));
  root.style.setProperty("--tv-zoom-x", `${-100 * x * scale}%`);
  root.style.setProperty("--tv-zoom-y", `${-100 * y * scale}%`);
  root.classList.toggle("tv-zoomed", scale > 1);
  part("zoom-told").textContent = `${Math.round(100 * scale)}%`;
  part("zoom-reset").disabled = scale === 1;
  part("zoom-out").disabled = scale === 1;
  part("zoom-in").disabled = scale === MOST_ZOOM;
  clearTimeout(zoom.rests);
  zoom.rests = setTimeout(redraw, RESTS_MS);
}

function shareIn(frame, event) {
  const box = frame.getBoundingClientRect();
  return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
}

// Where of the image a share of its frame is.
function onImage([px, py]) {
  return [zoom.x + px / zoom.scale, zoom.y + py / zoom.scale];
}

function zoomBy(factor) {
  setZoom(zoomedAt(zoom, factor, [0.5, 0.5]));
  part("live").textContent = `Zoom ${Math.round(100 * zoom.scale)} percent, all lanes.`;
}

function resetZoom() {
  setZoom({ scale: 1, x: 0, y: 0 });
}

function panBy(dx, dy) {
  setZoom({ scale: zoom.scale, x: zoom.x + dx / zoom.scale, y: zoom.y + dy / zoom.scale });
}

// Keys of an image: plus, minus, 0; Shift and arrows move what is seen. Returns whether the key was one of them.
function zoomKey(event) {
  const steps = { ArrowUp: [0, -0.15], ArrowDown: [0, 0.15], ArrowLeft: [-0.15, 0], ArrowRight: [0.15, 0] };
  if (event.key === "+" || event.key === "=") zoomBy(ZOOM_STEP);
  else if (event.key === "-") zoomBy(1 / ZOOM_STEP);
  else if (event.key === "0") resetZoom();
  else if (event.shiftKey && event.key in steps && zoom.scale > 1) panBy(...steps[event.key]);
  else return false;
  return true;
}

// A patch that is walked to by keys is brought into what is seen.
function revealToken(token) {
  if (zoom.scale === 1 || token < 0 || !hasArea(boxOf(state.payload.grid, token))) return;
  const [width, height] = state.payload.size;
  const [x0, y0, x1, y1] = boxOf(state.payload.grid, token);
  const span = 1 / zoom.scale;
  const into = (at, low, high) => (low < at ? low : high > at + span ? high - span : at);
  setZoom({ scale: zoom.scale, x: into(zoom.x, x0 / width, x1 / width), y: into(zoom.y, y0 / height, y1 / height) });
}

// A wheel turns the page; with Ctrl (which a pinch on a touchpad sends, too) or once zoomed in, it zooms.
function wheelZoom(image, event) {
  if (!event.ctrlKey && !event.metaKey && zoom.scale === 1) return;
  event.preventDefault();
  setZoom(zoomedAt(zoom, Math.exp(-event.deltaY * (event.deltaMode ? 0.05 : event.ctrlKey ? 0.01 : 0.0022)), shareIn(image, event)));
}

// Two fingers pinch and drag; one pointer drags what is zoomed. A drag is no click.
function dragZoom(image, event) {
  const known = zoom.pointers.get(event.pointerId);
  if (!known) return;
  const now = shareIn(image, event);
  const [a, b] = [...zoom.pointers.values()];
  if (zoom.pointers.size === 2) {
    const distance = () => Math.hypot(a[0] - b[0], a[1] - b[1]);
    const before = [distance(), (a[0] + b[0]) / 2, (a[1] + b[1]) / 2];
    [known[0], known[1]] = now;
    const after = [distance(), (a[0] + b[0]) / 2, (a[1] + b[1]) / 2];
    const moved = limited({ scale: zoom.scale, x: zoom.x + (before[1] - after[1]) / zoom.scale, y: zoom.y + (before[2] - after[2]) / zoom.scale });
    setZoom(before[0] > 0.02 ? zoomedAt(moved, after[0] / before[0], after.slice(1)) : moved);
    zoom.moved += 1;
  } else {
    const [dx, dy] = [now[0] - known[0], now[1] - known[1]];
    zoom.moved += Math.hypot(dx, dy);
    [known[0], known[1]] = now;
    if (zoom.scale > 1) panBy(-dx, -dy);
  }
}

function wireZoomOf(lane) {
  const { image } = lane;
  image.addEventListener("wheel", (event) => wheelZoom(image, event), { passive: false });
  image.addEventListener("pointerdown", (event) => {
    if (event.button) return;
    if (!zoom.pointers.size) zoom.moved = 0;
    zoom.pointers.set(event.pointerId, shareIn(image, event));
    if (zoom.scale > 1) image.setPointerCapture(event.pointerId);
  });
  image.addEventListener("pointermove", (event) => dragZoom(image, event));
  const release = (event) => zoom.pointers.delete(event.pointerId);
  for (const name of ["pointerup", "pointercancel", "lostpointercapture"]) image.addEventListener(name, release);
  image.addEventListener("pointerleave", (event) => { if (!image.hasPointerCapture(event.pointerId)) release(event); });
  image.addEventListener("click", (event) => { if (zoom.moved > 0.02) event.stopImmediatePropagation(); }, true);
  // Two fingers are the image's, one scrolls the page until it is zoomed.
  image.addEventListener("touchmove", (event) => { if (event.touches.length > 1 || zoom.scale > 1) event.preventDefault(); }, { passive: false });
}

function wireZoom() {
  part("zoom-in").addEventListener("click", () => zoomBy(ZOOM_STEP));
  part("zoom-out").addEventListener("click", () => zoomBy(1 / ZOOM_STEP));
  part("zoom-reset").addEventListener("click", () => { resetZoom(); part("live").textContent = "Whole image, all lanes."; });
}
