// How good the answers are, by what people said, and whether more labels would help.

import { by, keep, make, say, show } from "./dom.js";
import { counted, named, percent } from "./words.js";

const ROWS = 8;
const points = (share) => `${share < 0 ? "\u2212" : "+"}${Math.abs(100 * share).toFixed(1)}`;
const between = (one) => `${percent(one.low)} to ${percent(one.high)}`;

function figures(quality) {
  const { accuracy, estimates, gain, held_out: heldOut } = quality;
  const streams = Object.entries(estimates);
  const worst = streams.sort(([, a], [, b]) => a.value - b.value)[0];
  return [
    accuracy && {
      name: "Right in the field",
      value: percent(accuracy.value),
      about:
        `${between(accuracy)}, by ${counted(accuracy.count, "answer")} ` +
        "to questions drawn at random",
    },
    !accuracy && {
      name: "Right in the field",
      value: "not known",
      about:
        "no question drawn at random was answered yet; " +
        `${percent(heldOut)} on the factory's samples`,
    },
    worst && {
      name: "Estimate without labels",
      value: percent(worst[1].value),
      about:
        `${between(worst[1])}${streams.length > 1 ? `, the lowest: ${named(worst[0])}` : ""}; ` +
        "from margins, nobody confirmed it",
    },
    {
      name: `Ten labels more`,
      value: `${points(gain.value)} points`,
      about:
        `expected; ${points(gain.low)} to ${points(gain.high)}, ` +
        `with ${counted(gain.labels, "label")} now`,
    },
  ].filter(Boolean);
}

function shares(list, all) {
  const rows = Object.entries(all)
    .sort(([, a], [, b]) => a.value - b.value || b.count - a.count)
    .slice(0, ROWS);
  keep(
    list,
    rows,
    ([name]) => name,
    ([, one]) => `${one.value} ${one.count}`,
    ([name, one]) =>
      make(
        "tr",
        {},
        make("th", { scope: "row" }, named(name)),
        make("td", { class: "number" }, percent(one.value)),
        make("td", { class: "number soft" }, `${between(one)}, of ${one.count}`),
      ),
  );
}

export function showQuality(quality) {
  keep(
    by("figures"),
    figures(quality),
    (one) => one.name,
    (one) => one.value + one.about,
    (one) =>
      make(
        "div",
        {},
        make("dt", {}, one.name),
        make("dd", { class: "figure" }, one.value),
        make("dd", { class: "soft" }, one.about),
      ),
  );
  shares(by("by-condition"), quality.by_condition);
  shares(by("by-class"), quality.by_class);
  show(by("quality-tables"), quality.answers > 0);
  const wrong = quality.confusion.filter((one) => one.predicted !== one.label).slice(0, ROWS);
  keep(
    by("confusion"),
    wrong,
    (one) => JSON.stringify([one.predicted, one.label]),
    (one) => one.count,
    (one) =>
      make(
        "li",
        {},
        make("span", {}, `${named(one.predicted)} was ${named(one.label)}`),
        make("span", { class: "soft" }, ` · ${counted(one.count, "time")}`),
      ),
  );
  const right = quality.confusion
    .filter((one) => one.predicted === one.label)
    .reduce((sum, one) => sum + one.count, 0);
  say(
    by("confusion-note"),
    `Of the last ${counted(quality.answers, "answer")} ${right} agreed with the prediction. ` +
      "Chosen questions are harder than the stream.",
  );
}
