// A click on a column's head sorts by it: numbers from the largest, words from A; again, the other way; a
// third time, as the table was. Without a script the table just stays as it is.
const textOf = (row, column) => row.cells[column].firstChild?.textContent.trim() ?? "";
const numberOf = (row, column) => parseFloat(textOf(row, column).replace("\u2212", "-").replaceAll(",", ""));

function byWords(column, sign) {
  return (a, b) => sign * textOf(a, column).localeCompare(textOf(b, column), undefined, { numeric: true });
}

function byNumber(column, sign) {
  return (a, b) => {
    const [x, y] = [numberOf(a, column), numberOf(b, column)];
    // What has no number stays below, whichever way the others go.
    if (Number.isNaN(x) || Number.isNaN(y)) return Number.isNaN(x) - Number.isNaN(y);
    return sign * (x - y);
  };
}

for (const table of document.querySelectorAll("table.sorts")) {
  const body = table.tBodies[0];
  const before = [...body.rows];
  const summaries = before.filter((row) => row.classList.contains("summary"));
  const rows = before.filter((row) => !row.classList.contains("summary"));
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    // Such as the verdicts: a column without a number has words, too.
    const words =
      column === 0 || head.classList.contains("words") || rows.every((row) => Number.isNaN(numberOf(row, column)));
    const order = words ? ["ascending", "descending"] : ["descending", "ascending"];
    const button = document.createElement("button");
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const next = order[order.indexOf(head.ariaSort) + 1];
      for (const other of heads) other.ariaSort = null;
      if (!next) return body.append(...before);
      head.ariaSort = next;
      const by = words ? byWords : byNumber;
      body.append(...[...rows].sort(by(column, next === "ascending" ? 1 : -1)), ...summaries);
    });
  });
}
