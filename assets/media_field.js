// One field for an image or a video: drop, click or paste; what was chosen is shown, a video can be played. The value
// is gradio FileData; the server looks at the file's content and decides what it is.

const node = (name) => element.querySelector(`.mf-${name}`);
const root = node("root");
const MEGA = 1e6;
let uploads = 0;

function say(words) {
  node("status").textContent = words;
}

function clip(name, most) {
  return name.length > most ? `${name.slice(0, most - 1)}…` : name;
}

function show(file) {
  const [image, video] = [node("image"), node("video")];
  const url = file && file.url;
  const isVideo = Boolean(file && (file.mime_type || "").startsWith("video/"));
  root.dataset.shows = !file ? "none" : isVideo ? "video" : "image";
  node("name").textContent = file ? clip(file.orig_name || "the chosen file", 90) : "";
  if (!isVideo || !url) {
    video.pause();
    video.removeAttribute("src");
    video.load();
  } else if (video.getAttribute("src") !== url) {
    video.src = url;
  }
  if (isVideo || !url) image.removeAttribute("src");
  else if (image.getAttribute("src") !== url) image.src = url;
}

// The lanes are told at once that another file is in the form, and by whom: what the server puts here comes with lanes.
function announce(file, byVisitor) {
  document.dispatchEvent(new CustomEvent("tokviz:media", { detail: { file, byVisitor } }));
}

function set(file) {
  props.value = file;
  show(file);
  announce(file, true);
}

async function take(file) {
  if (!file) return;
  const number = ++uploads;
  const size = `${(file.size / MEGA).toFixed(file.size < 10 * MEGA ? 1 : 0)} MB`;
  const fault = !file.size ? "is empty" : file.size > props.max_mb * MEGA ? `is ${size}; the limit is ${props.max_mb} MB` : "";
  if (fault) {
    say(`${clip(file.name, 60)} ${fault}.`);
    setTimeout(() => { if (number === uploads) say(""); }, 6000);
    return;
  }
  say(`Uploading ${clip(file.name, 60)} (${size}) …`);
  try {
    const { path, url } = await upload(file);
    if (number !== uploads) return; // another file was chosen meanwhile
    say("");
    set({ path, url, orig_name: file.name, mime_type: file.type || null, size: file.size, is_stream: false, meta: { _type: "gradio.FileData" } });
    trigger("upload");
  } catch {
    if (number === uploads) say(`${clip(file.name, 60)} could not be uploaded; please try again.`);
  }
}

node("input").accept = props.accept;
node("drop").addEventListener("click", () => node("input").click());
node("input").addEventListener("change", (event) => {
  take(event.target.files[0]);
  event.target.value = ""; // so that the same file can be chosen again
});
node("remove").addEventListener("click", () => {
  uploads += 1;
  say("");
  set(null);
  node("drop").focus();
});
// What this browser cannot show is named; the server may read it all the same.
node("image").addEventListener("error", () => { if (props.value && node("image").getAttribute("src")) root.dataset.shows = "name"; });
node("video").addEventListener("error", () => { if (props.value && node("video").getAttribute("src")) root.dataset.shows = "name"; });
root.addEventListener("dragover", (event) => {
  event.preventDefault();
  root.dataset.over = "";
});
root.addEventListener("dragleave", (event) => { if (!root.contains(event.relatedTarget)) delete root.dataset.over; });
root.addEventListener("drop", (event) => {
  event.preventDefault();
  delete root.dataset.over;
  take(event.dataTransfer.files[0]);
});
// Pasted anywhere on the page, unless text is being written.
document.addEventListener("paste", (event) => {
  if (element.isConnected && event.clipboardData.files.length) take(event.clipboardData.files[0]);
});
watch("value", () => {
  show(props.value);
  announce(props.value || null, Boolean(window.tokvizMemory?.isChosen(props.value)));
});
show(props.value);
