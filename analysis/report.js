"use strict";
// Sorts a table when one of its headings is chosen, and filters its rows by words.
for (const section of document.querySelectorAll("section.table")) {
  const body = section.querySelector("tbody");
  const count = section.querySelector("output");
  const all = Array.from(body.rows);

  function sortBy(button) {
    const heading = button.closest("th");
    const column = heading.cellIndex;
    const down = heading.getAttribute("aria-sort") === "ascending";
    for (const other of heading.parentNode.cells) other.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", down ? "descending" : "ascending");
    const key = (row) => row.cells[column].dataset.order;
    const sign = down ? -1 : 1;
    const numeric = all.every((row) => key(row) === "" || !Number.isNaN(Number(key(row))));
    all.sort((a, b) => {
      const [x, y] = [key(a), key(b)];
      if (x === "" || y === "") return (x === "") - (y === "");
      return sign * (numeric ? Number(x) - Number(y) : x.localeCompare(y, undefined, { numeric: true }));
    });
    body.append(...all);
  }

  function filter(text) {
    const words = text.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const row of all) {
      const content = row.textContent.toLowerCase();
      row.hidden = !words.every((word) => content.includes(word));
      shown += !row.hidden;
    }
    count.textContent = words.length ? `${shown} of ${all.length} rows` : `${all.length} rows`;
  }

  for (const button of section.querySelectorAll("th button")) {
    button.addEventListener("click", () => sortBy(button));
  }
  section.querySelector("input").addEventListener("input", (event) => filter(event.target.value));
}
