// Says which record is nearest to the pointer, below the picture. The page is whole without it.
"use strict";
{
  const data = JSON.parse(document.getElementById("data").textContent);
  const TOUCHING = 0.02; // points of several series that lie on one another are all read out
  // a point of the picture is one of the data, in the same order: the corners of the path, or the markers where there is no line
  const placesOf = (group) => {
    const path = [...group.children].find((child) => child.tagName === "path");
    if (path) return [...path.getAttribute("d").matchAll(/[ML]\s*(\S+)\s+(\S+)/g)].map((found) => [+found[1], +found[2]]);
    return [...group.querySelectorAll("use")].map((mark) => [+mark.getAttribute("x"), +mark.getAttribute("y")]);
  };
  for (const figure of document.querySelectorAll(".panels figure")) {
    const svg = figure.querySelector("svg"), out = figure.querySelector(".readout");
    const read = data.series.filter((series) => series.read && figure.id === "panel-" + series.id.split("-")[0]);
    let places = null;
    const dot = document.createElementNS("http://www.w3.org/2000/svg", "circle");
    dot.setAttribute("r", 4);
    dot.setAttribute("class", "nearest");
    const show = (event) => {
      places ??= read.map((series) => placesOf(document.getElementById(series.id)));
      const at = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
      let nearest = [];
      places.forEach((points, which) => points.forEach(([x, y], i) => {
        const distance = Math.hypot(x - at.x, y - at.y), least = nearest[0]?.distance ?? Infinity;
        if (distance < least - TOUCHING) nearest = [];
        if (distance < least + TOUCHING) nearest.push({ distance, which, i, x, y });
      }));
      if (!nearest.length) return;
      out.textContent = nearest.map(({ which, i }) => {
        const series = read[which], points = data.points[series.read];
        return `${series.run}, ${series.kind} record of step ${points.step[i].toLocaleString("en")}: ${series.name} ${points.y[i]}`;
      }).join("; ");
      dot.setAttribute("cx", nearest[0].x);
      dot.setAttribute("cy", nearest[0].y);
      svg.append(dot);
    };
    svg.addEventListener("pointermove", show);
    svg.addEventListener("pointerdown", show);
    svg.addEventListener("pointerleave", () => { out.textContent = ""; dot.remove(); });
  }
}
