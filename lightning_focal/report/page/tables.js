"use strict";
// Tables as files: a cell that holds several numbers ("0.46 → 0.56 +0.10 [0.07, 0.13]") becomes a column for each.
report.cellParts = function (text) {
  const found = text.trim().replace(/\s+/g, " ").match(/^(?:(\S+) → (\S+) ?)?(?:(\S+)(?: \[(\S+), (\S+)\])?)?$/);
  if (!found || !found.slice(1).some((part) => part !== undefined)) return { "": text.trim() };
  const [from, to, value, low, high] = found.slice(1);
  const named = { from, to, [from === undefined ? "" : "difference"]: value, low, high };
  return Object.fromEntries(Object.entries(named).filter(([, part]) => part !== undefined));
};

// A name that a spreadsheet would take for a formula starts with an apostrophe.
report.csvCell = function (text, isName) {
  const safe = isName && /^[=+\-@\t\r]/.test(text) ? "'" + text : text;
  return /[",\n\r]/.test(safe) ? '"' + safe.replaceAll('"', '""') + '"' : safe;
};

report.csv = function (table) {
  const [heads, ...rows] = [...table.rows].map((row) => [...row.cells].map((cell) => cell.textContent));
  const head = heads.map((text) => text.split("\n")[0]); // the second line says how to read a cell
  const parts = rows.map((row) => row.map((text, at) => (at ? report.cellParts(text) : { "": text })));
  const order = ["", "from", "to", "difference", "low", "high"];
  const columns = head.flatMap((_, at) => order.filter((name) => parts.some((row) => name in row[at])).map((name) => [at, name]));
  const lines = [
    columns.map(([at, name]) => report.csvCell(name ? `${head[at]} ${name}` : head[at], true)),
    ...parts.map((row) => columns.map(([at, name]) => report.csvCell(row[at][name] ?? "", !at))),
  ];
  return lines.map((line) => line.join(",") + "\r\n").join("");
};

for (const button of document.querySelectorAll("button.csv"))
  button.addEventListener("click", () => {
    const section = button.closest("section");
    const href = URL.createObjectURL(new Blob(["\ufeff", report.csv(section.querySelector("table"))], { type: "text/csv" }));
    report.make("a", { href, download: `${section.id}.csv` }).click();
    setTimeout(() => URL.revokeObjectURL(href), 1000);
  });

// A table that is wider than its place says so.
const wide = new ResizeObserver((found) => {
  for (const { target } of found) target.parentElement.classList.toggle("wide", target.scrollWidth > target.parentElement.clientWidth + 1);
});
for (const table of document.querySelectorAll(".scroll > table")) wide.observe(table);
