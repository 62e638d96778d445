"use strict";
// The table of trajectories and the viewer. All text of models and datasets goes in as textContent, never as markup.
(() => {
  const $ = (id) => document.getElementById(id);
  const index = JSON.parse($("index").textContent);
  const PAGE = 25;
  const LAST = index.columns.length + 1; // the misaligned flag of a row
  const state = { rows: index.rows, limit: PAGE, column: -1, descending: false, open: -1 };
  const LEVELS = [0.05, 0.3, 0.8, 1.5, 2.5]; // nats of token entropy at which the colour deepens

  const element = (name, className, text) => {
    const made = document.createElement(name);
    if (className) made.className = className;
    if (text !== undefined) made.textContent = text;
    return made;
  };
  const show = (value, digits) =>
    value === null || value === undefined ? "–" : value.toFixed(digits).replace("-", "−");

  // ---- table ----
  const cell = (value, column) => {
    const name = index.columns[column][0];
    if (value === true) return element("td", "yes", "correct");
    if (value === false) return element("td", "no", "incorrect");
    if (typeof value === "string") return element("td", name === "question" ? "question" : "", value);
    return element("td", "number", Number.isInteger(value) && name === "tokens" ? String(value) : show(value, 2));
  };

  const drawHead = () => {
    const row = element("tr");
    index.columns.forEach(([name, hint], column) => {
      const head = element("th", column > 2 ? "number" : "");
      const active = column === state.column;
      head.setAttribute("aria-sort", active ? (state.descending ? "descending" : "ascending") : "none");
      const button = element("button", "", name + (active ? (state.descending ? " ▾" : " ▴") : ""));
      button.type = "button";
      button.title = hint;
      button.addEventListener("click", () => {
        state.descending = column === state.column ? !state.descending : column > 2;
        state.column = column;
        update();
      });
      head.append(button);
      row.append(head);
    });
    $("list").tHead.replaceChildren(row);
  };

  const compare = (a, b) => {
    if (a === b) return 0;
    if (a === null) return 1; // the undefined come last, whichever way
    if (b === null) return -1;
    const order = typeof a === "string" ? a.localeCompare(b, undefined, { numeric: true }) : a - b;
    return state.descending ? -order : order;
  };

  // The texts of every trajectory, unpacked when they are first searched.
  const texts = new Map();
  let unpacking = null;
  const unpack = async () => {
    for (const row of index.rows) {
      if (row[0] < 0 || texts.has(row[0])) continue;
      const one = await read(row[0]);
      const drawn = one.checkpoints.flatMap((point) => point.answers.flatMap((answer) => [answer[2] || "", ...answer[4]]));
      texts.set(row[0], [one.question, one.tokens.join(""), ...drawn].join("\n").toLowerCase());
    }
    update();
  };

  const update = () => {
    const wanted = $("search").value.trim().toLowerCase();
    const deep = $("deep").checked && wanted;
    if (deep) unpacking = unpacking || unpack();
    const outcome = $("outcome").value;
    state.rows = index.rows.filter((row) => {
      if (outcome === "correct" && row[3] !== true) return false;
      if (outcome === "incorrect" && row[3] !== false) return false;
      if (outcome === "misaligned" && !row[LAST]) return false;
      if (deep && (texts.get(row[0]) || "").includes(wanted)) return true;
      return !wanted || `${row[1]}\n${row[2]}`.toLowerCase().includes(wanted);
    });
    if (state.column >= 0) {
      const key = state.column + 1;
      state.rows = state.rows.slice().sort((a, b) => compare(a[key], b[key]));
    }
    state.limit = PAGE;
    drawHead();
    drawRows();
  };

  const drawRows = () => {
    const body = document.createDocumentFragment();
    state.rows.slice(0, state.limit).forEach((row, place) => {
      const line = element("tr", row[0] >= 0 ? "open" : "");
      for (let column = 0; column < index.columns.length; column++) line.append(cell(row[column + 1], column));
      if (row[0] >= 0) {
        line.tabIndex = 0;
        line.addEventListener("click", () => open(place));
        line.addEventListener("keydown", (event) => {
          if (event.key === "Enter") open(place);
        });
      }
      body.append(line);
    });
    $("list").tBodies[0].replaceChildren(body);
    $("more").hidden = state.rows.length <= state.limit;
    $("shown").textContent = `${state.rows.length} of ${index.rows.length}`;
  };

  // ---- viewer ----
  const read = async (piece) => {
    const packed = atob($(`piece-${piece}`).textContent);
    const bytes = Uint8Array.from(packed, (character) => character.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
    return JSON.parse(await new Response(stream).text());
  };

  let view = null;

  const open = async (place) => {
    const row = state.rows[place];
    if (!row || row[0] < 0) return;
    state.open = place;
    try {
      view = await read(row[0]);
    } catch (error) {
      $("verdict").textContent = "This browser cannot open the packed trajectory (it needs DecompressionStream).";
      if (!$("viewer").open) $("viewer").showModal();
      return;
    }
    $("viewer-title").textContent = view.n ? `${view.id} · trajectory ${view.n}` : view.id;
    const verdict = $("verdict");
    verdict.replaceChildren(
      element("strong", view.correct ? "yes" : "no", view.correct ? "ends correct" : "ends incorrect"),
      `: answer ${view.answer === null ? "none" : view.answer}, gold ${view.gold}. ` +
        `${view.tokens.length} tokens${{ length: ", cut at the length limit", given: ", given and not drawn by the model" }[view.finish] || ""}.`
    );
    $("question").querySelector(".text").replaceChildren(...(view.asked ? [build(view.asked)] : [view.question]));
    $("prompt").querySelector(".text").textContent = view.prompt;
    $("prompt").hidden = !view.prompt;
    drawLegend();
    drawText();
    $("rendered").hidden = !view.prose;
    $("prose").replaceChildren(...(view.prose ? [build(view.prose)] : []));
    showProse($("rendered").getAttribute("aria-pressed") === "true");
    if (!$("viewer").open) $("viewer").showModal();
    choose(mostChanged(view.checkpoints));
    $("viewer").querySelector(".reading").scrollTop = 0;
    history.replaceState(null, "", `#t${row[0]}`);
  };

  // The step that a token belongs to, where it changed the answers.
  const DECISIVE = 0.05;
  const isDecisive = (point) => point !== undefined && point.step && point.step[2] <= DECISIVE;
  const percent = (share) => `${Math.round(100 * share)} %`;
  const tellStep = ([changed, chance, q]) =>
    `the step from here changes ${percent(changed)} of the answers (${percent(chance)} by chance, q ${q < 0.001 ? "< 0.001" : `= ${show(q, 3)}`})`;

  // Trees of harmless elements, made by fastsia.report.prose from the texts' Markdown and LaTeX.
  const HTML = new Set(("p ul ol li strong em s code pre blockquote hr br div h1 h2 h3 h4 h5 h6 table thead tbody tr th td").split(" "));
  const MATH = new Set(("math mrow mi mn mo mtext mspace mfrac msqrt mroot msub msup msubsup munder mover munderover " +
    "mtable mtr mtd menclose mstyle mpadded mphantom").split(" "));
  const build = (tree) => {
    if (typeof tree === "string") return document.createTextNode(tree);
    const block = tree[0] === "math-block";
    const name = block ? "math" : tree[0];
    if (!HTML.has(name) && !MATH.has(name)) return document.createTextNode("");
    const made = MATH.has(name)
      ? document.createElementNS("http://www.w3.org/1998/Math/MathML", name)
      : document.createElement(name);
    if (block) made.setAttribute("display", "block");
    if (name === "menclose") made.setAttribute("class", "boxed");
    made.append(...tree.slice(1).map(build));
    return made;
  };
  const showProse = (wanted) => {
    $("rendered").setAttribute("aria-pressed", String(wanted));
    $("prose").hidden = !wanted || !view.prose;
  };

  // The checkpoint before which most of the answers changed; the last if they never do.
  const mostChanged = (points) => {
    let best = points.length - 1;
    let most = 0;
    const shares = points.map((point) => {
      const total = point.answers.reduce((sum, answer) => sum + answer[1], 0) || 1;
      return new Map(point.answers.map((answer) => [answer[0], answer[1] / total]));
    });
    for (let k = 1; k < points.length; k++) {
      let moved = 0;
      for (const name of new Set([...shares[k].keys(), ...shares[k - 1].keys()])) {
        moved += Math.abs((shares[k].get(name) || 0) - (shares[k - 1].get(name) || 0)) / 2;
      }
      if (moved > most + 1e-9) [best, most] = [k, moved];
    }
    return best;
  };

  const level = (hundredths) => LEVELS.filter((edge) => hundredths >= 100 * edge).length;

  const drawLegend = () => {
    const legend = $("legend");
    legend.replaceChildren();
    if (view.checkpoints.some(isDecisive)) legend.append(element("span", "decisive", "step that changed the answers"), " ");
    if (view.place) legend.append(element("span", "read", "answer read here"), " ");
    if (!view.entropies) return;
    legend.append("token entropy, nats: ");
    LEVELS.forEach((edge, i) => legend.append(element("span", `e${i + 1}`, `≥ ${edge}`), " "));
    if (index.forking === null) return;
    const fork = element("span", "fork", `forking: > ${show(index.forking, 3)}`);
    fork.title = "the fifth of this run's tokens with the highest entropy";
    legend.append(fork);
  };

  const drawText = () => {
    const body = document.createDocumentFragment();
    const marks = new Map(view.checkpoints.map((point, k) => [point.t, k]));
    const forks = new Set(view.forks);
    let step; // the checkpoint at which the step of the present token began
    for (let t = 0; t <= view.tokens.length; t++) {
      if (marks.has(t)) {
        const k = marks.get(t);
        step = view.checkpoints[k];
        const mark = element("button", "mark", "•");
        mark.type = "button";
        mark.dataset.checkpoint = k;
        mark.setAttribute("aria-label", `checkpoint at token ${t}`);
        mark.title = `checkpoint at token ${t}: H = ${show(view.checkpoints[k].h, 2)}, s = ${show(view.checkpoints[k].s, 2)}`;
        if (step.step) mark.title += `; ${tellStep(step.step)}`;
        mark.addEventListener("click", () => choose(k));
        body.append(mark);
      }
      if (t === view.tokens.length) break;
      const entropy = view.entropies ? view.entropies[t] : 0;
      const fork = forks.has(t);
      const token = element("span", `token e${level(entropy)}${fork ? " fork" : ""}${isDecisive(step) ? " decisive" : ""}`, view.tokens[t]);
      if (view.place && t >= view.place[0] && t < view.place[1]) token.classList.add("read");
      if (view.entropies) token.title = `token ${t + 1}: ${show(entropy / 100, 2)} nats${fork ? ", forking" : ""}`;
      body.append(token);
    }
    $("text").replaceChildren(body);
  };

  const svg = (name, attributes, text) => {
    const made = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    if (text !== undefined) made.textContent = text;
    return made;
  };

  const drawChart = (chosen) => {
    const points = view.checkpoints;
    const width = Math.max(320, Math.min(900, $("chart").clientWidth || 600));
    const [height, left, right, top, bottom] = [190, 34, 10, 10, 30];
    const end = Math.max(1, points[points.length - 1].t);
    const most = Math.max(0.7, ...points.map((point) => Math.max(point.h ?? 0, point.s ?? 0)));
    const x = (t) => left + ((width - left - right) * t) / end;
    const y = (value) => height - bottom - ((height - top - bottom) * value) / most;
    const root = svg("svg", {
      viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": "answer entropy and gold surprisal by token",
    });
    const step = [0.2, 0.5, 1, 2, 5].find((each) => most / each <= 4) || 10;
    for (let value = 0; value <= most; value += step) {
      root.append(svg("line", { class: "axis", x1: left, x2: width - right, y1: y(value), y2: y(value) }));
      root.append(svg("text", { x: left - 6, y: y(value) + 4, "text-anchor": "end" }, String(Math.round(10 * value) / 10)));
    }
    root.append(svg("text", { x: 2, y: height - 4 }, "nats"));
    root.append(svg("text", { x: left, y: height - 4 - 10, "text-anchor": "middle" }, "0"));
    root.append(svg("text", { x: x(end), y: height - 14, "text-anchor": "end" }, String(end)));
    root.append(svg("text", { x: (left + width) / 2, y: height - 4, "text-anchor": "middle" }, "tokens"));
    root.append(svg("line", { class: "now", x1: x(points[chosen].t), x2: x(points[chosen].t), y1: top, y2: height - bottom }));
    const banded = points.filter((point) => point.band && point.band[0] !== null);
    const edge = [...banded.map((p) => [p.t, p.band[1]]), ...banded.map((p) => [p.t, p.band[0]]).reverse()];
    if (banded.length > 1) {
      root.append(svg("polygon", { class: "band", points: edge.map(([t, value]) => `${x(t)},${y(Math.min(value, most))}`).join(" ") }));
    }
    for (const [key, line] of [["s", "s"], ["h", "h"]]) {
      const known = points.filter((point) => point[key] !== null);
      root.append(svg("polyline", { class: line, points: known.map((p) => `${x(p.t)},${y(p[key])}`).join(" ") }));
      points.forEach((point, k) => {
        if (point[key] === null) return;
        root.append(svg("circle", { class: `${line}d`, cx: x(point.t), cy: y(point[key]), r: k === chosen ? 5 : 2.8 }));
      });
    }
    points.forEach((point, k) => {
      const before = k ? (x(points[k - 1].t) + x(point.t)) / 2 : left - 12;
      const after = k + 1 < points.length ? (x(point.t) + x(points[k + 1].t)) / 2 : width;
      const hit = svg("rect", { class: "hit", x: before, y: 0, width: Math.max(1, after - before), height });
      hit.append(svg("title", {}, `token ${point.t}: H = ${show(point.h, 2)}, s = ${show(point.s, 2)}`));
      hit.addEventListener("click", () => choose(k));
      root.append(hit);
    });
    $("chart").replaceChildren(root);
  };

  const choose = (k) => {
    if (!view || k < 0 || k >= view.checkpoints.length) return;
    view.chosen = k;
    const point = view.checkpoints[k];
    const text = $("text");
    for (const mark of text.querySelectorAll(".mark")) mark.classList.toggle("here", Number(mark.dataset.checkpoint) === k);
    text.querySelectorAll(".token").forEach((token, t) => token.classList.toggle("after", t >= point.t));
    const here = text.querySelector(".mark.here");
    $("earlier").disabled = k === 0;
    $("later").disabled = k + 1 === view.checkpoints.length;
    if (here) text.scrollTop += here.getBoundingClientRect().top - text.getBoundingClientRect().top - text.clientHeight / 2;
    drawChart(k);
    const total = point.answers.reduce((sum, answer) => sum + answer[1], 0);
    $("at").textContent = point.answers.length
      ? `After ${point.t} tokens: ${total} rollouts, H = ${show(point.h, 2)}, s = ${show(point.s, 2)} nats`
      : `After ${point.t} tokens: H = ${show(point.h, 2)}, s = ${show(point.s, 2)} nats`;
    if (point.step) $("at").textContent += `; ${tellStep(point.step)}`;
    const bars = point.answers.map(([answer, count], i) => {
      const kind = answer === null ? " null" : answer === view.gold ? " gold" : "";
      const bar = element("button", `answer${kind}`);
      bar.type = "button";
      const name = element("span", answer === null ? "name none" : "name", answer === null ? "no answer" : answer);
      if (answer === view.gold) name.append(" ✓");
      name.title = answer === null ? "no answer could be read" : answer;
      const track = element("span", "track");
      const fill = element("div", "fill");
      fill.style.width = `${(100 * count) / total}%`;
      track.append(fill);
      bar.append(name, track, element("span", "count", String(count)));
      bar.addEventListener("click", () => chooseAnswer(i));
      return bar;
    });
    $("bars").replaceChildren(...bars);
    chooseAnswer(0);
  };

  const chooseAnswer = (i, sample = 0) => {
    const point = view.checkpoints[view.chosen];
    const answer = point.answers[i];
    [...$("bars").children].forEach((bar, place) => bar.classList.toggle("chosen", place === i));
    $("other").hidden = true;
    $("sample-title").textContent = "";
    if (!answer) return $("sample").replaceChildren();
    const texts = [answer[2], ...answer[4]];
    const read = answer[0] === null ? "no answer read" : `answer read: ${answer[0]}`;
    $("sample-title").textContent = texts.length > 1 ? `Rollout ${sample + 1} of ${answer[1]}, ${read}` : `A rollout, ${read}`;
    $("other").hidden = texts.length < 2;
    $("other").textContent = "next rollout ▸";
    $("other").onclick = () => chooseAnswer(i, (sample + 1) % texts.length);
    const text = texts[sample];
    const place = sample === 0 ? answer[3] : null;
    // The prefix is shown from a little before the place that the answer was read from.
    let first = Math.max(0, point.t - 40);
    let behind = view.tokens.slice(first, point.t).join("").length;
    while (place && first > 0 && -place[0] + 20 > behind) behind += view.tokens[--first].length;
    const prefix = view.tokens.slice(first, point.t).join("");
    const marked = (given, from, className) => {
      if (!place || place[1] <= from || place[0] >= from + given.length) return [element("span", className, given)];
      const [begin, end] = [Math.max(0, place[0] - from), Math.min(given.length, place[1] - from)];
      return [
        element("span", className, given.slice(0, begin)),
        element("span", `${className} read`, given.slice(begin, end)),
        element("span", className, given.slice(end)),
      ];
    };
    $("sample").replaceChildren(
      element("span", "prefix", first > 0 ? "… " : ""),
      ...marked(prefix, -prefix.length, "prefix"),
      ...(text ? marked(text, 0, "") : [element("span", "prefix", text === null ? " (text not kept)" : " (it ends here)")])
    );
    const seen = $("sample").querySelector(".read");
    if (seen) seen.scrollIntoView({ block: "nearest" });
  };

  const close = () => $("viewer").close();

  $("search").addEventListener("input", update);
  $("deep").addEventListener("change", update);
  $("rendered").addEventListener("click", () => showProse($("prose").hidden));
  $("earlier").addEventListener("click", () => choose(view.chosen - 1));
  $("later").addEventListener("click", () => choose(view.chosen + 1));
  $("outcome").addEventListener("change", update);
  $("more").addEventListener("click", () => {
    state.limit += PAGE;
    drawRows();
  });
  $("close").addEventListener("click", close);
  $("previous").addEventListener("click", () => open(state.open - 1));
  $("next").addEventListener("click", () => open(state.open + 1));
  $("viewer").addEventListener("close", () => history.replaceState(null, "", "#trajectories"));
  $("viewer").addEventListener("keydown", (event) => {
    if (event.key === "ArrowRight") choose(view.chosen + 1);
    else if (event.key === "ArrowLeft") choose(view.chosen - 1);
    else return;
    event.preventDefault();
  });
  window.addEventListener("resize", () => {
    if ($("viewer").open && view) drawChart(view.chosen);
  });
  update();
  const follow = () => {
    const linked = /^#t(\d+)$/.exec(location.hash);
    if (linked) open(state.rows.findIndex((row) => row[0] === Number(linked[1])));
  };
  document.addEventListener("DOMContentLoaded", follow);
  window.addEventListener("hashchange", follow);
})();
