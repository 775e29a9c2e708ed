// Two lists: what was decided, and what was changed, with the way back.

import { Declined, bid } from "./asking.js";
import { by, keep, make, say, show, tell } from "./dom.js";
import {
  FAMILY,
  because,
  changed,
  changes,
  counted,
  decided,
  familyOf,
  isRefusal,
  named,
  reason,
  when,
} from "./words.js";

const SHOWN = 7,
  TOGETHER_S = 60;

// Runs of the same decision as one row, the newest first.
function runs(decisions) {
  const found = [];
  for (const one of decisions) {
    const before = found
      .filter((row) => row.stream === one.stream || !row.stream)
      .slice(-2)
      .reverse()
      .find(
        (row) => row.kind === one.kind && row.stream === one.stream && row.domain === one.domain,
      );
    if (before && ["adapt", "hold", "ask"].includes(one.kind)) {
      before.count += 1;
      before.first = one.time;
    } else found.push({ ...one, count: 1, first: one.time });
  }
  return found;
}

// Labels of one source and one condition that were learned within the same minute as one row, the
// newest first.
function groups(history) {
  const found = [];
  for (const one of [...history].reverse()) {
    const before = found.at(-1);
    const isAlike =
      before &&
      before.kind === "learn" &&
      one.kind === "learn" &&
      before.outcome === one.outcome &&
      ["source", "domain", "why"].every((key) => before.detail[key] === one.detail[key]);
    if (isAlike && Math.floor(before.time / TOGETHER_S) === Math.floor(one.time / TOGETHER_S)) {
      Object.assign(before, {
        number: one.number,
        time: one.time,
        count: before.count + 1,
        detail: { ...one.detail, labels: before.detail.labels + one.detail.labels },
      });
    } else found.push({ ...one, count: 1, first: one.number });
  }
  return found.reverse();
}

class List {
  constructor(name) {
    this.name = name;
    this.isLong = false;
    this.rows = [];
    by(`${name}-more`).addEventListener("click", () => {
      this.isLong = !this.isLong;
      this.draw();
    });
  }

  draw() {
    const more = by(`${this.name}-more`);
    keep(
      by(this.name),
      this.isLong ? this.rows : this.rows.slice(0, SHOWN),
      this.key,
      this.version,
      (row) => this.build(row),
    );
    show(by(`${this.name}-empty`), this.rows.length === 0);
    const left = this.rows.length - SHOWN;
    show(more, left > 0);
    say(more, left <= 0 ? "" : this.isLong ? "Show fewer" : `Show ${left} more`);
  }
}

export class Decisions extends List {
  constructor() {
    super("decisions");
  }

  take(decisions) {
    this.rows = runs(decisions);
    this.draw();
  }

  key(row) {
    return `${row.first} ${row.stream} ${row.kind}`;
  }
  version(row) {
    return `${row.count} ${row.time}`;
  }

  build(row) {
    return make(
      "li",
      {},
      make("time", {}, when(row.time)),
      make("span", { class: `swatch ${FAMILY[row.kind] ?? "senses"}`, "aria-hidden": "true" }),
      make(
        "div",
        {},
        make(
          "p",
          { class: "what" },
          decided(row),
          row.stream ? make("span", { class: "soft" }, ` · ${named(row.stream)}`) : null,
          row.count > 1 ? make("span", { class: "soft" }, ` · ${row.count} times`) : null,
        ),
        make("p", { class: "soft why" }, reason(row.why)),
      ),
    );
  }
}

export class History extends List {
  constructor(whenChanged) {
    super("history");
    this.whenChanged = whenChanged;
  }

  take(history) {
    this.newest = history[0]?.number ?? 0;
    this.rows = groups(history);
    this.draw();
  }

  key(row) {
    return row.first;
  }
  version(row) {
    return `${row.number} ${row.count}`;
  }

  build(row) {
    const name = row.count > 1 ? `#${row.first} to ${row.number}` : `#${row.number}`;
    const way = changes(row)
      ? make(
          "button",
          {
            type: "button",
            class: "plain back for-admin",
            "data-to": row.first - 1,
            onclick: () => this.confirm(item, row),
          },
          "Go back to before this",
          make("span", { class: "unseen" }, ` (${name}: ${changed(row)})`),
        )
      : null;
    const item = make(
      "li",
      { class: isRefusal(row) ? "refusal" : null },
      make("time", {}, when(row.time)),
      make("span", { class: `swatch ${familyOf(row)}`, "aria-hidden": "true" }),
      make(
        "div",
        {},
        make("p", { class: "what" }, changed(row), make("span", { class: "soft" }, ` · ${name}`)),
        make(
          "p",
          { class: "soft why" },
          because(row)
            .split(" · ")
            .map((part, place) => [place ? " · " : "", make("span", {}, part)]),
        ),
        way,
      ),
    );
    return item;
  }

  confirm(item, row) {
    const button = item.querySelector(".back");
    const back = make(
      "button",
      { type: "button", class: "strong", onclick: () => this.goBack(item, row, box) },
      "Go back",
    );
    const stay = make(
      "button",
      { type: "button", onclick: () => this.close(item, box) },
      "Leave it",
    );
    const undone = this.newest - row.first + 1;
    const box = make(
      "div",
      {
        class: "confirm",
        role: "group",
        "aria-label": "Go back?",
        onkeydown: (event) => event.key === "Escape" && this.close(item, box),
      },
      make(
        "p",
        {},
        (undone === 1
          ? `Undo #${row.first}`
          : `Undo ${counted(undone, "change")}, #${row.first} to #${this.newest}`) +
          "? Labels that were learned since are withdrawn; the record keeps it all.",
      ),
      make("div", { class: "confirm-buttons" }, back, stay),
    );
    item.setAttribute("data-busy", "");
    button.hidden = true;
    item.lastElementChild.append(box);
    stay.focus();
  }

  close(item, box) {
    box.remove();
    item.removeAttribute("data-busy");
    const button = item.querySelector(".back");
    button.hidden = false;
    button.focus();
  }

  async goBack(item, row, box) {
    for (const button of box.querySelectorAll("button")) button.disabled = true;
    this.failed("");
    try {
      const { commit } = await bid("v1/rollback", { to: row.first - 1 });
      tell(`Went back to #${commit}.`);
    } catch (error) {
      this.failed(
        error instanceof Declined
          ? `Not undone: ${error.message}`
          : "Not undone: the daemon does not answer.",
      );
    }
    this.close(item, box);
    this.whenChanged();
  }

  failed(text) {
    say(by("history-error"), text);
    show(by("history-error"), text !== "");
  }
}
