const line = element.querySelector(".tokviz-notice");
// While it works the server says something every few seconds. When it falls silent, the run is lost: the browser was
// away, or the server is gone.
const SILENCE_MS = 30000;
const LOST = "The connection to the server was lost, and with it this run: press Compare to ask again.";
let silence = 0;

function write(kind, text) {
  line.className = `tokviz-notice tokviz-notice-${kind}`;
  line.textContent = text;
  line.setAttribute("role", kind === "error" ? "alert" : "status");
  // On a narrow screen a press leads to the answers; when there are none, back to the reason.
  if (kind === "error" && innerWidth <= 900) line.scrollIntoView({ block: "center" });
}

function show(notice) {
  clearTimeout(silence);
  if (!notice || notice.kind !== "busy") document.dispatchEvent(new CustomEvent("tokviz:settled"));
  if (!notice) {
    write("none", "");
    return;
  }
  if (line.textContent !== notice.text || !line.classList.contains(`tokviz-notice-${notice.kind}`)) write(notice.kind, notice.text);
  if (notice.kind === "busy") silence = setTimeout(lose, SILENCE_MS);
  // What the lanes show is not the answer to what was just asked.
  if (notice.stale) document.dispatchEvent(new CustomEvent("tokviz:stale", { detail: notice.stale }));
}

function lose() {
  write("error", LOST);
  document.dispatchEvent(new CustomEvent("tokviz:lost"));
  trigger("lost");
}

watch("value", () => show(props.value));
show(props.value);
