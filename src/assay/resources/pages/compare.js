"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const byId = (id) => document.getElementById(id);
  const a = byId("a"), b = byId("b"), body = byId("differences"), said = byId("said"), table = byId("table");
  // As `assay diff` judges: what showed nothing, or was not run, is neither better nor worse than anything.
  const rank = new Map(Object.entries({ works: 5, degraded: 4, unsupported: 2, broken: 1, wrong: 0, ok: 2, warn: 1, fail: 0, built: 1, refused: 0, failed: 0, timed_out: 0, engine_failed: 0, registry_failed: 0, crashed: 0 }));
  const less = new Set(["MB", "s", "ms"]), tolerance = 0.05;
  const same = (text) => (text === "cached" ? "built" : text);
  const facts = (name) => {
    const found = new Map();
    if (Object.hasOwn(data.runs, name)) {
      for (const [where, results] of Object.entries(data.runs[name])) for (const [what, outcome] of Object.entries(results)) if (outcome !== "not_run") found.set(where + ": " + what, same(outcome));
      return found;
    }
    if (!Object.hasOwn(data.cells, name)) return null;
    const cell = data.cells[name];
    for (const [what, text] of Object.entries(cell.f)) found.set(what, same(text));
    for (const [target, codes] of Object.entries(cell.r)) data.features.forEach((feature, i) => {
      const source = { m: "measured", p: "predicted", c: "claimed" }[codes[2 * i]];
      if (source) found.set(feature + " on " + target, data.outcomes[Number(codes[2 * i + 1])] + " (" + source + ")");
    });
    return found;
  };
  const number = (text) => { const found = /^([\d.]+(?:e[+-]?\d+)?) (MB|s|ms|tokens\/s)$/.exec(text || ""); return found ? [Number(found[1]), found[2]] : null; };
  // 0 worse, 1 better, 2 differs, 3 only in one; null where nothing differs that counts.
  const judge = (x, y) => {
    if (x === y) return null;
    if (x === undefined || y === undefined) return 3;
    const p = number(x), q = number(y);
    if (p && q && p[1] === q[1]) {
      if (Math.abs(q[0] - p[0]) <= tolerance * p[0]) return null;
      return less.has(p[1]) === q[0] < p[0] ? 1 : 0;
    }
    const [r, from] = [rank.get(x.split(" ")[0]), x.split(" ")[1]], [s, to] = [rank.get(y.split(" ")[0]), y.split(" ")[1]];
    // A prediction and a measurement are not one better or worse than the other.
    if (from !== to || r === undefined || s === undefined || r === s) return 2;
    return s < r ? 0 : 1;
  };
  const words = ["▼ worse", "▲ better", "differs", "only in one"];
  const shown = (text) => {
    if (text === undefined) return document.createTextNode("–");
    const [word, ...rest] = text.split(" ");
    const made = document.createElement("span");
    made.textContent = (Object.hasOwn(data.symbols, word) ? data.symbols[word] + " " : "") + word.replaceAll("_", " ") + (rest.length ? " " + rest.join(" ") : "");
    if (rank.has(word) || Object.hasOwn(data.symbols, word)) made.className = "o " + word;
    return made;
  };
  const show = () => {
    body.replaceChildren();
    const left = facts(a.value), right = facts(b.value);
    table.hidden = !left || !right;
    const examples = byId("examples");
    if (examples) examples.hidden = Boolean(left && right);
    if (!left || !right) {
      const wrong = [[a, left], [b, right]].filter(([field, found]) => field.value && !found).map(([field]) => field.value);
      said.textContent = wrong.length && a.value && b.value ? "Not known: " + wrong.join(", ") : a.value || b.value ? "Name the other one." : "Name two cells, or two runs.";
      return;
    }
    byId("head-a").textContent = a.value; byId("head-b").textContent = b.value;
    const lines = [];
    // A cell that only one of two runs has is told once, not for each of its features.
    const only = (one, other) => (Object.hasOwn(data.runs, one) && Object.hasOwn(data.runs, other) ? Object.keys(data.runs[one]).filter((where) => !Object.hasOwn(data.runs[other], where)) : []);
    const gone = only(a.value, b.value), come = only(b.value, a.value);
    for (const where of [...gone, ...come]) {
      const found = gone.includes(where) ? left : right;
      for (const what of [...found.keys()]) if (what.startsWith(where + ": ")) found.delete(what);
      found.set(where, "known");
      lines.push([3, where]);
    }
    for (const what of new Set([...left.keys(), ...right.keys()])) {
      if (gone.includes(what) || come.includes(what)) continue;
      const way = judge(left.get(what), right.get(what));
      if (way !== null) lines.push([way, what]);
    }
    lines.sort((x, y) => x[0] - y[0] || (x[1] < y[1] ? -1 : 1));
    for (const [way, what] of lines) {
      const tr = document.createElement("tr"), change = document.createElement("td"), th = document.createElement("th");
      change.textContent = words[way];
      change.className = ["worse", "better", "soft", "soft"][way];
      th.scope = "row"; th.textContent = what; tr.append(change, th);
      for (const text of [left.get(what), right.get(what)]) { const td = document.createElement("td"); td.append(shown(text)); tr.append(td); }
      body.append(tr);
    }
    table.hidden = lines.length === 0;
    const count = (way) => lines.filter((line) => line[0] === way).length;
    said.textContent = lines.length ? lines.length + " differences: " + count(0) + " for the worse, " + count(1) + " for the better" : "No differences that count.";
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
