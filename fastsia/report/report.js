"use strict";
// The table of trajectories and the viewer. All text of models and datasets goes in as textContent, never as markup.
(() => {
  const $ = (id) => document.getElementById(id);
  const index = JSON.parse($("index").textContent);
  const PAGE = 25;
  const LAST = index.columns.length + 1; // the misaligned flag of a row; then whether a step of it is decisive
  const state = { rows: index.rows, limit: PAGE, column: -1, descending: false, open: -1 };
  const LEVELS = [0.05, 0.3, 0.8, 1.5, 2.5]; // nats of token entropy at which the colour deepens

  const { element, show, unpack: inflate, drawBar, chart } = fastsia;

  // ---- table ----
  const percent = (share) => `${Math.round(100 * share)} %`;
  const cell = (row, column) => {
    const value = row[column + 1];
    const name = index.columns[column][0];
    if (value === true) return element("td", "yes", "correct");
    if (value === false) return element("td", "no", "incorrect");
    if (name === "largest step" && value !== null) {
      const largest = element("td", "number", percent(value));
      if (row[LAST + 1]) largest.append(element("strong", "", " decisive"));
      return largest;
    }
    if (name === "question") {
      const question = element("td", "question");
      question.append(element("div", "", value));
      return question;
    }
    if (typeof value === "string") return element("td", "", value);
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
      const drawn = one.checkpoints.flatMap((point) => point.answers.flatMap((answer) => answer[2].map(([text]) => text || "")));
      texts.set(row[0], [one.question, one.tokens.join(""), ...drawn].join("\n").toLowerCase());
    }
    update();
  };

  // The trajectories in whose texts a server has found what is searched.
  const found = { text: "", places: new Set(), timer: 0 };
  const ask = (text) => {
    if (text === found.text) return;
    Object.assign(found, { text, places: new Set() });
    clearTimeout(found.timer);
    found.timer = setTimeout(async () => {
      const places = await (await fetch(`search?q=${encodeURIComponent(text)}`)).json();
      if (text !== found.text) return; // another text is searched by now
      found.places = new Set(places);
      update();
    }, 250);
  };
  const isIn = (place, wanted) => (index.served ? found.places.has(place) : (texts.get(place) || "").includes(wanted));

  const update = () => {
    const wanted = $("search").value.trim().toLowerCase();
    const deep = $("deep").checked && wanted;
    if (deep && index.served) ask(wanted);
    else if (deep) unpacking = unpacking || unpack();
    const outcome = $("outcome").value;
    state.rows = index.rows.filter((row) => {
      if (outcome === "correct" && row[3] !== true) return false;
      if (outcome === "incorrect" && row[3] !== false) return false;
      if (outcome === "misaligned" && !row[LAST]) return false;
      if (outcome === "decisive" && !row[LAST + 1]) return false;
      if (deep && isIn(row[0], wanted)) return true;
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
      for (let column = 0; column < index.columns.length; column++) line.append(cell(row, column));
      if (row[0] >= 0) {
        const name = element("button", "name", row[1]);
        name.type = "button";
        name.setAttribute("aria-label", `read ${row[1]}`);
        line.cells[0].replaceChildren(name);
        line.addEventListener("click", () => open(place));
      }
      body.append(line);
    });
    $("list").tBodies[0].replaceChildren(body);
    $("more").hidden = state.rows.length <= state.limit;
    $("shown").textContent = `${state.rows.length} of ${index.rows.length}`;
  };

  // Arrow keys go from one trajectory of the table to the next.
  $("list").tBodies[0].addEventListener("keydown", (event) => {
    const names = [...$("list").tBodies[0].querySelectorAll("button.name")];
    const at = names.indexOf(event.target);
    const to = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: names.length - 1 }[event.key];
    if (at < 0 || to === undefined || !names[to]) return;
    names[to].focus();
    event.preventDefault();
  });

  // ---- viewer ----
  const read = async (piece) => {
    if (index.served) {
      const answer = await fetch(`trajectory/${piece}`);
      if (!answer.ok) throw new Error(await answer.text());
      return answer.json();
    }
    return inflate($(`piece-${piece}`).textContent);
  };

  let view = null;

  // at: the tokens after which the trajectory is shown; undefined: where its largest step ends.
  const open = async (place, at) => {
    const row = state.rows[place];
    if (!row || row[0] < 0) return;
    state.open = place;
    try {
      view = await read(row[0]);
    } catch (error) {
      $("verdict").textContent = index.served
        ? `The trajectory cannot be read: ${error.message}`
        : "This browser cannot open the packed trajectory (it needs DecompressionStream).";
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
    $("why").textContent = why(view.answer, view.rule);
    $("question").querySelector(".text").replaceChildren(...(view.asked ? [build(view.asked)] : [view.question]));
    $("prompt").querySelector(".text").textContent = view.prompt;
    $("prompt").hidden = !view.prompt;
    drawLegend();
    drawText();
    drawWalk();
    $("rendered").hidden = !view.prose;
    $("prose").replaceChildren(...(view.prose ? [build(view.prose)] : []));
    showProse($("rendered").getAttribute("aria-pressed") === "true");
    const fresh = !$("viewer").open;
    if (fresh) $("viewer").showModal();
    const wanted = view.checkpoints.findIndex((point) => point.t === at);
    choose(wanted >= 0 ? wanted : view.largest === null ? mostChanged(view.checkpoints) : view.largest + 1);
    if (fresh) $("text").querySelector(".mark.here").focus({ preventScroll: true });
    $("viewer").querySelectorAll(".view, .reading, .rollouts").forEach((part) => (part.scrollTop = 0));
    history.replaceState(null, "", `#t${index.rows.indexOf(row)}${wanted >= 0 ? `-${at}` : ""}`);
  };

  // Why an answer was read where it is marked.
  const why = (answer, rule) => (view.rules[rule] ? `Why ${answer === null ? "no answer" : answer}: ${view.rules[rule]}` : "");

  const isDecisive = (point) => point !== undefined && point.step && point.step[3];
  const describeStep = ([changed, chance, q]) => `${percent(changed)} of the answers (${percent(chance)} by chance, ${q})`;

  // The decisive steps of the trajectory, each a button; which step is shown where none is decisive.
  const drawWalk = () => {
    const points = view.checkpoints;
    const decisive = [...points.keys()].filter((k) => isDecisive(points[k]));
    const walk = $("walk");
    walk.replaceChildren();
    if (view.largest === null) return;
    if (!decisive.length) return walk.append("No step of it is decisive (q above 0.05 for each); it opens at the one that changes most.");
    walk.append(decisive.length === 1 ? "Decisive step, by tokens: " : "Decisive steps, by tokens: ");
    for (const k of decisive) {
      const button = element("button", "", `${points[k].t}–${points[k + 1].t}`);
      button.type = "button";
      button.dataset.checkpoint = k + 1;
      button.title = `changes ${describeStep(points[k].step)}`;
      if (k === view.largest && decisive.length > 1) button.append(" (largest)");
      button.addEventListener("click", () => choose(k + 1));
      walk.append(button, " ");
    }
  };
  const nextDecisive = () => {
    const ends = [...$("walk").querySelectorAll("button")].map((button) => Number(button.dataset.checkpoint));
    if (ends.length) choose(ends.find((k) => k > view.chosen) ?? ends[0]);
  };

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
    if (view.checkpoints.some(isDecisive)) legend.append(element("span", "decisive", "decisive step"), " ");
    if (view.place) legend.append(element("span", "read", "answer read here"), " ");
    if (view.alternatives.length) legend.append(element("span", "", "◇ other tokens tried"), " ");
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
    const forced = new Map(view.alternatives);
    let step; // the checkpoint at which the step of the present token began
    let box = body; // the answer, while it is written, has one frame
    for (let t = 0; t <= view.tokens.length; t++) {
      if (view.place && t === view.place[1]) box = body;
      if (marks.has(t)) {
        const k = marks.get(t);
        step = view.checkpoints[k];
        const mark = element("button", "mark", "•");
        mark.type = "button";
        mark.dataset.checkpoint = k;
        mark.setAttribute("aria-label", `checkpoint at token ${t}`);
        mark.title = `checkpoint at token ${t}: H = ${show(view.checkpoints[k].h, 2)}, s = ${show(view.checkpoints[k].s, 2)}`;
        if (step.step) mark.title += `; the step from here changes ${describeStep(step.step)}`;
        mark.addEventListener("click", () => choose(k));
        box.append(mark);
      }
      if (t === view.tokens.length) break;
      if (view.place && t === view.place[0]) {
        box = element("span", "read");
        body.append(box);
      }
      if (forced.has(t)) {
        const mark = element("button", "mark forced", "◇");
        mark.type = "button";
        mark.dataset.position = t;
        mark.setAttribute("aria-label", `alternatives to token ${t + 1}`);
        mark.title = `rollouts after ${forced.get(t).length} possible tokens here`;
        mark.addEventListener("click", () => chooseToken(t));
        box.append(mark);
      }
      const entropy = view.entropies ? view.entropies[t] : 0;
      const fork = forks.has(t);
      const token = element("span", `token e${level(entropy)}${fork ? " fork" : ""}${isDecisive(step) ? " decisive" : ""}`, view.tokens[t]);
      if (view.entropies) token.title = `token ${t + 1}: ${show(entropy / 100, 2)} nats${fork ? ", forking" : ""}`;
      const end = view.checkpoints.indexOf(step) + 1;
      if (end < view.checkpoints.length) {
        token.addEventListener("click", () => {
          if (getSelection().isCollapsed) choose(end);
        });
      }
      box.append(token);
    }
    $("text").replaceChildren(body);
  };

  const drawChart = (chosen) =>
    $("chart").replaceChildren(chart(view, chosen, Math.max(320, Math.min(900, $("chart").clientWidth || 600)), choose));

  // One mark of the text is in the order of the tab key: the chosen one. A focus on a mark follows it.
  const markHere = (kind, value) => {
    const marks = [...$("text").querySelectorAll(".mark")];
    const focused = marks.includes(document.activeElement);
    for (const mark of marks) {
      const here = mark.dataset[kind] === String(value);
      mark.classList.toggle("here", here);
      mark.setAttribute("aria-pressed", String(here));
      mark.tabIndex = here ? 0 : -1;
      if (here && focused) mark.focus({ preventScroll: true });
    }
  };

  const choose = (k) => {
    if (!view || k < 0 || k >= view.checkpoints.length) return;
    view.chosen = k;
    const point = view.checkpoints[k];
    const text = $("text");
    markHere("checkpoint", k);
    const earlier = k ? view.checkpoints[k - 1] : null;
    text.querySelectorAll(".token").forEach((token, t) => {
      token.classList.toggle("after", t >= point.t);
      token.classList.toggle("shown", earlier !== null && t >= earlier.t && t < point.t);
    });
    const here = text.querySelector(".mark.here");
    $("earlier").disabled = k === 0;
    $("later").disabled = k + 1 === view.checkpoints.length;
    $("walk").querySelectorAll("button").forEach((button) => button.setAttribute("aria-pressed", String(Number(button.dataset.checkpoint) === k)));
    drawChart(k);
    if (here) text.scrollTop += here.getBoundingClientRect().top - text.getBoundingClientRect().top - text.clientHeight / 2;
    const total = countOf(point);
    $("at").textContent = point.answers.length
      ? `After ${point.t} tokens: ${total} rollouts, H = ${show(point.h, 2)}, s = ${show(point.s, 2)} nats`
      : `After ${point.t} tokens: H = ${show(point.h, 2)}, s = ${show(point.s, 2)} nats`;
    drawStep(earlier, point);
    const was = earlier && earlier.answers.length ? new Map(earlier.answers.map(([answer, count]) => [answer, count])) : null;
    const before = (answer) => was && [was.get(answer) || 0, countOf(earlier)];
    $("sides").hidden = !was;
    $("sides").classList.toggle("both-sides", was !== null);
    const sides = was ? ["", `after ${earlier.t} tokens`, "", `after ${point.t} tokens`, ""] : [];
    $("sides").replaceChildren(...sides.map((side) => element("span", "", side)));
    const bars = point.answers.map(([answer, count], i) => {
      const bar = drawBar("button", answer, count, total, view.gold, before(answer));
      bar.type = "button";
      bar.addEventListener("click", () => {
        chooseAnswer(i);
        $("sample").scrollIntoView({ block: "nearest" });
      });
      return bar;
    });
    const focused = $("bars").contains(document.activeElement);
    const now = new Set(point.answers.map(([answer]) => answer));
    const gone = was ? earlier.answers.filter(([answer]) => !now.has(answer)) : [];
    const rest = gone.slice(MOST_GONE).reduce((sum, answer) => sum + answer[1], 0);
    $("bars").replaceChildren(...bars, ...gone.slice(0, MOST_GONE).map(([answer]) => drawBar("div", answer, 0, total, view.gold, before(answer))));
    if (rest) $("bars").append(element("p", "note", `and ${rest} rollouts with ${gone.length - MOST_GONE} other answers before`));
    if (focused && bars.length) bars[0].focus({ preventScroll: true });
    chooseAnswer(0);
  };

  const MOST_GONE = 5; // answers that only the rollouts before a step give
  const countOf = (point) => point.answers.reduce((sum, answer) => sum + answer[1], 0);

  // What the step to a checkpoint changed and what its sentence says, and what the next one changes.
  const drawStep = (earlier, point) => {
    const step = earlier && earlier.step;
    $("step").textContent = "";
    if (step) {
      $("step").append(
        `The step to here, tokens ${earlier.t} to ${point.t}, changed ${describeStep(step)}: `,
        element("strong", "", step[3] ? "decisive" : "not decisive")
      );
    }
    $("said").replaceChildren();
    if (earlier && earlier.said) {
      const lengths = (end) => view.tokens.slice(0, end).join("").length;
      const [text, begin, end] = [view.tokens.join(""), lengths(earlier.t), lengths(point.t)];
      const [first, last] = earlier.said;
      $("said").append(
        `${first > 0 ? "… " : ""}${text.slice(first, begin)}`,
        element("mark", "", text.slice(begin, end)),
        `${text.slice(end, last).trimEnd()}${last < text.length ? " …" : ""}`
      );
    }
    $("next-step").textContent = point.step ? `The step from here changes ${describeStep(point.step)}: ${point.step[3] ? "decisive" : "not decisive"}.` : "";
  };

  // The answers after each token that rollouts were drawn after, at one position.
  const chooseToken = (t) => {
    const tokens = view.alternatives.find(([position]) => position === t)[1];
    markHere("position", t);
    $("text").querySelectorAll(".token").forEach((token, place) => token.classList.toggle("after", place > t));
    $("at").textContent = `Token ${t + 1}: the answers after each possible token`;
    for (const name of ["step", "said", "next-step", "sides", "sample-why"]) $(name).replaceChildren();
    const groups = tokens.map(([text, probability, own, q, answers]) => {
      const group = element("div", "after-token");
      const total = answers.reduce((sum, answer) => sum + answer[1], 0);
      const head = element("p", "token-head");
      head.append(element("code", "", JSON.stringify(text)), ` p = ${show(probability, 2)}, ${total} rollouts`);
      head.append(own ? ", the trajectory's own" : q === null ? "" : `, other answers than its own: q ${q < 0.001 ? "< 0.001" : `= ${show(q, 3)}`}`);
      group.append(head, ...answers.slice(0, 6).map(([answer, count]) => drawBar("div", answer, count, total, view.gold)));
      return group;
    });
    $("bars").replaceChildren(...groups);
    $("sample-title").textContent = "";
    $("other").hidden = true;
    $("sample").replaceChildren();
  };

  const chooseAnswer = (i, sample = 0) => {
    const point = view.checkpoints[view.chosen];
    const answer = point.answers[i];
    [...$("bars").querySelectorAll("button")].forEach((bar, place) => {
      bar.classList.toggle("chosen", place === i);
      bar.setAttribute("aria-pressed", String(place === i));
    });
    $("other").hidden = true;
    $("sample-title").textContent = $("sample-why").textContent = "";
    if (!answer || !answer[2].length) return $("sample").replaceChildren();
    const drawn = answer[2];
    const read = answer[0] === null ? "no answer read" : `answer read: ${answer[0]}`;
    $("sample-title").textContent = drawn.length > 1 ? `Rollout ${sample + 1} of ${answer[1]}, ${read}` : `A rollout, ${read}`;
    $("other").hidden = drawn.length < 2;
    $("other").textContent = "next rollout ▸";
    $("other").onclick = () => chooseAnswer(i, (sample + 1) % drawn.length);
    const [text, place, rule, finish] = drawn[sample];
    $("sample-why").textContent = why(answer[0], rule);
    // The prefix is shown from a little before the place that the answer was read from.
    let first = Math.max(0, point.t - 40);
    let shown = view.tokens.slice(first, point.t).join("").length;
    while (place && first > 0 && -place[0] + 20 > shown) shown += view.tokens[--first].length;
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
    const box = $("sample");
    box.replaceChildren(
      element("span", "prefix", first > 0 ? "… " : ""),
      ...marked(prefix, -prefix.length, "prefix"),
      ...marked(text || "", 0, ""),
      element("span", "prefix", describeEnd(text, finish))
    );
    box.scrollTop = 0;
    const seen = box.querySelector(".read");
    if (seen) box.scrollTop = seen.getBoundingClientRect().bottom - box.getBoundingClientRect().top - box.clientHeight + 24;
  };

  // How a rollout ended, where its text does not show it.
  const describeEnd = (text, finish) => {
    if (text === null) return " (text not kept)";
    if (finish === "answer") return text ? " (stopped: its answer is decided)" : " (nothing is drawn: the text so far decides the answer)";
    if (finish === "length") return " (cut by the token limit)";
    return text ? "" : " (the model ends its text here)";
  };

  // The next position whose alternatives were drawn, after the one that is shown; then the first again.
  const stepAlternative = () => {
    const marks = [...$("text").querySelectorAll(".mark.forced")];
    const at = marks.findIndex((mark) => mark.classList.contains("here"));
    if (marks.length) marks[(at + 1) % marks.length].click();
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
  // On the document: when what has the focus is drawn again, keys are no longer the dialog's.
  document.addEventListener("keydown", (event) => {
    if (!$("viewer").open || !view) return;
    if (event.ctrlKey || event.altKey || event.metaKey) return;
    const bars = [...$("bars").querySelectorAll("button")];
    const bar = bars.indexOf(document.activeElement);
    if (event.key === "ArrowRight") choose(view.chosen + 1);
    else if (event.key === "ArrowLeft") choose(view.chosen - 1);
    else if (event.key === "n") open(state.open + 1);
    else if (event.key === "p") open(state.open - 1);
    else if (event.key === "r" && !$("other").hidden) $("other").click();
    else if (event.key === "a") stepAlternative();
    else if (event.key === "d") nextDecisive();
    else if (bar >= 0 && event.key === "ArrowDown") (bars[bar + 1] || bars[bar]).focus();
    else if (bar >= 0 && event.key === "ArrowUp") (bars[bar - 1] || bars[bar]).focus();
    else return;
    event.preventDefault();
  });
  window.addEventListener("resize", () => {
    if ($("viewer").open && view) drawChart(view.chosen);
  });
  update();
  const follow = () => {
    const linked = /^#t(\d+)(?:-(\d+))?$/.exec(location.hash);
    const row = linked && index.rows[Number(linked[1])];
    if (!row) return;
    if (!state.rows.includes(row)) {
      $("search").value = "";
      $("outcome").value = "all";
      update();
    }
    open(state.rows.indexOf(row), linked[2] === undefined ? undefined : Number(linked[2]));
  };
  // Marks of the figure of steps that lead to a trajectory. Their list is what the keyboard reaches.
  for (const mark of document.querySelectorAll("#figure-steps a")) {
    const [, row, end] = /^#t(\d+)-(\d+)$/.exec(mark.getAttribute("href"));
    const title = document.createElementNS("http://www.w3.org/2000/svg", "title");
    title.textContent = `${index.rows[Number(row)][1]}, the step that ends after ${end} tokens`;
    mark.append(title);
    mark.setAttribute("tabindex", "-1");
  }
  document.addEventListener("DOMContentLoaded", follow);
  window.addEventListener("hashchange", follow);
})();
