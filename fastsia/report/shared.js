"use strict";
// Shared by the pages: elements, packed trajectories, bars of answers, the chart of one trajectory.
const fastsia = (() => {
  const element = (name, className, text) => {
    const made = document.createElement(name);
    if (className) made.className = className;
    if (text !== undefined) made.textContent = text;
    return made;
  };
  const show = (value, digits) =>
    value === null || value === undefined ? "–" : value.toFixed(digits).replace("-", "−");

  const unpack = async (text) => {
    const packed = atob(text);
    const bytes = Uint8Array.from(packed, (character) => character.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
    return JSON.parse(await new Response(stream).text());
  };

  // before: the count of the answer at another checkpoint and the total there, shown on the left; it may be left out.
  const drawBar = (kind, answer, count, total, gold, before) => {
    const bar = element(kind, `answer${answer === null ? " null" : answer === gold ? " gold" : ""}${before ? " both-sides" : ""}`);
    const name = element("span", answer === null ? "name none" : "name", answer === null ? "no answer" : answer);
    if (answer === gold) name.append(" ✓");
    name.title = answer === null ? "no answer could be read" : answer;
    const track = (part, whole) => {
      const made = element("span", "track");
      const fill = element("div", "fill");
      fill.style.width = `${(100 * part) / Math.max(1, whole)}%`;
      made.append(fill);
      return made;
    };
    bar.append(name);
    if (before) bar.append(track(...before), element("span", "was", String(before[0])));
    bar.append(track(count, total), element("span", "count", String(count)));
    return bar;
  };

  const svg = (name, attributes, text) => {
    const made = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    if (text !== undefined) made.textContent = text;
    return made;
  };

  // H and s along a trajectory, with a legend. choose: called with the number of a checkpoint that is clicked.
  const chart = (view, chosen, width, choose) => {
    const points = view.checkpoints;
    const [height, left, right, top, bottom] = [170, 34, 10, 10, 30];
    const end = Math.max(1, points[points.length - 1].t);
    const most = Math.max(0.7, ...points.map((point) => Math.max(point.h ?? 0, point.s ?? 0, point.best ? point.best[2] ?? 0 : 0)));
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
    points.forEach((point, k) => {
      if (!point.step || !point.step[3]) return;
      const [from, to] = [x(point.t), x(points[k + 1].t)];
      root.append(svg("rect", { class: "decided", x: from, y: top, width: to - from, height: height - top - bottom }));
      root.append(svg("line", { class: "decided", x1: from, x2: to, y1: top, y2: top }));
    });
    const banded = points.filter((point) => point.best && point.best.every((value) => value !== null));
    const line = (side) => banded.map((p) => `${x(p.t)},${y(Math.min(p.best[side], most))}`);
    if (banded.length > 1) {
      root.append(svg("polygon", { class: "band", points: [...line(2), ...line(1).reverse()].join(" ") }));
      root.append(svg("polyline", { class: "best", points: line(0).join(" ") }));
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
    const keys = element("p", "keys");
    keys.append(element("span", "key-h", "H answer entropy"), element("span", "key-s", "s gold surprisal"));
    if (banded.length > 1) {
      const best = element("span", "key-best", "best estimate of H, 95 % band");
      best.title = "It pools checkpoints between which it finds no change, so that H of a single one may lie outside.";
      keys.append(best);
    }
    if (points.some((point) => point.step && point.step[3])) keys.append(element("span", "key-decided", "decisive step"));
    const drawn = element("div");
    drawn.append(keys, root);
    return drawn;
  };

  // A link to a section opens the fold in it.
  const unfold = (hash) => {
    const fold = document.getElementById(hash.slice(1))?.querySelector(":scope > details");
    if (fold) fold.open = true;
  };
  document.addEventListener("click", (event) => {
    const link = event.target.closest('a[href^="#"]');
    if (link) unfold(link.hash);
  });
  unfold(location.hash);

  return { element, show, unpack, drawBar, chart };
})();
