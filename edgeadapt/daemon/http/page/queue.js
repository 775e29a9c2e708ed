// The questions, one at a time: a click or a key answers, and the next one is there before the
// answer has arrived.

import { Declined, Unknown, bid, picture } from "./asking.js";
import { by, keep, make, say, show, tell } from "./dom.js";
import { mayLabel } from "./role.js";
import { named, percent, reason, whole } from "./words.js";

// pictures fetched ahead; a second click so soon is the end of a double click, and no answer
const AHEAD = 4,
  HASTE_MS = 220;

export class Queue {
  constructor(whenAnswered) {
    this.open = []; // as the daemon tells them
    this.done = new Set(); // answered here, and perhaps still on their way
    this.skipped = []; // come last, in this order
    this.pictures = new Map(); // id -> promise of an address, or null
    this.classes = [];
    this.total = 0;
    this.current = null;
    this.last = null; // {question, label}, to be corrected
    this.isCorrecting = false;
    this.shownAt = 0;
    this.whenAnswered = whenAnswered;
    by("skip").addEventListener("click", () => this.skip());
    by("correct").addEventListener("click", () => this.goBack());
    by("new-class").addEventListener("submit", (event) => this.answerNew(event));
    document.addEventListener("keydown", (event) => this.press(event));
  }

  take(questions, total) {
    this.open = questions;
    this.total = total;
    const ids = new Set(questions.map((one) => one.id));
    for (const id of this.done) if (!ids.has(id) && !this.sending?.has(id)) this.done.delete(id);
    this.skipped = this.skipped.filter((id) => ids.has(id));
    for (const id of this.pictures.keys())
      if (!ids.has(id) && id !== this.current?.id && id !== this.last?.question.id) this.letGo(id);
    if (
      !this.isCorrecting &&
      (this.current === null || !ids.has(this.current.id) || this.done.has(this.current.id))
    )
      this.next();
    this.count();
    this.fetchAhead();
  }

  takeClasses(names, mayAdd, total = this.total) {
    const predicted = this.current?.predicted;
    this.classes = names;
    this.total = total;
    this.count();
    show(by("new-class"), mayAdd);
    keep(
      by("choices"),
      names,
      (name) => name,
      (name) => `${names.indexOf(name)} ${name === predicted}`,
      (name) => this.choice(name, names.indexOf(name), name === predicted),
    );
  }

  choice(name, place, isGuess) {
    const key = place < 9 ? String(place + 1) : "";
    return make(
      "button",
      {
        type: "button",
        class: isGuess ? "choice guess" : "choice",
        "aria-keyshortcuts": key || null,
        onclick: () => this.answer(name),
      },
      key ? make("kbd", { "aria-hidden": "true" }, key) : null,
      make("span", { class: "choice-name" }, named(name)),
      isGuess ? make("span", { class: "tag" }, "its guess") : null,
    );
  }

  waiting() {
    const isNew = (one) => !this.done.has(one.id);
    const fresh = this.open.filter((one) => isNew(one) && !this.skipped.includes(one.id));
    return [
      ...fresh,
      ...this.skipped
        .map((id) => this.open.find((one) => one.id === id))
        .filter((one) => one && isNew(one)),
    ];
  }

  next() {
    this.isCorrecting = false;
    this.show(this.waiting()[0] ?? null);
  }

  show(question) {
    const isOther = question?.id !== this.current?.id;
    this.current = question;
    show(by("asked"), question !== null);
    show(by("queue-empty"), question === null && this.last === null);
    if (question === null && this.last !== null) {
      show(by("queue-empty"), true);
      say(by("queue-empty"), "That was the last one. Thank you.");
    }
    by("asked").toggleAttribute("data-empty", question === null);
    if (question === null) return;
    if (isOther) this.shownAt = performance.now();
    say(by("asked-why"), `From ${named(question.stream)}. ${reason(question.why)}`);
    say(
      by("asked-guess"),
      this.isCorrecting
        ? `You said ${named(this.last.label)}. Another answer takes its place.`
        : `It would say ${named(question.predicted)}, and is ${percent(question.confidence)} sure.`,
    );
    this.takeClasses(this.classes, !by("new-class").hidden);
    this.paint(question);
    this.offerCorrection();
    this.count();
  }

  async paint(question) {
    const image = by("asked-image");
    const address = await this.fetch(question);
    if (this.current?.id !== question.id) return;
    show(by("asked-no-image"), address === null);
    show(image, address !== null);
    if (address === null || image.src === address) return;
    image.src = address;
    image.alt = `the sample from ${named(question.stream)} that is asked about`;
    image.onload = () => image.classList.toggle("coarse", image.naturalWidth < 128);
  }

  fetch(question) {
    if (!this.pictures.has(question.id))
      this.pictures.set(
        question.id,
        picture(question.image.slice(1)).catch(() => null),
      );
    return this.pictures.get(question.id);
  }

  fetchAhead() {
    for (const question of this.waiting().slice(0, AHEAD)) this.fetch(question);
  }

  letGo(id) {
    this.pictures.get(id)?.then((address) => address && URL.revokeObjectURL(address));
    this.pictures.delete(id);
  }

  async answer(label) {
    const question = this.current;
    if (question === null || performance.now() - this.shownAt < HASTE_MS) return;
    const wasLast = this.last;
    this.failed("");
    this.done.add(question.id);
    this.skipped = this.skipped.filter((id) => id !== question.id);
    this.last = { question, label };
    (this.sending ??= new Set()).add(question.id);
    this.next();
    this.fetchAhead();
    const left = this.left();
    tell(`${named(label)}. ${left ? `${left} left.` : "No more questions."}`);
    try {
      await bid("v1/labels", { labels: [{ sample: question.id, label }], source: "page" });
      this.whenAnswered();
    } catch (error) {
      // back to it, with what the daemon says
      this.done.delete(question.id);
      this.last = wasLast;
      this.isCorrecting = false;
      this.show(question);
      this.failed(
        error instanceof Declined
          ? `Not taken: ${error.message}`
          : error instanceof Unknown
            ? "Not taken: the token is not known any more."
            : "Not taken: the daemon does not answer. Try again when it does.",
      );
    } finally {
      this.sending.delete(question.id);
    }
  }

  answerNew(event) {
    event.preventDefault();
    const name = by("new-name").value.trim();
    if (!name) return by("new-name").focus();
    by("new-name").value = "";
    this.answer(name);
  }

  skip() {
    if (this.current === null) return;
    if (!this.isCorrecting)
      this.skipped = [...this.skipped.filter((id) => id !== this.current.id), this.current.id];
    this.next();
    this.fetchAhead();
    tell("Skipped.");
  }

  goBack() {
    if (this.last === null) return;
    this.isCorrecting = true;
    this.show(this.last.question);
    tell(`Back to the one that you called ${named(this.last.label)}.`);
  }

  offerCorrection() {
    const button = by("correct");
    show(button, this.last !== null && !this.isCorrecting);
    if (this.last !== null) say(button, `The last was no ${named(this.last.label)}?`);
  }

  press(event) {
    const isTyping =
      event.target.closest?.("input:not([type=checkbox]), textarea, select, dialog") ||
      event.target.isContentEditable;
    if (
      isTyping ||
      event.ctrlKey ||
      event.altKey ||
      event.metaKey ||
      event.repeat ||
      !by("keys").checked ||
      this.current === null ||
      !mayLabel()
    )
      return;
    const name = /^[1-9]$/.test(event.key) ? this.classes[Number(event.key) - 1] : undefined;
    if (name !== undefined) this.answer(name);
    else if (event.key.toLowerCase() === "s" && !event.shiftKey) this.skip();
    else return;
    event.preventDefault();
  }

  left() {
    return Math.max(this.waiting().length, this.total - this.done.size);
  }

  count() {
    const left = this.left();
    say(by("queue-count"), left ? `${whole(left)} open` : "");
    by("questions").classList.toggle("is-asking", left > 0);
    if (!left && this.last === null)
      say(
        by("queue-empty"),
        "Nothing to ask. It will, when it sees something that it does not know.",
      );
  }

  failed(text) {
    say(by("queue-error"), text);
    show(by("queue-error"), text !== "");
  }
}
