"use strict";
// Tooltips: whatever has data-t says it when pointed at or touched.
const tip = document.createElement("div");
tip.className = "tip";
tip.hidden = true;
document.body.append(tip);
const place = (event) => {
  const width = tip.offsetWidth, height = tip.offsetHeight;
  const left = Math.min(Math.max(12, event.clientX + 14), innerWidth - width - 12);
  const below = event.clientY + 18;
  tip.style.left = left + "px";
  tip.style.top = (below + height > innerHeight - 8 ? Math.max(8, event.clientY - height - 12) : below) + "px";
};
document.addEventListener("pointerover", (event) => {
  const owner = event.target.closest ? event.target.closest("[data-t]") : null;
  tip.hidden = !owner;
  if (owner) {
    tip.textContent = owner.dataset.t;
    place(event);
  }
});
document.addEventListener("pointermove", (event) => tip.hidden || place(event));
document.addEventListener("scroll", () => { tip.hidden = true; }, { passive: true });
// Sorting: a click on a head sorts by it, once more the other way round.
for (const table of document.querySelectorAll("table.sortable")) {
  table.querySelectorAll("th").forEach((head, column) => {
    head.classList.add("sorts");
    head.tabIndex = 0;
    const sort = () => {
      const up = head.getAttribute("aria-sort") !== "ascending";
      table.querySelectorAll("th").forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const key = (row) => {
        const cell = row.cells[column];
        return cell.dataset.v === undefined ? cell.textContent : Number(cell.dataset.v);
      };
      const order = (one, other) => {
        const [a, b] = [key(one), key(other)];
        return typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), "en", { numeric: true });
      };
      const rows = [...table.tBodies[0].rows].sort(order);
      table.tBodies[0].append(...(up ? rows : rows.reverse()));
    };
    head.addEventListener("click", sort);
    head.addEventListener("keydown", (event) => { if (event.key === "Enter") sort(); });
  });
}
// A mark that leads into something folded unfolds it.
const unfold = () => {
  const target = location.hash && document.getElementById(location.hash.slice(1));
  const folded = target && target.closest("details");
  if (folded) {
    folded.open = true;
    target.scrollIntoView({ block: "center" });
  }
};
addEventListener("hashchange", unfold);
unfold();
