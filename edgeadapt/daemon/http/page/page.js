// Asks the daemon once a second how it is, and shows it.

import { Declined, Unanswered, Unknown, ask, bid, picture, remember } from "./asking.js";
import { by, keep, make, say, show, tell } from "./dom.js";
import { Grid } from "./grid.js";
import { Past, streamHues } from "./past.js";
import { showQuality } from "./quality.js";
import { Queue } from "./queue.js";
import { Decisions, History } from "./record.js";
import { showRole } from "./role.js";
import {
  clock,
  counted,
  duration,
  list,
  milliseconds,
  named,
  number,
  percent,
  times,
  when,
  whole,
} from "./words.js";

const EVERY_MS = 1000,
  LONGEST_MS = 10000,
  STREAMS = 6,
  CONDITIONS = {
    provisional: "on trial",
    condition: "confirmed by answers",
    novelty: "new classes, not a condition",
  };
const DUE_MS = {
  series: { minutes: 2500, hours: 10000, day: 30000 },
  questions: 2500,
  history: 3000,
  quality: 30000,
  me: 10000,
};
// decisions are asked of the thread that learns: once a minute, sooner where a stream has moved on
const SELDOM_MS = 60000,
  SOONER_MS = 6000;

const state = {
  status: null,
  past: null,
  decisions: [],
  history: [],
  due: {},
  wait: EVERY_MS,
  isGone: false,
  timer: 0,
  busy: false,
};
const past = new Past();
const decisions = new Decisions();
const history = new History(() => {
  state.due = {};
  soon();
});
const grid = new Grid((ids) => {
  for (const id of ids) queue.done.add(id);
  state.due = {};
  soon();
});
const queue = new Queue(() => {
  state.due.questions = state.due.history = 0;
});
past.whenChosen = () => {
  state.due.series = 0;
  soon();
};

// -- the turn -------------------------------------------------------------------------------------
function soon(ms = 0) {
  clearTimeout(state.timer);
  state.timer = setTimeout(turn, ms);
}

async function turn() {
  if (state.busy) return soon(50);
  if (by("door").open) return;
  state.busy = true;
  try {
    await look();
    state.wait = EVERY_MS;
    found();
  } catch (error) {
    if (error instanceof Unknown) return openDoor(error.message);
    if (!(error instanceof Unanswered || error instanceof Declined)) throw error;
    state.wait = state.isGone ? Math.min(LONGEST_MS, 2 * state.wait) : EVERY_MS;
    lost(error.message);
  } finally {
    state.busy = false;
    if (!document.hidden && !by("door").open) soon(state.wait);
  }
}

async function look() {
  const now = performance.now();
  const isDue = (what) => !(state.due[what] > now);
  const wants = {
    series: isDue("series"),
    questions: isDue("questions"),
    history: isDue("history"),
  };
  const window = past.window;
  if (isDue("me")) {
    // first: nothing is offered that would be refused
    showRole(await ask("v1/me"));
    state.due.me = now + DUE_MS.me;
  }
  const [status, series, changes] = await Promise.all([
    ask("v1/status"),
    wants.series && ask(`v1/series?window=${window}`),
    wants.history && ask("v1/history?limit=200"),
  ]);
  const moved = JSON.stringify([
    status.bundle.sha256,
    Object.entries(status.streams)
      .map(([name, one]) => [name, one.axis, one.domain])
      .sort(),
  ]);
  if (moved !== state.moved)
    [state.moved, state.due.decisions] = [
      moved,
      Math.min(state.due.decisions ?? 0, (state.decidedAt ?? -SOONER_MS) + SOONER_MS),
    ];
  const reasons = isDue("decisions") && (await ask("v1/decisions?limit=400"));
  const said = JSON.stringify([status.learner.answered, status.learner.evidence]);
  if (said !== state.said) [state.said, state.due.quality] = [said, 0];
  if (isDue("quality")) {
    showQuality(await ask("v1/quality"));
    state.due.quality = now + DUE_MS.quality;
  }
  const questions =
    (wants.questions || status.questions !== queue.total) && (await ask("v1/questions?limit=50"));
  state.status = status;
  if (series && window === past.window)
    [state.past, state.due.series] = [series, now + DUE_MS.series[window]];
  if (changes) [state.history, state.due.history] = [changes.history, now + DUE_MS.history];
  if (reasons)
    [state.decisions, state.decidedAt, state.due.decisions] = [
      reasons.decisions,
      now,
      now + SELDOM_MS,
    ];
  if (questions) state.due.questions = now + DUE_MS.questions;
  queue.takeClasses(status.classes, status.new_classes === "add", status.questions);
  if (questions) queue.take(questions.questions, status.questions);
  grid.takeClasses(status.classes);
  await grid.look(status.questions);
  if (reasons) decisions.take(state.decisions);
  if (changes) history.take(state.history);
  if ((series || changes || reasons) && state.past)
    past.take(state.past, status, state.decisions, state.history);
  showAll(status);
}

document.addEventListener("visibilitychange", () => {
  if (!document.hidden) soon();
});
by("again").addEventListener("click", () => soon());

// -- the daemon is there, or is not ---------------------------------------------------------------
function found() {
  if (state.isGone) tell("The daemon answers again.");
  state.isGone = false;
  document.body.classList.remove("is-gone");
  show(by("gone"), false);
  by("link").dataset.state = "live";
  say(by("link-text"), `live · ${clock(Date.now() / 1000)}`);
}

function lost(why) {
  if (!state.isGone) tell(`The daemon does not answer: ${why}.`);
  state.isGone = true;
  document.body.classList.add("is-gone");
  by("link").dataset.state = "gone";
  say(by("link-text"), "no answer");
  say(by("headline"), "The daemon does not answer.");
  say(
    by("lede"),
    state.status ? "What stands below is how it was." : "Is it running? edgeadapt serve starts it.",
  );
  say(
    by("gone-text"),
    `${why[0].toUpperCase()}${why.slice(1)}. Trying again ` +
      `${state.wait > EVERY_MS ? `every ${duration(state.wait / 1000)}` : "every second"}.`,
  );
  show(by("gone"), true);
  for (const name of ["pause", "freeze"]) by(name).disabled = true;
}

function openDoor(why) {
  say(by("door-error"), why);
  show(by("door-error"), why !== "");
  if (!by("door").open) by("door").showModal();
  by("token").focus();
}

by("door").addEventListener("cancel", (event) => event.preventDefault());
by("door-form").addEventListener("submit", () => {
  remember(by("token").value.trim());
  state.due.me = 0;
  by("token").value = "";
  soon(20);
});

// -- what is said at the top ----------------------------------------------------------------------
function headline(status) {
  const streams = Object.entries(status.streams);
  const where = (axis) =>
    streams
      .filter(([, one]) => one.axis === axis)
      .map(([name]) => name)
      .sort();
  const at = (names) =>
    streams.length < 2
      ? ""
      : names.length > 2
        ? ` at ${whole(names.length)} of ${whole(streams.length)} streams`
        : ` at ${list(names)}`;
  if (!status.ok) return "It needs help.";
  if (!status.ready) return `Not ready: ${status.reason}.`;
  if (status.is_frozen) return "Frozen: it answers, and changes nothing.";
  if (status.paused_by.includes("user")) return "Paused: it answers, and learns later.";
  if (where("stuck").length) return `The picture stands still${at(where("stuck"))}.`;
  const changed = streams
    .filter(([, one]) => one.axis === "shifted" || one.domain !== "source")
    .map(([name]) => name)
    .sort();
  if (changed.length) return `Conditions have changed${at(changed)}.`;
  if (where("novel").length) return `Something new${at(where("novel"))}.`;
  if (streams.length === 0) return "Waiting for the first sample.";
  if (where("warming").length === streams.length) return "Taking a first look.";
  return "All as at the factory.";
}

function lede(status) {
  const parts = [];
  const away = [...new Set(Object.values(status.streams).map((one) => one.domain))]
    .filter((name) => name !== "source")
    .sort();
  if (away.length)
    parts.push(
      `It has met ${counted(Object.keys(status.domains).length, "condition")} ` +
        `and is in ${list(away)} now.`,
    );
  if (status.questions)
    parts.push(
      `${counted(status.questions, "question")} ` +
        `${status.questions === 1 ? "waits" : "wait"} for you.`,
    );
  const learned = Object.values(status.labelled).reduce((sum, count) => sum + count, 0);
  parts.push(
    `${counted(status.loop.answered, "answer")} since ${when(status.started_at)}, ` +
      `${counted(learned, "label")} learned in all.`,
  );
  return parts.join(" ");
}

function showTop(status) {
  say(by("headline"), headline(status));
  say(by("lede"), lede(status));
  say(by("bundle"), `${status.bundle.name} ${status.bundle.version}`);
  const waiting = status.questions ? `(${status.questions}) ` : "";
  document.title = `${waiting}${status.bundle.name} · edgeadapt`;
  keep(
    by("problems"),
    [...status.problems, ...status.notes],
    (text) => text,
    () => 0,
    (text) => make("li", {}, text),
  );
  const isPaused = status.paused_by.includes("user");
  press(by("pause"), isPaused, isPaused ? "Resume learning" : "Pause learning");
  press(by("freeze"), status.is_frozen, status.is_frozen ? "Unfreeze" : "Freeze");
}

function press(button, isOn, text) {
  button.disabled = false;
  button.setAttribute("aria-pressed", isOn);
  say(button, text);
}

async function flip(name, body, done) {
  by(name).disabled = true;
  try {
    await bid(`v1/${name}`, body);
    tell(done);
  } catch (error) {
    if (error instanceof Unknown) openDoor(error.message);
    else tell(error instanceof Declined ? error.message : "The daemon does not answer.");
  }
  soon();
}
by("pause").addEventListener("click", () => {
  const isOn = by("pause").getAttribute("aria-pressed") === "true";
  flip("pause", { paused: !isOn }, isOn ? "Learning goes on." : "Learning is paused.");
});
by("freeze").addEventListener("click", () => {
  const isOn = by("freeze").getAttribute("aria-pressed") === "true";
  flip("freeze", { frozen: !isOn }, isOn ? "It learns again." : "It is frozen.");
});

// -- now ------------------------------------------------------------------------------------------
const AXES = {
  clear: "as at the factory",
  shifted: "conditions have changed",
  novel: "looks new",
  warming: "first look",
  stuck: "stands still",
};
const shownPictures = new WeakMap(); // node -> {id, address, isFetching}

function showNow(status) {
  const names = Object.keys(status.latest).slice(0, STREAMS);
  const hues = streamHues(Object.keys(status.streams));
  show(by("now-empty"), names.length === 0);
  by("now").classList.toggle("many", names.length > 2);
  keep(
    by("now"),
    names,
    (name) => name,
    () => 0,
    (name) =>
      make(
        "li",
        {},
        make(
          "div",
          { class: "tile" },
          make("img", { alt: "", hidden: true }),
          make("span", { class: "no-picture soft" }, "numbers"),
        ),
        make(
          "div",
          { class: "now-words" },
          make(
            "p",
            { class: "stream" },
            make("span", { class: `swatch ${hues.get(name) ?? "t0"}`, "aria-hidden": "true" }),
            make("span", {}, named(name)),
          ),
          make("p", { class: "answer" }),
          make(
            "p",
            { class: "sure" },
            make("span", { class: "bar", "aria-hidden": "true" }, make("span", {})),
            make("span", { class: "sure-text" }),
          ),
          make("p", { class: "soft axis-text" }),
        ),
      ),
  );
  const [latest, streams] = [status.latest, status.streams].map(table);
  for (const node of by("now").children)
    renew(node, latest.get(node.dataset.key), streams.get(node.dataset.key));
}

// A picture and its answer change together: no answer stands beside the picture of another.
async function renew(node, one, reading) {
  const shown = shownPictures.get(node) ?? { id: null, address: "", isFetching: false };
  shownPictures.set(node, shown);
  if (shown.isFetching) return;
  const image = node.querySelector("img");
  if (one.picture && shown.id !== one.id) {
    shown.isFetching = true;
    try {
      const address = await picture(
        `v1/latest/image?stream=${encodeURIComponent(one.stream)}&id=${one.id}`,
      );
      image.src = address;
      await image.decode();
      if (shown.address) URL.revokeObjectURL(shown.address);
      shown.address = address;
      image.alt = `a sample of ${named(one.stream)}`;
      image.classList.toggle("coarse", image.naturalWidth < 128);
    } catch {
      return; // it has gone meanwhile; the next turn shows another
    } finally {
      shown.isFetching = false;
    }
  }
  shown.id = one.id;
  show(image, one.picture);
  show(node.querySelector(".no-picture"), !one.picture);
  say(node.querySelector(".answer"), one.abstained ? `${named(one.label)}?` : named(one.label));
  node.querySelector(".bar > span").style.inlineSize = percent(one.confidence);
  say(node.querySelector(".sure-text"), `${percent(one.confidence)} sure`);
  const age = Date.now() / 1000 - one.at;
  const condition = reading && reading.domain !== "source" ? `, ${reading.domain}` : "";
  say(
    node.querySelector(".axis-text"),
    age > 5
      ? `last sample ${duration(age)} ago`
      : `${AXES[reading?.axis] ?? ""}${condition} · ${milliseconds(one.took_ms)}`,
  );
  node.classList.toggle("shifted", reading?.axis === "shifted" || reading?.axis === "novel");
}

// By names that somebody gave: an object has a "constructor" that nobody put there.
function table(object) {
  return new Map(Object.entries(object));
}

// -- the tables -----------------------------------------------------------------------------------
function showClasses(status) {
  const most = Math.max(1, ...Object.values(status.answers));
  const factory = new Set(status.factory_classes),
    given = table(status.answers),
    labelled = table(status.labelled);
  keep(
    by("classes"),
    status.classes,
    (name) => name,
    () => factory.has(name),
    (name) =>
      make(
        "tr",
        {},
        make(
          "th",
          { scope: "row" },
          named(name),
          factory.has(name) ? null : make("span", { class: "tag" }, "new"),
          make("span", { class: "bar", "aria-hidden": "true" }, make("span", {})),
        ),
        make("td", { class: "number" }),
        make("td", { class: "number" }),
      ),
  );
  for (const row of by("classes").children) {
    const name = row.dataset.key,
      answers = given.get(name) ?? 0;
    row.querySelector(".bar > span").style.inlineSize = percent(answers / most);
    say(row.children[1], whole(answers));
    say(row.children[2], whole(labelled.get(name) ?? 0));
  }
}

function meters(status) {
  const { budget, learner, telemetry } = status;
  const busy = state.past ? (state.past.busy.findLast((value) => value !== null) ?? null) : null;
  const mib = (value) => `${number(value)} MiB`;
  return [
    { name: "Busy", about: "of the time", value: busy, most: budget.busy_fraction, form: percent },
    {
      name: "Written",
      about: "in 24 hours",
      value: learner.written_bytes_last_day / 2 ** 20,
      most: budget.write_mib_per_day,
      form: mib,
    },
    {
      name: "Memory",
      about: "of the tensors",
      value: learner.tensor_bytes / 2 ** 20,
      most: budget.memory_mib,
      form: mib,
    },
    {
      name: "Temperature",
      about: "the hottest zone",
      value: telemetry.hottest_c,
      most: budget.temperature_c,
      form: (value) => `${value.toFixed(0)} °C`,
    },
    {
      name: "Power",
      about: "of the machine",
      value: telemetry.total_power_w,
      most: budget.power_w,
      form: (value) => `${number(value)} W`,
    },
  ].filter((one) => one.value !== null || one.most !== null);
}

function showBudget(status) {
  keep(
    by("budget"),
    meters(status),
    (one) => one.name,
    () => 0,
    (one) =>
      make(
        "div",
        {},
        make("dt", {}, one.name, make("span", { class: "soft" }, ` ${one.about}`)),
        make(
          "dd",
          {},
          make("span", { class: "meter-value" }),
          make("span", { class: "meter-most soft" }),
        ),
        make("dd", { class: "bar", "aria-hidden": "true" }, make("span", {})),
      ),
  );
  for (const one of meters(status)) {
    const node = [...by("budget").children].find((child) => child.dataset.key === one.name);
    const share =
      one.value === null || one.most === null ? 0 : Math.min(1, Math.max(0, one.value / one.most));
    say(
      node.querySelector(".meter-value"),
      one.value === null ? "not measured here" : one.form(one.value),
    );
    say(
      node.querySelector(".meter-most"),
      one.most === null ? "no limit" : `of ${one.form(one.most)}`,
    );
    node.querySelector(".bar > span").style.inlineSize = percent(share);
    node.classList.toggle("over", one.most !== null && one.value !== null && one.value > one.most);
    node.classList.toggle("unmeasured", one.value === null);
  }
}

function showLatency(status) {
  const { plain, learning, ratio, p99_ratio: bound, pauses } = status.latency;
  const ms = (value) => (value === null ? "–" : milliseconds(value));
  keep(
    by("latency"),
    [
      ["plain inference", plain],
      ["beside learning", learning],
    ],
    ([name]) => name,
    ([, one]) => `${one.p50_ms} ${one.p99_ms}`,
    ([name, one]) =>
      make(
        "tr",
        {},
        make("th", { scope: "row" }, name),
        make("td", { class: "number" }, ms(one.p50_ms)),
        make("td", { class: "number" }, ms(one.p99_ms)),
      ),
  );
  const waited = status.paused_by.includes("latency")
    ? " It rests for a moment now."
    : pauses
      ? ` It has rested ${counted(pauses, "time")} for that.`
      : "";
  say(
    by("latency-note"),
    ratio === null
      ? `How the two compare is told from 50 batches of each on.${waited}`
      : `${times(ratio)} as slow beside learning; beyond ${times(bound)} learning rests.${waited}`,
  );
}

function showConditions(status) {
  const now = Object.entries(status.streams);
  const rows = [
    ["source", "what it was shipped for"],
    ...Object.entries(status.domains).map(([name, kind]) => [name, CONDITIONS[kind] ?? kind]),
  ];
  const here = (name) => now.filter(([, one]) => one.domain === name).map(([stream]) => stream);
  keep(
    by("conditions"),
    rows,
    ([name]) => name,
    ([name, about]) => `${about} ${here(name)}`,
    ([name, about]) =>
      make(
        "li",
        {},
        make(
          "p",
          {},
          name === "source" ? "factory" : name,
          here(name).length ? make("span", { class: "tag" }, `now: ${list(here(name))}`) : null,
        ),
        make("p", { class: "soft" }, about),
      ),
  );
}

function showFoot(status) {
  const signer = status.bundle.signed_by
    ? `signed by ${status.bundle.signed_by.slice(0, 24)}`
    : "not signed";
  say(
    by("about"),
    `edgeadapt ${status.version} · ${status.bundle.name} ${status.bundle.version}, ` +
      `${signer} · ${status.bundle.sha256.slice(0, 12)}`,
  );
  say(
    by("saved"),
    status.checkpointed_at
      ? `saved ${when(status.checkpointed_at)}`
      : "labels are saved as they come; no checkpoint yet",
  );
}

function showAll(status) {
  for (const part of [
    showTop,
    showNow,
    showClasses,
    showBudget,
    showLatency,
    showConditions,
    showFoot,
  ])
    part(status);
}

soon();
