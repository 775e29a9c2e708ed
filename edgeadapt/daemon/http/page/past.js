// One picture of what was sensed, judged and decided, all on the same axis of time.

import { Plot, SCALES, timeTicks } from "./charts.js";
import { by, draw, make, say } from "./dom.js";
import {
  FAMILY,
  changed,
  clock,
  decided,
  familyOf,
  judges,
  named,
  percent,
  reason,
  times,
} from "./words.js";

const HUES = ["t0", "t1", "t2", "t3", "t4", "t5"];
const FAMILIES = make(
  "ul",
  { class: "legend families", "aria-label": "Colours of what was decided and changed" },
  ["senses", "asks", "learns", "grows", "guards"].map((family) =>
    make("li", {}, make("span", { class: `swatch ${family}`, "aria-hidden": "true" }), family),
  ),
);
const LEGEND = 5; // names beside a line: as many as it is high

const last = (values) => {
  for (let place = values.length - 1; place >= 0; place--)
    if (values[place] !== null) return values[place];
  return null;
};
const fresh = (values) => last(values.slice(-4)); // what was measured longer ago is not now
const isOver = (row, value) =>
  value !== null && row.limit !== undefined && row.limit !== null && value > row.limit;
const largest = (values) =>
  values.reduce((most, value) => (value === null ? most : Math.max(most, value)), -Infinity);

// The share right as of each step: what was measured last, from before the window, too.
function carried(marks, past, count) {
  const values = Array(count).fill(null);
  let place = 0,
    value = null;
  for (let step = 0; step < count; step++) {
    const end = past.start + (step + 1) * past.step_s;
    while (place < marks.length && marks[place][0] <= end) value = marks[place++][1];
    values[step] = end <= Date.now() / 1000 + past.step_s ? value : null;
  }
  return values;
}

function blanks(streams) {
  const found = [];
  const count = streams[0]?.shift.length ?? 0;
  for (let step = 0; step < count; step++) {
    const known = streams.filter((one) => one.shift[step] !== null);
    if (!known.length || known.some((one) => one.novel_share[step] !== null)) continue;
    if (found.length && found.at(-1)[1] >= (step - 1) / count) found.at(-1)[1] = (step + 1) / count;
    else found.push([step / count, (step + 1) / count]);
  }
  return found;
}

export function streamHues(names) {
  return new Map([...names].sort().map((name, place) => [name, HUES[place % HUES.length]]));
}

// What stands for accuracy, in words that say which it is.
export function accuracy(past, status) {
  const sets = Object.entries(past.held_out);
  if (sets.length) {
    const domains = new Set(Object.values(status.streams).map((one) => one.domain));
    const fits = ([name]) => domains.has(name.replace("field labels in ", ""));
    const best =
      sets.filter(fits).sort((a, b) => b[1].at(-1)[0] - a[1].at(-1)[0])[0] ??
      sets.find(([name]) => name.startsWith("factory")) ??
      sets[0]; // of a condition that it is in now; else of the factory's
    return {
      kind: "held out",
      value: best[1].at(-1)[1],
      title: "Right",
      about: best[0].startsWith("factory")
        ? "on samples that the factory held out"
        : "on labels that were held out here" +
          (best[0].endsWith(" source") ? "" : `, under ${best[0].replace("field labels in ", "")}`),
      sets,
    };
  }
  const streams = Object.values(past.streams);
  const values = streams.map((one) => fresh(one.confidence)).filter((value) => value !== null);
  const mean = values.length ? values.reduce((sum, value) => sum + value, 0) / values.length : null;
  return {
    kind: "confidence",
    value: mean,
    title: "Sure",
    about:
      "how sure it is of its answers, which is not how often it is right: no labels judge it yet",
    sets: [],
  };
}

export class Past {
  constructor() {
    this.window = "minutes";
    this.past = this.status = null;
    this.decisions = this.history = [];
    new ResizeObserver(() => this.draw()).observe(by("past"));
    for (const button of by("windows").children)
      button.addEventListener("click", () => this.choose(button.dataset.window));
    by("past").addEventListener("pointermove", (event) => this.point(event));
    by("past").addEventListener("pointerleave", () => this.point(null));
  }

  choose(window) {
    this.window = window;
    for (const button of by("windows").children)
      button.setAttribute("aria-pressed", button.dataset.window === window);
    this.whenChosen?.();
  }

  take(past, status, decisions, history) {
    Object.assign(this, { past, status, decisions, history });
    this.draw();
  }

  rows() {
    const { past, status } = this;
    const streams = Object.entries(past.streams);
    const hues = streamHues(streams.map(([name]) => name));
    const of = (key) =>
      streams.map(([name, one]) => ({ name, values: one[key], hue: hues.get(name) }));
    const proxy = accuracy(past, status);
    const count = past.busy.length;
    const judged = proxy.sets.map(([name, marks], place) => ({
      name: judges(name),
      values: carried(marks, past, count),
      hue: name === "factory samples" ? "quiet" : HUES[(place + 3) % HUES.length],
      isStep: true,
    }));
    const least = judged.length
      ? Math.min(
          0.5,
          ...judged.flatMap((one) =>
            one.values.filter((value) => value !== null).map((value) => Math.floor(4 * value) / 4),
          ),
        )
      : 0;
    const tick = (ratio) => `${Number(ratio.toPrecision(3))}×`;
    const worst = Math.max(16, ...streams.map(([, one]) => largest(one.shift)));
    const slowest = largest(past.latency_ratio);
    const busiest = Math.min(
      1,
      Math.ceil(5 * Math.max(2 * status.budget.busy_fraction, largest(past.busy)) - 1e-9) / 5,
    );
    return [
      {
        title: proxy.title,
        about: proxy.about,
        now: proxy.value,
        format: percent,
        scale: SCALES.from(least),
        rows: proxy.kind === "confidence" ? of("confidence") : judged,
      },
      {
        title: "Shift",
        about: "how far the conditions are from the factory's",
        now: largest(streams.map(([, one]) => fresh(one.shift))),
        format: times,
        tick,
        scale: SCALES.ratio(0.25, worst > 64 ? 256 : worst > 16 ? 64 : 16),
        rows: of("shift"),
        limit: status.thresholds.shift,
        limitName: "threshold",
      },
      {
        title: "Novel",
        about: "share of the last samples unlike every known class",
        now: largest(streams.map(([, one]) => fresh(one.novel_share))),
        none: "unknown while shifted",
        format: percent,
        scale: SCALES.share,
        rows: of("novel_share"),
        limit: status.thresholds.novel_share,
        limitName: "threshold",
        unknown: blanks(streams.map(([, one]) => one)),
      },
      {
        title: "Latency",
        about: "slowest answers while it learns, against plain inference",
        now: fresh(past.latency_ratio),
        none: "not measured now",
        format: times,
        tick,
        scale: SCALES.ratio(0.5, slowest > 16 ? 64 : slowest > 4 ? 16 : 4),
        rows: [{ name: "", values: past.latency_ratio, hue: "learns" }],
        limit: status.budget.p99_ratio,
        limitName: "bound",
      },
      {
        title: "Busy",
        about: "share of the time that goes into learning",
        now: fresh(past.busy),
        format: percent,
        scale: SCALES.upTo(busiest),
        rows: [{ name: "", values: past.busy, hue: "learns" }],
        limit: status.budget.busy_fraction,
        limitName: "budget",
      },
    ];
  }

  draw() {
    if (this.past === null) return;
    const place = by("past");
    const isNarrow = matchMedia("(max-width: 860px)").matches;
    const gutter = isNarrow ? 0 : 232,
      aside = isNarrow ? 44 : 254;
    const width = Math.max(120, place.clientWidth - gutter - aside);
    this.frame = { gutter, width };
    const rows = this.rows();
    const parts = rows.map((row) => this.band(row, width, isNarrow));
    place.replaceChildren(...parts, this.lanes(width), this.axis(width), FAMILIES.cloneNode(true));
    this.drawn = rows;
  }

  band(row, width, isNarrow) {
    const isKnown = row.now !== null && Number.isFinite(row.now);
    const value = isKnown ? row.format(row.now) : "–";
    const most = row.rows.length ? largest(row.rows.flatMap((one) => one.values)) : NaN;
    const label =
      `${row.title}, ${row.about}. Now ${isKnown ? value : (row.none ?? "unknown")}; ` +
      `at most ${Number.isFinite(most) ? row.format(most) : "unknown"} in this window.`;
    const plot = new Plot({ ...row, width, height: isNarrow ? 84 : 92, label });
    const legend = row.rows
      .filter((one) => one.name)
      .slice(0, LEGEND)
      .map((one) => ({ ...one, end: fresh(one.values) }))
      .filter((one) => one.end !== null);
    return make(
      "div",
      { class: "band" },
      make(
        "div",
        { class: "band-head" },
        make("h3", {}, row.title),
        make(
          "p",
          { class: isOver(row, row.now) ? "value over-limit" : "value" },
          value,
          isKnown || !row.none ? null : make("span", { class: "none" }, row.none),
        ),
        make("p", { class: "soft about" }, row.about),
      ),
      make("div", { class: "band-plot" }, plot.svg),
      make(
        "ul",
        { class: "legend" },
        legend.length > 1 || row.rows.length > 1
          ? legend.map((one) =>
              make(
                "li",
                {},
                make("span", { class: `swatch ${one.hue}`, "aria-hidden": "true" }),
                make("span", { class: "legend-name" }, named(one.name)),
                " ",
                make("span", { class: "legend-value" }, row.format(one.end)),
              ),
            )
          : [],
      ),
    );
  }

  span() {
    const { start, step_s: step, busy } = this.past;
    return [start, start + step * busy.length];
  }

  lanes(width) {
    const [from, to] = this.span();
    const x = (time) => ((time - from) / (to - from)) * width;
    const svg = draw("svg", {
      class: "plot lanes",
      viewBox: `0 0 ${width} 52`,
      width,
      height: 52,
      role: "img",
      "aria-label":
        "When something was decided and when something was changed; both lists stand below.",
    });
    const lane = (y, marks) => {
      svg.append(draw("line", { class: "grid", x1: 0, x2: width, y1: y, y2: y }));
      for (const { time, family, text } of marks)
        if (time >= from && time <= to)
          svg.append(
            draw(
              "rect",
              {
                class: `mark ${family}`,
                x: x(time) - 1.5,
                y: y - 8,
                width: 3,
                height: 16,
                rx: 1.5,
              },
              draw("title", {}, `${clock(time)} ${text}`),
            ),
          );
    };
    lane(
      13,
      this.decisions.map((one) => ({
        time: one.time,
        family: FAMILY[one.kind] ?? "senses",
        text: `${decided(one)}. ${reason(one.why)}`,
      })),
    );
    lane(
      39,
      this.history.map((one) => ({
        time: one.time,
        family: familyOf(one),
        text: `#${one.number} ${changed(one)}`,
      })),
    );
    return make(
      "div",
      { class: "band lanes-band" },
      make("div", { class: "band-head two" }, make("p", {}, "decided"), make("p", {}, "changed")),
      make("div", { class: "band-plot" }, svg),
      make("div", {}),
    );
  }

  axis(width) {
    const [from, to] = this.span();
    const svg = draw("svg", {
      class: "plot axis",
      viewBox: `0 0 ${width} 22`,
      width,
      height: 22,
      "aria-hidden": "true",
    });
    for (const tick of timeTicks(from, to, width / 80)) {
      const x = ((tick - from) / (to - from)) * width;
      if (x > 18 && x < width - 18)
        svg.append(draw("text", { class: "tick middle", x, y: 15 }, clock(tick, false)));
    }
    return make(
      "div",
      { class: "band axis-band" },
      make("div", { class: "band-head" }),
      make("div", { class: "band-plot" }, svg),
      make("div", {}),
    );
  }

  // What stood there: the numbers beside the lines tell of the time under the pointer.
  point(event) {
    if (this.past === null || !this.frame) return;
    const plots = by("past").querySelectorAll(".band:not(.lanes-band):not(.axis-band)");
    const edge = plots[0]?.querySelector(".plot").getBoundingClientRect();
    const share = event && edge ? (event.clientX - edge.left) / edge.width : -1;
    const isOn = event !== null && event.pointerType !== "touch" && share >= 0 && share <= 1;
    const step = Math.min(this.past.busy.length - 1, Math.floor(share * this.past.busy.length));
    by("past").classList.toggle("is-pointed", isOn);
    plots.forEach((band, place) => {
      const row = this.drawn[place];
      const values = row.rows.map((one) => one.values[step] ?? null);
      const value = isOn ? largest(values) : row.now;
      const node = band.querySelector(".value");
      const isKnown = value !== null && Number.isFinite(value);
      say(node, isKnown ? row.format(value) : "–");
      node.classList.toggle("over-limit", isOver(row, value));
      if (!isKnown && !isOn && row.none) node.append(make("span", { class: "none" }, row.none));
    });
    const head = by("past").querySelector(".axis-band .band-head");
    if (head)
      say(head, isOn ? `at ${clock(this.past.start + (step + 0.5) * this.past.step_s)}` : "");
    by("past")
      .querySelectorAll(".plot:not(.axis)")
      .forEach((svg) => {
        svg.querySelector(".pointer")?.remove();
        if (isOn)
          svg.append(
            draw("line", {
              class: "pointer",
              x1: share * this.frame.width,
              x2: share * this.frame.width,
              y1: 0,
              y2: svg.getAttribute("height"),
            }),
          );
      });
  }
}
