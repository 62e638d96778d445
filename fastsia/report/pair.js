"use strict";
// One problem in several runs, side by side. All texts go in as textContent, never as markup.
(() => {
  const { element, show, unpack, chart, drawBar } = fastsia;
  const $ = (id) => document.getElementById(id);
  const index = JSON.parse($("pairs-index").textContent);
  let shown = index.rows;
  let at = -1;
  let panes = [];

  const draw = () => {
    const wanted = $("pair-search").value.trim().toLowerCase();
    const only = $("pair-outcome").value;
    shown = index.rows.filter((row) => {
      const ends = new Set(row.runs.filter(Boolean).map((run) => run[1]));
      if (only === "differs" && ends.size < 2) return false;
      return !wanted || `${row.name}\n${row.question}`.toLowerCase().includes(wanted);
    });
    const lines = shown.map((row, place) => {
      const line = element("tr", "open");
      const name = element("button", "name", row.name);
      name.type = "button";
      const cell = element("td");
      cell.append(name);
      line.append(cell, element("td", "question", row.question));
      for (const run of row.runs) {
        line.append(
          run === null ? element("td", "", "–") : element("td", run[1] ? "yes" : "no", `${run[1] ? "correct" : "incorrect"}, H ${show(run[2], 2)}`)
        );
      }
      line.addEventListener("click", () => open(place));
      return line;
    });
    $("pairs").tBodies[0].replaceChildren(...lines);
    $("pair-shown").textContent = `${shown.length} of ${index.rows.length}`;
  };

  const open = async (place) => {
    const row = shown[place];
    if (!row) return;
    at = place;
    const views = await Promise.all(row.runs.map((run) => (run === null ? null : unpack($(`piece-${run[0]}`).textContent))));
    $("pair-title").textContent = row.name;
    $("pair-question").textContent = (views.find(Boolean) || {}).question || "";
    panes = views.map((view, k) => (view === null ? null : makePane(view, index.labels[k])));
    $("panes").replaceChildren(...panes.map((pane, k) => (pane ? pane.box : element("p", "note", `${index.labels[k]}: not in this run`))));
    if (!$("pair").open) $("pair").showModal();
    move(Number($("along").value));
  };

  const makePane = (view, label) => {
    const box = element("section", "pane");
    box.setAttribute("aria-label", label);
    const verdict = element("p");
    verdict.append(
      element("strong", view.correct ? "yes" : "no", view.correct ? "ends correct" : "ends incorrect"),
      `: answer ${view.answer === null ? "none" : view.answer}, gold ${view.gold}, ${view.tokens.length} tokens`
    );
    const text = element("div", "text reasoning-text");
    Object.assign(text, { tabIndex: 0 });
    text.setAttribute("role", "region");
    text.setAttribute("aria-label", `reasoning of ${label}`);
    const places = new Map(view.checkpoints.map((point, k) => [point.t, k]));
    const marks = [];
    const tokens = [];
    let frame = text; // the answer, while it is written, has one frame
    for (let t = 0; t <= view.tokens.length; t++) {
      if (view.place && t === view.place[1]) frame = text;
      if (places.has(t)) {
        const mark = element("button", "mark", "•");
        mark.type = "button";
        mark.tabIndex = -1;
        mark.setAttribute("aria-label", `checkpoint at token ${t}`);
        mark.addEventListener("click", () => move(Math.ceil((100 * t) / Math.max(1, view.tokens.length))));
        marks.push(mark);
        frame.append(mark);
      }
      if (t === view.tokens.length) break;
      if (view.place && t === view.place[0]) {
        frame = element("span", "read");
        text.append(frame);
      }
      const token = element("span", "token", view.tokens[t]);
      tokens.push(token);
      frame.append(token);
    }
    const [curve, said, bars] = [element("div", "chart"), element("p", "note"), element("div")];
    box.append(element("h3", "", label), verdict, text, curve, said, bars);
    // The last checkpoint at or before a share of the trajectory.
    const showAt = (share) => {
      const limit = (share * view.tokens.length) / 100 + 1e-9;
      const k = Math.max(0, view.checkpoints.findLastIndex((point) => point.t <= limit));
      const point = view.checkpoints[k];
      marks.forEach((mark, place) => mark.classList.toggle("here", place === k));
      tokens.forEach((token, t) => token.classList.toggle("after", t >= point.t));
      text.scrollTop += marks[k].getBoundingClientRect().top - text.getBoundingClientRect().top - text.clientHeight / 2;
      const width = Math.max(280, Math.min(700, curve.clientWidth || 400));
      curve.replaceChildren(chart(view, k, width, (chosen) => move(Math.ceil((100 * view.checkpoints[chosen].t) / Math.max(1, view.tokens.length)))));
      const total = point.answers.reduce((sum, answer) => sum + answer[1], 0);
      said.textContent = `After ${point.t} tokens: ${total} rollouts, H = ${show(point.h, 2)}, s = ${show(point.s, 2)} nats`;
      bars.replaceChildren(...point.answers.slice(0, 8).map(([answer, count]) => drawBar("div", answer, count, total, view.gold)));
      if (point.answers.length > 8) bars.append(element("p", "note", `and ${point.answers.length - 8} rarer answers`));
    };
    return { box, showAt };
  };

  const move = (share) => {
    const kept = Math.max(0, Math.min(100, share));
    $("along").value = String(kept);
    $("along-said").textContent = `${kept} % of the reasoning`;
    for (const pane of panes) if (pane) pane.showAt(kept);
  };

  $("along").addEventListener("input", () => move(Number($("along").value)));
  $("pair-search").addEventListener("input", draw);
  $("pair-outcome").addEventListener("change", draw);
  $("pair-close").addEventListener("click", () => $("pair").close());
  $("pair-previous").addEventListener("click", () => open(at - 1));
  $("pair-next").addEventListener("click", () => open(at + 1));
  document.addEventListener("keydown", (event) => {
    if (!$("pair").open) return;
    if (event.ctrlKey || event.altKey || event.metaKey) return;
    if (event.key === "n") open(at + 1);
    else if (event.key === "p") open(at - 1);
    else if (event.key === "ArrowRight" && event.target !== $("along")) move(Number($("along").value) + 5);
    else if (event.key === "ArrowLeft" && event.target !== $("along")) move(Number($("along").value) - 5);
    else return;
    event.preventDefault();
  });
  window.addEventListener("resize", () => {
    if ($("pair").open) move(Number($("along").value));
  });
  draw();
})();
