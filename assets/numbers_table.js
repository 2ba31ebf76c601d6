// The numbers of every run as a table: value {headers, data}, cells are text, numbers or null. Sorted by a press on a head,
// copied as text that a spreadsheet takes.

const table = element.querySelector("table");
const told = element.querySelector(".nt-told");
const sorting = { column: -1, up: true };

function make(tag, className, text) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text !== undefined) node.textContent = text;
  return node;
}

const given = () => props.value || { headers: [], data: [] };
const isNumeric = (column) => given().data.some((row) => typeof row[column] === "number") && given().data.every((row) => row[column] === null || typeof row[column] === "number");
const shown = (value) => (value === null || value === undefined ? "" : typeof value === "number" ? value.toLocaleString("en-US", { maximumSignificantDigits: 6 }) : String(value));

// Nothing comes last, whichever way.
function sorted() {
  const { column, up } = sorting;
  const rows = [...given().data];
  if (column < 0) return rows;
  const empty = (value) => value === null || value === undefined || value === "";
  return rows.sort((one, other) => {
    const [a, b] = [one[column], other[column]];
    if (empty(a) || empty(b)) return Number(empty(a)) - Number(empty(b));
    const order = typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), "en");
    return up ? order : -order;
  });
}

function draw() {
  const { headers } = given();
  const numeric = headers.map((_, column) => isNumeric(column));
  const head = make("tr");
  headers.forEach((name, column) => {
    const cell = make("th", numeric[column] ? "nt-number" : "");
    cell.scope = "col";
    cell.setAttribute("aria-sort", sorting.column !== column ? "none" : sorting.up ? "ascending" : "descending");
    const button = make("button", "nt-sort", name);
    button.type = "button";
    button.addEventListener("click", () => {
      Object.assign(sorting, { column, up: sorting.column === column ? !sorting.up : true });
      draw();
      table.querySelectorAll("button")[column].focus();
    });
    cell.append(button);
    head.append(cell);
  });
  const body = make("tbody");
  body.append(...sorted().map((row) => {
    const line = make("tr");
    line.append(...row.map((value, column) => Object.assign(make("td", numeric[column] ? "nt-number" : "", shown(value)), { title: typeof value === "string" && value.length > 30 ? value : "" })));
    return line;
  }));
  const top = make("thead");
  top.append(head);
  table.replaceChildren(top, body);
}

element.querySelector(".nt-copy").addEventListener("click", async () => {
  const plain = (value) => (value === null || value === undefined ? "" : String(value).replace(/[\t\n\r]+/g, " "));
  const text = [given().headers, ...sorted()].map((row) => row.map(plain).join("\t")).join("\n");
  try {
    await navigator.clipboard.writeText(text);
    told.textContent = `${given().data.length} rows copied`;
  } catch { // closed to the page (plain http): selected for the keyboard's own copy
    getSelection().selectAllChildren(table);
    told.textContent = "Selected: press Ctrl+C";
  }
  setTimeout(() => { told.textContent = ""; }, 2500);
});
watch("value", draw);
draw();
