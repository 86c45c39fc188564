// Sorts the table of cases by the column whose head is pressed, and hides rows that a word or a verdict filters out.
const table = document.querySelector("table.cases");
const body = table.tBodies[0];
const rows = [...body.rows];
const filter = document.querySelector(".filter");
const [word, state, status] = ["input", "select", "[role=status]"].map((what) => filter.querySelector(what));

// The first number in a cell, or its text: "–" comes last.
function value(row, column) {
  const text = row.cells[column].innerText.trim();
  const number = column < 2 ? NaN : parseFloat(text.replace(/^[^0-9.]*/, "").replace(/,/g, ""));
  return text === "–" ? Infinity : Number.isNaN(number) ? text : number;
}

function sort(head) {
  const column = head.cellIndex;
  const down = head.ariaSort === "ascending";
  for (const other of table.tHead.rows[0].cells) other.ariaSort = "none";
  head.ariaSort = down ? "descending" : "ascending";
  const keyed = rows.map((row) => [value(row, column), row]);
  keyed.sort(([a], [b]) => (typeof a === typeof b ? (a < b ? -1 : a > b ? 1 : 0) : typeof a === "number" ? -1 : 1));
  if (down) keyed.reverse();
  body.append(...keyed.map(([, row]) => row));
}

function show() {
  const words = word.value.toLowerCase().split(/\s+/);
  let shown = 0;
  for (const row of rows) {
    const text = row.innerText.toLowerCase();
    row.hidden = !words.every((each) => text.includes(each)) || (state.value && row.dataset.state !== state.value);
    shown += row.hidden ? 0 : 1;
  }
  status.textContent = shown < rows.length ? `${shown} of ${rows.length}` : "";
}

for (const head of table.tHead.rows[0].cells) head.querySelector("button").onclick = () => sort(head);
for (const each of [word, state]) each.oninput = show;
filter.hidden = false;
