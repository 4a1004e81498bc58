"use strict";
// What the pointer is at: the nearest point of every line, with its number.
const box = document.createElement("div");
box.className = "hover";
box.hidden = true;
document.body.append(box);
const svgName = "http://www.w3.org/2000/svg";

function nearest(points, x) {
  let best = null;
  for (const point of points) {
    if (best === null || Math.abs(point[0] - x) < Math.abs(best[0] - x)) best = point;
  }
  return best;
}

function row(color, name, text) {
  const line = document.createElement("div");
  const dot = document.createElement("i");
  dot.className = "key " + color;
  const value = document.createElement("b");
  value.textContent = text;
  line.append(dot, name + " ", value);
  return line;
}

for (const chart of document.querySelectorAll("svg[data-lines]")) {
  const lines = JSON.parse(chart.dataset.lines);
  const dots = document.createElementNS(svgName, "g");
  chart.append(dots);
  const leave = () => {
    box.hidden = true;
    dots.replaceChildren();
  };
  chart.addEventListener("pointerleave", leave);
  chart.addEventListener("pointermove", (event) => {
    const frame = chart.getBoundingClientRect();
    const scale = chart.viewBox.baseVal.width / frame.width;
    const x = (event.clientX - frame.left) * scale;
    const found = lines
      .map((line) => ({ line, point: nearest(line.points, x) }))
      .filter(({ point }) => point !== null && Math.abs(point[0] - x) < 24);
    dots.replaceChildren();
    box.replaceChildren();
    box.hidden = found.length === 0;
    for (const { line, point } of found) {
      const dot = document.createElementNS(svgName, "circle");
      dot.setAttribute("class", "dot " + line.color);
      dot.setAttribute("cx", point[0]);
      dot.setAttribute("cy", point[1]);
      dot.setAttribute("r", 3.5);
      dots.append(dot);
      box.append(row(line.color, line.name + " at " + point[2], point[3]));
    }
    const left = Math.min(event.clientX + 14, window.innerWidth - box.offsetWidth - 8);
    box.style.left = Math.max(8, left) + window.scrollX + "px";
    box.style.top = event.clientY + 18 + window.scrollY + "px";
  });
}

// Paper cannot be unfolded.
let folded = [];
addEventListener("beforeprint", () => {
  folded = [...document.querySelectorAll("details:not([open])")];
  for (const part of folded) part.open = true;
});
addEventListener("afterprint", () => {
  for (const part of folded) part.open = false;
});
