"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const byId = (id) => document.getElementById(id);
  const body = byId("rows"), scroll = byId("scroll"), table = byId("matrix"), count = byId("count");
  const fields = { kind: byId("f-kind"), text: byId("f-text"), target: byId("f-target"), engine: byId("f-engine"), feature: byId("f-feature"), outcome: byId("f-outcome"), source: byId("f-source") };
  const symbols = data.symbols, sources = { m: "measured", p: "predicted", c: "claimed", n: "nothing measured" };
  // A row: [cell, file, engine, target, build, audit, codes, apart]; codes has two characters a feature: basis, outcome.
  const rows = data.rows;
  const ofKind = { "": (row) => !row[7], apart: (row) => Boolean(row[7]), all: () => true };
  let shown = rows.filter(ofKind[""]), columns = data.features.map((_, i) => i), height = 52;

  const element = (tag, text, cls) => {
    const made = document.createElement(tag);
    if (text) made.textContent = text;
    if (cls) made.className = cls;
    return made;
  };
  const word = (text) => text ? element("span", text.replace("_", " "), "o " + text) : document.createTextNode("–");
  const outcome = (code) => {
    const source = sources[code[0]];
    if (!source) {
      const none = document.createDocumentFragment();
      none.append("–", element("span", " nothing known", "vh"));
      return none;
    }
    const name = data.outcomes[Number(code[1])];
    const made = element("span", symbols[name] + " " + name.replace("_", " "), "o " + name + (code[0] === "n" ? "" : " " + source));
    made.append(element("small", source));
    return made;
  };
  const cellOf = (child) => { const td = element("td"); td.append(child); return td; };
  const line = (row, index) => {
    const tr = element("tr");
    tr.setAttribute("aria-rowindex", String(index + 2));
    const th = element("th"), link = element("a", row[0]);
    th.scope = "row"; link.href = "cells/" + row[1]; link.title = row[0]; th.append(link);
    tr.append(th, element("td", row[3]), cellOf(word(row[4])), cellOf(word(row[5])));
    for (const i of columns) tr.append(cellOf(outcome(row[6].slice(2 * i, 2 * i + 2))));
    return tr;
  };
  const gap = (pixels) => {
    const tr = element("tr", "", "gap"), td = element("td");
    tr.setAttribute("aria-hidden", "true");
    td.colSpan = columns.length + 4; td.style.height = pixels + "px"; tr.style.height = pixels + "px";
    tr.append(td);
    return tr;
  };
  let from = -1, to = -1;
  const draw = (force) => {
    const room = Math.ceil(scroll.clientHeight / height) + 1;
    const first = Math.max(0, Math.floor(scroll.scrollTop / height) - 15);
    const last = Math.min(shown.length, first + room + 30);
    if (!force && first === from && last === to) return;
    // A row that holds the focus stays alive while it is in sight.
    const active = document.activeElement && body.contains(document.activeElement) ? document.activeElement.getAttribute("href") : null;
    from = first; to = last;
    const made = document.createDocumentFragment();
    if (first > 0) made.append(gap(first * height));
    for (let i = first; i < last; i += 1) made.append(line(shown[i], i));
    if (last < shown.length) made.append(gap((shown.length - last) * height));
    body.replaceChildren(made);
    if (active) { const again = [...body.querySelectorAll("a")].find((a) => a.getAttribute("href") === active); if (again) again.focus({ preventScroll: true }); }
  };
  // Which of the wanted features of a row fit the filters by outcome and source.
  const fitting = (row, want) => want.columns.filter((i) => {
    const source = row[6][2 * i];
    return source !== "-" && (!want.letter || source === want.letter) && (!want.digit || row[6][2 * i + 1] === want.digit);
  });
  const fits = (row, want) =>
    (!want.text || row[0].toLowerCase().includes(want.text)) && (!want.target || row[3] === want.target) && (!want.engine || row[2] === want.engine);
  const all = data.features.map((_, i) => i);
  const apply = () => {
    const want = { text: fields.text.value.trim().toLowerCase() };
    for (const name of ["target", "engine", "feature", "outcome", "source"]) want[name] = fields[name].value;
    want.letter = want.source ? want.source[0] : "";
    want.digit = want.outcome ? String(data.outcomes.indexOf(want.outcome)) : "";
    want.columns = want.feature ? [data.features.indexOf(want.feature)] : all;
    const bySaying = Boolean(want.letter || want.digit || want.feature), anything = bySaying || Boolean(want.text || want.target || want.engine);
    const used = new Set();
    const kind = rows.filter(ofKind[fields.kind.value]);
    shown = anything ? kind.filter((row) => {
      if (!fits(row, want)) return false;
      if (!bySaying && used.size === all.length) return true;
      const found = fitting(row, want);
      for (const i of found) used.add(i);
      return !bySaying || found.length > 0;
    }) : kind;
    // A column in which no row that is shown has anything to say is left out.
    columns = anything && shown.length ? all.filter((i) => used.has(i)) : want.columns;
    [...table.tHead.rows[0].cells].forEach((th, i) => { if (i >= 4) th.hidden = !columns.includes(i - 4); });
    table.setAttribute("aria-rowcount", String(shown.length + 1));
    const some = columns.length < all.length && !want.feature ? ", " + columns.length + " of " + all.length + " features" : "";
    count.textContent = shown.length + " of " + rows.length + " rows" + some;
    scroll.scrollTop = 0;
    draw(true);
  };
  // The GPU: its answer alone is shown, the best three images first.
  const gpu = byId("gpu"), sections = [...document.querySelectorAll("section.gpu")];
  const pick = () => {
    for (const section of sections) section.hidden = section.dataset.target !== gpu.value;
  };
  for (const button of document.querySelectorAll("button.all")) {
    const section = button.closest("section");
    section.classList.add("short"); button.hidden = false;
    button.addEventListener("click", () => { const short = section.classList.toggle("short"); button.setAttribute("aria-expanded", String(!short)); });
  }
  for (const button of document.querySelectorAll("button.copy")) {
    button.hidden = false;
    button.addEventListener("click", async () => {
      const code = button.previousElementSibling, word = button.firstChild, before = word.data;
      try { await navigator.clipboard.writeText(code.textContent); word.data = "Copied"; }
      catch { getSelection().selectAllChildren(code); word.data = "Selected"; }
      setTimeout(() => { word.data = before; }, 2000);
    });
  }
  if (gpu) {
    gpu.addEventListener("change", () => { pick(); keep(); });
    byId("picker").addEventListener("submit", (event) => event.preventDefault());
  }
  // The state stands after the # so that it works from disk, where a page may not change its address otherwise.
  const keep = () => {
    const state = new URLSearchParams();
    for (const [name, field] of Object.entries(fields)) if (field.value) state.set(name, field.value);
    if (gpu && gpu.selectedIndex > 0) state.set("gpu", gpu.value);
    const text = state.toString();
    history.replaceState(null, "", text ? "#" + text : location.pathname.split("/").pop() || ".");
  };
  const restore = () => {
    const state = new URLSearchParams(location.hash.slice(1));
    for (const [name, field] of Object.entries(fields)) {
      field.value = state.get(name) || "";
      if (field.value === "" && field.options) field.selectedIndex = 0;
    }
    if (gpu) { gpu.value = state.get("gpu") || gpu.options[0].value; if (gpu.selectedIndex < 0) gpu.selectedIndex = 0; pick(); }
    apply();
  };
  // Both events: programs that fill forms send only the second one.
  for (const field of Object.values(fields)) for (const event of ["input", "change"]) field.addEventListener(event, () => { apply(); keep(); });
  byId("filters").addEventListener("submit", (event) => event.preventDefault());
  byId("filters").addEventListener("reset", () => setTimeout(() => { apply(); keep(); }, 0));
  window.addEventListener("hashchange", restore);
  let waiting = false;
  scroll.addEventListener("scroll", () => {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => { waiting = false; draw(false); });
  }, { passive: true });
  new ResizeObserver(() => draw(true)).observe(scroll);
  // On a phone the filters would fill the first screen.
  if (matchMedia("(max-width: 640px)").matches && location.hash.length < 2) byId("box").open = false;
  const firstRow = body.querySelector("tr");
  if (firstRow) height = firstRow.getBoundingClientRect().height || height;
  if (gpu) pick();
  if (location.hash.length > 1) restore(); else draw(true);
  document.documentElement.dataset.ready = "yes";
})();
