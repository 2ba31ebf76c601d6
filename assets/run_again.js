// What asks the same again: Python, a command, a link. Written as text, copied as it is.

const root = element.querySelector(".ra-root");
const at = (name) => root.querySelector(`.ra-${name}`);

function draw() {
  const value = props.value;
  root.classList.toggle("ra-ready", Boolean(value && value.python));
  if (!value || !value.python) return;
  at("python").textContent = value.python;
  at("command").textContent = value.command;
  at("link").textContent = location.origin + location.pathname + location.search + value.hash;
  at("note").textContent = value.own ? "Your own image is not in the link: choose it again there." : "Nothing on the server has to remember it.";
}

root.querySelectorAll(".ra-copy").forEach((button) => button.addEventListener("click", async () => {
  const source = at(button.dataset.part);
  let said = "Copied";
  try {
    await navigator.clipboard.writeText(source.textContent);
  } catch { // closed to the page (plain http): selected for the keyboard's own copy
    getSelection().selectAllChildren(source);
    said = "Selected";
  }
  button.textContent = said;
  at("told").textContent = said;
  setTimeout(() => { button.textContent = "Copy"; at("told").textContent = ""; }, 1800);
}));
watch("value", draw);
draw();
