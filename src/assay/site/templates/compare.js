"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const byId = (id) => document.getElementById(id);
  const a = byId("a"), b = byId("b"), body = byId("differences"), said = byId("said");
  const rank = { works: 5, degraded: 4, inconclusive: 3, not_run: 3, unsupported: 2, broken: 1, wrong: 0, ok: 5, warn: 4, fail: 1, built: 5, cached: 5, refused: 2, failed: 1, timed_out: 1 };
  const facts = (name) => {
    if (Object.hasOwn(data.runs, name)) {
      const found = {};
      for (const [where, results] of Object.entries(data.runs[name])) for (const [what, outcome] of Object.entries(results)) found[where + ": " + what] = outcome;
      return found;
    }
    if (!Object.hasOwn(data.cells, name)) return null;
    const cell = data.cells[name], found = { ...cell.f };
    for (const [target, codes] of Object.entries(cell.r)) data.features.forEach((feature, i) => {
      const source = codes[2 * i];
      if (source !== "-") found[feature + " on " + target] = data.outcomes[Number(codes[2 * i + 1])] + " (" + { m: "measured", p: "predicted", c: "claimed", n: "nothing measured" }[source] + ")";
    });
    return found;
  };
  const first = (text) => (text || "").split(" ")[0];
  const show = () => {
    body.replaceChildren();
    const left = facts(a.value), right = facts(b.value);
    if (!left || !right) { said.textContent = a.value && b.value ? "Not known: " + [left ? "" : a.value, right ? "" : b.value].filter(Boolean).join(", ") : "Name two cells, or two runs."; return; }
    const lines = [];
    for (const what of new Set([...Object.keys(left), ...Object.keys(right)])) {
      const x = left[what], y = right[what];
      if (x === y) continue;
      const r = rank[first(x)], s = rank[first(y)];
      // A prediction and a measurement are not one better or worse than the other.
      const alike = (x || "").split(" ")[1] === (y || "").split(" ")[1];
      const way = !alike || r === undefined || s === undefined || r === s ? 1 : s < r ? 0 : 2;
      lines.push([way, what, x === undefined ? "–" : x, y === undefined ? "–" : y]);
    }
    lines.sort((x, y) => x[0] - y[0] || (x[1] < y[1] ? -1 : 1));
    for (const [way, what, x, y] of lines) {
      const tr = document.createElement("tr"), th = document.createElement("th");
      th.scope = "row"; th.textContent = what; tr.append(th);
      for (const text of [x, y]) { const td = document.createElement("td"); td.textContent = text; tr.append(td); }
      const change = document.createElement("td");
      change.textContent = ["▼ worse", "differs", "▲ better"][way];
      if (way === 0) change.className = "worse";
      tr.append(change); body.append(tr);
    }
    said.textContent = lines.length + " differences, " + lines.filter((l) => l[0] === 0).length + " for the worse";
    history.replaceState(null, "", "#" + new URLSearchParams({ a: a.value, b: b.value }));
  };
  const restore = () => { const state = new URLSearchParams(location.hash.slice(1)); a.value = state.get("a") || ""; b.value = state.get("b") || ""; show(); };
  for (const event of ["input", "change"]) { a.addEventListener(event, show); b.addEventListener(event, show); }
  byId("pair").addEventListener("submit", (event) => event.preventDefault());
  byId("swap").addEventListener("click", () => { [a.value, b.value] = [b.value, a.value]; show(); });
  window.addEventListener("hashchange", restore);
  restore();
  document.documentElement.dataset.ready = "yes";
})();
