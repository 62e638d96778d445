"use strict";
// Figures: enlarged in a dialog, and downloaded as SVG in the colours that they are seen in, or as their data.
(() => {
  const large = document.getElementById("enlarged");
  const figure = (name) => document.querySelector(`#figure-${CSS.escape(name)}`);
  const save = (text, type, name) => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type }));
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  };
  const coloured = (drawn) => {
    const copy = drawn.cloneNode(true);
    const seen = drawn.querySelectorAll("*");
    copy.querySelectorAll("*").forEach((each, place) => {
      const style = getComputedStyle(seen[place]);
      for (const name of ["fill", "stroke", "font-size", "font-family"]) {
        if (each.classList.length || each.tagName === "text") each.setAttribute(name, style.getPropertyValue(name));
      }
    });
    copy.setAttribute("xmlns", "http://www.w3.org/2000/svg");
    return new XMLSerializer().serializeToString(copy);
  };
  const enlarge = (name) => {
    const shown = figure(name);
    large.querySelector("h2").textContent = shown.querySelector("h3").textContent;
    large.querySelector(".large").replaceChildren(shown.querySelector("svg.figure").cloneNode(true));
    large.showModal();
  };
  document.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (event.target.closest("svg.figure a")) return large.close(); // it leads to a trajectory
    const drawn = event.target.closest("figure svg.figure");
    if (drawn) enlarge(drawn.closest("figure").id.slice("figure-".length));
    if (!button) return;
    const { enlarge: wanted, svg, csv } = button.dataset;
    if (wanted) enlarge(wanted);
    if (svg) save(coloured(figure(svg).querySelector("svg.figure")), "image/svg+xml", `${svg}.svg`);
    if (csv) save(JSON.parse(document.getElementById(`data-${csv}`).textContent), "text/csv", `${csv}.csv`);
    if (large.contains(button)) large.close();
  });
})();
