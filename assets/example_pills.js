// The row of examples. The value holds their names; a press adds which one was chosen. The pill that is lit is the example
// that the view shows, which the view alone knows: it writes its number on the document.

const row = element.querySelector(".ep-row");
const page = document.documentElement;

function pill(name, index) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "ep-pill";
  button.textContent = name;
  button.title = name;
  button.addEventListener("click", () => {
    props.value = { names: props.value.names, chosen: index };
    trigger("select");
  });
  const item = document.createElement("li");
  item.append(button);
  return item;
}

function light() {
  const shown = page.dataset.tokvizExample;
  row.querySelectorAll(".ep-pill").forEach((button, i) => {
    if (String(i) === shown) button.setAttribute("aria-current", "true");
    else button.removeAttribute("aria-current");
  });
}

row.replaceChildren(...props.value.names.map(pill));
new MutationObserver(light).observe(page, { attributes: true, attributeFilter: ["data-tokviz-example"] });
light();
