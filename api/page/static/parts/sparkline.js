// A small curve of the last few minutes. What it shows is beside it as a number; this is for the eye.

import { svg } from "../core/dom.js";

const WIDTH = 120;
const HEIGHT = 32;
const KEPT = 90;

/** `add(value)` puts a value at the right end. */
export function sparkline() {
  const line = svg("polyline", { class: "spark-line", points: "" });
  const area = svg("polygon", { class: "spark-area", points: "" });
  const props = { class: "spark", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", "aria-hidden": "true" };
  const element = svg("svg", props, area, line);
  const values = [];
  return {
    element,
    add(value) {
      values.push(value);
      if (values.length > KEPT) values.shift();
      draw(line, area, values);
    },
  };
}

function draw(line, area, values) {
  const most = Math.max(...values, 1);
  const step = WIDTH / Math.max(values.length - 1, 1);
  const points = values.map((value, index) => `${(index * step).toFixed(1)},${(HEIGHT - 2 - (HEIGHT - 4) * (value / most)).toFixed(1)}`);
  const drawn = points.length > 1 ? points : [`0,${HEIGHT - 2}`, `${WIDTH},${HEIGHT - 2}`];
  line.setAttribute("points", drawn.join(" "));
  area.setAttribute("points", [`0,${HEIGHT}`, ...drawn, `${WIDTH},${HEIGHT}`].join(" "));
}
