"use strict";
// Sorting, filters, pictures on demand and the theme. The page reads well without it; it loads nothing.
(() => {
  const root = document.documentElement;
  root.dataset.errors = "0";
  window.addEventListener("error", () => { root.dataset.errors = String(Number(root.dataset.errors) + 1); });

  // Sorting: a click on a column's head puts the better ones first, the next click turns the order round.
  const valueOf = (row, place, text) => {
    const raw = row.cells[place].dataset.value ?? "";
    if (raw === "") return null; // missing values and chance without one stay last
    return text ? raw : parseFloat(raw);
  };
  const sortBy = (table, head) => {
    const heads = [...head.parentElement.children];
    const place = heads.indexOf(head), text = head.dataset.type === "text";
    const first = head.dataset.better || (text ? "ascending" : "descending");
    const other = first === "ascending" ? "descending" : "ascending";
    const order = head.getAttribute("aria-sort") === first ? other : first;
    heads.forEach((entry) => entry.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", order);
    const sign = order === "ascending" ? 1 : -1;
    const body = table.tBodies[0];
    const rows = [...body.rows].map((row) => ({ row, value: valueOf(row, place, text) }));
    rows.sort((a, b) => {
      if (a.value === null || b.value === null) return (a.value === null) - (b.value === null);
      return sign * (text ? a.value.localeCompare(b.value, "en") : a.value - b.value);
    });
    rows.forEach((entry) => body.append(entry.row));
  };
  document.querySelectorAll("table[data-sortable]").forEach((table) => {
    table.querySelectorAll("thead th").forEach((head) => {
      head.querySelector("button").addEventListener("click", () => sortBy(table, head));
    });
  });

  // Filters of rows.
  const filterRows = (name) => {
    const table = document.getElementById(name);
    const words = document.querySelector(`[data-filter="${name}"]`).value.toLowerCase().split(/\s+/).filter(Boolean);
    const controls = document.querySelector(`[data-controls="${name}"]`).checked;
    let shown = 0;
    for (const row of table.tBodies[0].rows) {
      const about = row.cells[0].textContent.toLowerCase() + " " + row.dataset.kind;
      const fits = words.every((word) => about.includes(word)) && (controls || !["control", "chance"].includes(row.dataset.kind));
      row.hidden = !fits;
      shown += fits;
    }
    document.querySelector(`[data-count="${name}"]`).textContent = `${shown} of ${table.tBodies[0].rows.length} rows`;
  };
  document.querySelectorAll("[data-filter]").forEach((input) => {
    input.addEventListener("input", () => filterRows(input.dataset.filter));
    filterRows(input.dataset.filter);
  });
  document.querySelectorAll("[data-controls]").forEach((input) => {
    input.addEventListener("change", () => filterRows(input.dataset.controls));
  });

  // Questions: filters, and pictures that are set when a question is opened, so that each is held once.
  const island = document.getElementById("picture-data");
  const pictures = island ? JSON.parse(island.textContent) : {};
  const questions = [...document.querySelectorAll("details.question")];
  questions.forEach((question) => {
    const show = () => {
      const image = question.querySelector("img[data-picture]");
      if (question.open && image && !image.src) image.src = pictures[image.dataset.picture];
    };
    question.addEventListener("toggle", show);
    show(); // a browser may restore open parts
  });
  const tools = document.getElementById("question-tools");
  if (tools) {
    const filterQuestions = () => {
      const wanted = new FormData(tools);
      const text = String(wanted.get("text")).toLowerCase();
      let shown = 0;
      questions.forEach((question) => {
        const fits = ["task", "group", "outcome"].every((name) => !wanted.get(name) || question.dataset[name] === wanted.get(name))
          && question.textContent.toLowerCase().includes(text);
        question.hidden = !fits;
        shown += fits;
      });
      document.getElementById("question-count").textContent = `${shown} of ${questions.length} questions`;
    };
    tools.addEventListener("input", filterQuestions);
    tools.addEventListener("submit", (event) => event.preventDefault());
    filterQuestions();
  }

  // A link to something inside a closed part opens it.
  const openTarget = () => {
    const target = location.hash.length > 1 && document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (target && target.tagName === "DETAILS") target.open = true;
  };
  window.addEventListener("hashchange", openTarget);
  openTarget();

  // Theme: as the system, light, dark. Some browsers keep no storage for local files; then the choice lasts as long as the page.
  const themes = ["system", "light", "dark"];
  const button = document.getElementById("theme");
  const stored = () => { try { return localStorage.getItem("ovbench-theme"); } catch { return null; } };
  const store = (name) => { try { localStorage.setItem("ovbench-theme", name); } catch { /* see above */ } };
  const apply = (name) => {
    if (name === "system") delete root.dataset.theme; else root.dataset.theme = name;
    button.textContent = `theme: ${name === "system" ? "as the system" : name}`;
    button.dataset.name = name;
  };
  apply(themes.includes(stored()) ? stored() : "system");
  button.addEventListener("click", () => {
    const next = themes[(themes.indexOf(button.dataset.name) + 1) % themes.length];
    store(next);
    apply(next);
  });
  root.dataset.ready = "true";
})();
