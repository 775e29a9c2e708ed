// Lines over time, drawn at the width that there is.

import { draw } from "./dom.js";

const TOP = 8,
  BOTTOM = 6;

// How a number becomes a height: from 0 at the bottom to 1 at the top.
export const SCALES = {
  share: { at: (value) => value, ticks: [0, 0.5, 1], most: () => 1 },
  upTo: (most) => ({ at: (value) => value / most, ticks: [0, most / 2, most] }),
  from: (least) => ({
    at: (value) => (value - least) / (1 - least),
    ticks: [least, (1 + least) / 2, 1],
  }),
  ratio: (least, most) => ({
    at: (value) => Math.log(Math.max(value, least) / least) / Math.log(most / least),
    ticks: [1, Math.sqrt(most), most],
  }),
};

export class Plot {
  // ``rows``: [{values, hue, name, marks}], values being of equal length with null where nothing is
  // known.
  constructor({
    width,
    height,
    scale,
    format,
    tick: tickOf = format,
    limit,
    limitName,
    label,
    rows,
    unknown,
  }) {
    this.width = width;
    this.height = height;
    const y = (value) =>
      TOP + (height - TOP - BOTTOM) * (1 - Math.min(1, Math.max(0, scale.at(value))));
    this.y = y;
    this.svg = draw("svg", {
      class: "plot",
      viewBox: `0 0 ${width} ${height}`,
      width,
      height,
      role: "img",
      "aria-label": label,
    });
    for (const tick of scale.ticks) {
      this.svg.append(draw("line", { class: "grid", x1: 0, x2: width, y1: y(tick), y2: y(tick) }));
      this.svg.append(draw("text", { class: "tick", x: width + 8, y: y(tick) + 4 }, tickOf(tick)));
    }
    for (const [from, to] of unknown ?? [])
      this.svg.append(
        draw("rect", {
          class: "unknown",
          x: from * width,
          width: (to - from) * width,
          y: TOP,
          height: height - TOP - BOTTOM,
        }),
      );
    if (limit !== undefined && limit !== null) {
      this.svg.append(
        draw("line", { class: "limit", x1: 0, x2: width, y1: y(limit), y2: y(limit) }),
      );
      if (limitName)
        this.svg.append(draw("text", { class: "limit-name", x: 4, y: y(limit) - 5 }, limitName));
    }
    for (const row of rows) this.line(row, y, limit);
  }

  line({ values, hue, isStep }, y, limit) {
    const x = (place) => (place + 0.5) * (this.width / values.length);
    const runs = [];
    let run = null,
      gap = 0;
    values.forEach((value, place) => {
      if (value === null) {
        // a measurement that is late by a step or two does not tear the line
        if (++gap > 3) run = null;
        return;
      }
      gap = 0;
      if (run === null) runs.push((run = []));
      run.push([x(place), y(value)]);
    });
    for (const points of runs) {
      const path = points
        .map(([px, py], i) =>
          i === 0
            ? `M${px.toFixed(1)} ${py.toFixed(1)}`
            : isStep
              ? `H${px.toFixed(1)}V${py.toFixed(1)}`
              : `L${px.toFixed(1)} ${py.toFixed(1)}`,
        )
        .join("");
      if (limit !== undefined && limit !== null && points.some(([, py]) => py < y(limit))) {
        const floor = y(limit);
        const over = points
          .map(([px, py]) => `${px.toFixed(1)} ${Math.min(py, floor).toFixed(1)}`)
          .join("L");
        this.svg.append(
          draw("path", {
            class: `over ${hue}`,
            d:
              `M${points[0][0].toFixed(1)} ${floor}L${over}` +
              `L${points.at(-1)[0].toFixed(1)} ${floor}Z`,
          }),
        );
      }
      this.svg.append(
        points.length === 1
          ? draw("circle", { class: `dot ${hue}`, cx: points[0][0], cy: points[0][1], r: 2 })
          : draw("path", { class: `line ${hue}`, d: path }),
      );
    }
  }
}

// Round times between two, as seconds since the epoch.
export function timeTicks(from, to, most) {
  const step =
    [60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 14400, 21600].find(
      (one) => (to - from) / one <= most,
    ) ?? 43200;
  const shift = 60 * new Date(1000 * from).getTimezoneOffset();
  const ticks = [];
  for (let tick = Math.ceil((from - shift) / step) * step + shift; tick <= to; tick += step)
    ticks.push(tick);
  return ticks;
}
