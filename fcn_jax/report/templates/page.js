"use strict";
(() => {
  const all = (selector) => document.querySelectorAll(selector);

  // Tables: a click on a heading sorts by its column, a second click the other way round.
  const value = (cell) => {
    const text = cell.dataset.v ?? cell.textContent.trim();
    return text === "" || isNaN(text) ? text : Number(text);
  };
  const missing = (v) => v === "" || v === "\u2013";
  const compare = (a, b) => (typeof a === typeof b ? (a < b ? -1 : a > b ? 1 : 0) : typeof a === "number" ? -1 : 1);
  for (const table of all("table.sort")) {
    const heads = [...table.tHead.rows[0].cells];
    const sort = (column) => {
      const down = heads[column].ariaSort !== "descending";
      heads.forEach((head) => (head.ariaSort = "none"));
      heads[column].ariaSort = down ? "descending" : "ascending";
      const rows = [...table.tBodies[0].rows];
      const key = (row) => value(row.cells[column]);
      rows.sort((a, b) => {
        const [x, y] = [key(a), key(b)];
        if (missing(x) || missing(y)) return missing(x) - missing(y);
        return (down ? -1 : 1) * compare(x, y);
      });
      table.tBodies[0].append(...rows);
    };
    heads.forEach((head, column) => {
      head.tabIndex = 0;
      head.ariaSort = "none";
      head.title = "sort";
      head.addEventListener("click", () => sort(column));
      head.addEventListener("keydown", (event) => event.key === "Enter" && sort(column));
    });
  }

  // Images and charts: a click shows one as large as the window.
  const box = document.getElementById("box");
  const enlarge = (figure) => {
    const copy = figure.cloneNode(true);
    const image = copy.querySelector("img[data-full]");
    if (image) image.src = image.dataset.full;
    box.replaceChildren(copy);
    box.showModal();
  };
  box.addEventListener("click", () => box.close());
  for (const figure of all("figure.zoom, figure.chart")) {
    figure.tabIndex = 0;
    figure.addEventListener("click", () => enlarge(figure));
    figure.addEventListener("keydown", (event) => event.key === "Enter" && enlarge(figure));
  }

  // A run that is still training: the age of the page, and a newer page now and then.
  const live = document.getElementById("live");
  if (live) {
    const every = Number(live.dataset.every);
    const age = () => Math.max(0, Date.now() / 1000 - Number(live.dataset.updated));
    const text = (s) => (s < 90 ? `${Math.round(s)} s` : s < 5400 ? `${Math.round(s / 60)} min` : `${Math.round(s / 3600)} h`);
    const show = () => {
      const late = live.dataset.state === "running" && age() > Number(live.dataset.late);
      live.querySelector("span").textContent =
        `updated ${text(age())} ago` + (late ? "; no news for long: it may have been killed" : "");
    };
    show();
    setInterval(show, 1000);
    if (live.dataset.state === "running") {
      setInterval(() => box.open || location.reload(), 1000 * every);
    }
  }

  // Predictions: only the images that show a class, those with most of it first.
  const filter = document.getElementById("filter");
  if (filter) {
    const cards = [...all(".card")];
    const areas = new Map(cards.map((card) => [card, JSON.parse(card.dataset.areas)]));
    filter.addEventListener("change", () => {
      const area = (card) => areas.get(card)[filter.value] || 0;
      const shown = filter.value === "" ? cards : cards.filter(area).sort((a, b) => area(b) - area(a));
      cards.forEach((card) => (card.hidden = true));
      shown.forEach((card) => (card.hidden = false));
      document.getElementById("cards").append(...shown);
      document.getElementById("shown").textContent = shown.length;
      document.getElementById("order").hidden = filter.value === "";
    });
  }
})();
