// Many questions at once: pictures in an order in which like stands beside like, chosen with keys
// or fingers, and given one label in one request.

import { Declined, ask, bid, picture } from "./asking.js";
import { by, keep, make, say, show, tell } from "./dom.js";
import { named, whole } from "./words.js";

const MOST = 60,
  AT_ONCE = 4;
const KEYS = [..."123456789abcdefhijklmnopqrtvwxyz"]; // g, s and u mean something else

export class Grid {
  constructor(whenAnswered) {
    this.whenAnswered = whenAnswered;
    this.tiles = []; // {question, address} in the order shown
    this.chosen = new Set(); // ids
    this.classes = [];
    this.label = null;
    this.at = this.from = 0; // the tile that has the focus, and where a range begins
    this.undoable = []; // [{tiles, label}], the newest last
    this.isBusy = false;
    this.running = 0;
    by("grid-open").addEventListener("click", () => this.toggle());
    by("grid-all").addEventListener("click", () => this.choose(this.ids(), "all"));
    by("grid-like").addEventListener("click", () => this.chooseGroup());
    by("grid-none").addEventListener("click", () => this.clear());
    by("grid-undo").addEventListener("click", () => this.undo());
    by("grid-give").addEventListener("click", () => this.give());
    by("grid-work").addEventListener("keydown", (event) => this.press(event));
  }

  get isOpen() {
    return !by("grid-work").hidden;
  }
  ids() {
    return this.tiles.map((tile) => tile.question.id);
  }

  toggle() {
    const isOpen = !this.isOpen;
    show(by("grid-work"), isOpen);
    by("grid-open").setAttribute("aria-expanded", isOpen);
    say(by("grid-open"), isOpen ? "Close" : "Label many at once");
    if (isOpen) this.look();
  }

  // ``total``: open questions. Asked again when there are others than are shown.
  async look(total) {
    show(by("grid"), total === undefined || total > 1 || this.isOpen);
    if (!this.isOpen || this.isBusy || (total !== undefined && total === this.seen)) return;
    const { questions } = await ask(`v1/questions?limit=${MOST}&alike=true`);
    if (this.isBusy || !this.isOpen) return;
    this.seen = total ?? this.seen;
    const open = new Map(questions.map((one) => [one.id, one]));
    const kept = this.tiles.filter((tile) => open.has(tile.question.id) || tile.isBack);
    const known = new Set(kept.map((tile) => tile.question.id));
    this.tiles = [
      ...kept,
      ...questions
        .filter((one) => !known.has(one.id))
        .map((question) => ({ question, address: undefined })),
    ].slice(0, MOST);
    this.draw();
  }

  takeClasses(names) {
    this.classes = names;
    keep(
      by("grid-classes"),
      names,
      (name) => name,
      (name) => names.indexOf(name),
      (name) => {
        const key = KEYS[names.indexOf(name)];
        return make(
          "button",
          {
            type: "button",
            "aria-pressed": "false",
            "aria-keyshortcuts": key ?? null,
            onclick: () => this.pick(name),
          },
          key ? make("kbd", { "aria-hidden": "true" }, key) : null,
          make("span", { class: "choice-name" }, named(name)),
        );
      },
    );
    if (this.label !== null && !names.includes(this.label)) this.label = null;
    this.mark();
  }

  // -- what is shown -----------------------------------------------------------------------------
  draw() {
    const present = new Set(this.ids());
    for (const id of this.chosen) if (!present.has(id)) this.chosen.delete(id);
    this.at = Math.min(this.at, Math.max(0, this.tiles.length - 1));
    let before;
    this.tiles.forEach((tile) => {
      tile.starts = before !== undefined && before !== tile.question.group;
      before = tile.question.group;
    });
    keep(
      by("grid-tiles"),
      this.tiles,
      (tile) => tile.question.id,
      () => 0,
      (tile) => this.tile(tile),
    );
    show(by("grid-empty"), this.tiles.length === 0);
    this.mark();
    this.fetch();
  }

  tile(tile) {
    const { question } = tile;
    const node = make(
      "div",
      {
        role: "option",
        class: "grid-tile",
        tabindex: "-1",
        "aria-selected": "false",
        "aria-label": `taken for ${named(question.predicted)}, from ${named(question.stream)}`,
      },
      make(
        "span",
        { class: "grid-picture" },
        make("img", { alt: "", hidden: true, draggable: "false" }),
      ),
      make("span", { class: "grid-guess" }, named(question.predicted)),
    );
    node.addEventListener("click", (event) => {
      const place = this.tiles.indexOf(tile);
      if (event.shiftKey) this.range(place);
      else {
        this.flip(place);
        this.from = place;
      }
      this.go(place, false);
    });
    return node;
  }

  mark() {
    const nodes = by("grid-tiles").children;
    for (let place = 0; place < nodes.length; place++) {
      const tile = this.tiles[place];
      nodes[place].setAttribute("aria-selected", this.chosen.has(tile.question.id));
      nodes[place].tabIndex = place === this.at ? 0 : -1;
      nodes[place].classList.toggle("starts", tile.starts === true);
    }
    for (const button of by("grid-classes").children)
      button.setAttribute("aria-pressed", button.dataset.key === this.label);
    const count = this.chosen.size;
    say(by("grid-count"), `${count} of ${whole(this.tiles.length)} chosen`);
    say(
      by("grid-give"),
      this.label === null
        ? count
          ? "Choose a class"
          : "Choose pictures"
        : count
          ? `Label ${count} as ${named(this.label)}`
          : `Choose what is ${named(this.label)}`,
    );
    by("grid-give").disabled = !count || this.label === null || this.isBusy;
    by("grid-undo").disabled = !this.undoable.length || this.isBusy;
    by("grid-none").disabled = !count;
    by("grid-like").disabled = by("grid-all").disabled = !this.tiles.length;
  }

  async fetch() {
    while (this.running < AT_ONCE) {
      const tile = this.tiles.find((one) => one.address === undefined);
      if (!tile) return;
      tile.address = null;
      this.running++;
      picture(tile.question.image.slice(1))
        .then(
          (address) => this.paint(tile, address),
          () => this.paint(tile, null),
        )
        .finally(() => {
          this.running--;
          this.fetch();
        });
    }
  }

  paint(tile, address) {
    tile.address = address;
    const node = [...by("grid-tiles").children].find((one) => one.dataset.key === tile.question.id);
    const image = node?.querySelector("img");
    if (!image || address === null) return;
    image.src = address;
    image.onload = () => image.classList.toggle("coarse", image.naturalWidth < 128);
    show(image, true);
  }

  // -- choosing ----------------------------------------------------------------------------------
  flip(place) {
    const id = this.tiles[place]?.question.id;
    if (!id) return;
    if (!this.chosen.delete(id)) this.chosen.add(id);
    this.mark();
  }

  range(to) {
    const [first, last] = [this.from, to].sort((a, b) => a - b);
    for (const id of this.ids().slice(first, last + 1)) this.chosen.add(id);
    this.mark();
  }

  choose(ids, what) {
    for (const id of ids) this.chosen.add(id);
    this.mark();
    tell(`Chosen: ${what}, ${this.chosen.size}.`);
  }

  chooseGroup() {
    const { group } = this.tiles[this.at]?.question ?? {};
    this.choose(
      this.tiles.filter((tile) => tile.question.group === group).map((tile) => tile.question.id),
      "those alike",
    );
  }

  clear() {
    this.chosen.clear();
    this.mark();
  }

  go(place, isScrolled = true) {
    this.at = Math.max(0, Math.min(this.tiles.length - 1, place));
    this.mark();
    const node = by("grid-tiles").children[this.at];
    node?.focus({ preventScroll: true });
    if (isScrolled) node?.scrollIntoView({ block: "nearest" });
  }

  columns() {
    const nodes = [...by("grid-tiles").children];
    const next = nodes.findIndex((node) => node.offsetTop > nodes[0].offsetTop);
    return next < 0 ? Math.max(1, nodes.length) : next;
  }

  pick(name) {
    this.label = name;
    this.mark();
    tell(`${named(name)}: enter labels ${this.chosen.size}.`);
  }

  press(event) {
    event.stopPropagation(); // the question above listens to keys, too
    if (event.altKey || event.metaKey) return;
    const isTile = event.target.getAttribute("role") === "option";
    if (event.ctrlKey) {
      if (event.key !== "a" || !isTile) return;
      event.preventDefault();
      return this.choose(this.ids(), "all");
    }
    const step = {
      ArrowLeft: -1,
      ArrowRight: 1,
      ArrowUp: -this.columns(),
      ArrowDown: this.columns(),
      Home: -this.at,
      End: this.tiles.length,
    }[event.key];
    const name = this.classes[KEYS.indexOf(event.key.toLowerCase())];
    if (step !== undefined && isTile) {
      if (!event.shiftKey) this.from = Math.max(0, Math.min(this.tiles.length - 1, this.at + step));
      this.go(this.at + step);
      if (event.shiftKey) this.range(this.at);
    } else if (event.key === " " && isTile) {
      if (event.shiftKey) this.range(this.at);
      else {
        this.flip(this.at);
        this.from = this.at;
      }
    } else if (event.key === "Enter" && isTile) this.give();
    else if (event.key === "Escape") this.clear();
    else if (event.key === "u") this.undo();
    else if (event.key === "g") this.chooseGroup();
    else if (name !== undefined && !event.shiftKey) this.pick(name);
    else return;
    event.preventDefault();
  }

  // -- labelling ---------------------------------------------------------------------------------
  async give() {
    if (!this.chosen.size || this.label === null || this.isBusy) return;
    const label = this.label,
      meant = this.tiles.filter((tile) => this.chosen.has(tile.question.id));
    await this.during(async () => {
      const told = await bid("v1/labels", {
        labels: meant.map((tile) => ({ sample: tile.question.id, label })),
        source: "page",
      });
      const refused = new Map(
        told.labels.filter((one) => one.outcome === "refused").map((one) => [one.sample, one.why]),
      );
      const taken = meant.filter((tile) => !refused.has(tile.question.id));
      this.undoable.push({ tiles: taken.map((tile) => [this.tiles.indexOf(tile), tile]), label });
      for (const tile of taken) this.chosen.delete(tile.question.id);
      this.tiles = this.tiles.filter((tile) => !taken.includes(tile));
      this.whenAnswered(taken.map((tile) => tile.question.id));
      this.failed(
        refused.size
          ? `${refused.size} not taken: ${[...new Set(refused.values())].join("; ")}`
          : "",
      );
      tell(`${taken.length} labelled ${named(label)}.`);
    });
  }

  async undo() {
    const last = this.undoable.at(-1);
    if (last === undefined || this.isBusy) return;
    await this.during(async () => {
      await bid("v1/withdraw", { samples: last.tiles.map(([, tile]) => tile.question.id) });
      this.undoable.pop();
      for (const [place, tile] of last.tiles) {
        tile.isBack = true; // no question of the daemon's any more, and to be labelled all the same
        this.tiles.splice(place, 0, tile);
        this.chosen.add(tile.question.id);
      }
      tell(`${last.tiles.length} taken back.`);
    });
    this.repaint(last.tiles.map(([, tile]) => tile));
  }

  repaint(tiles) {
    for (const tile of tiles) if (tile.address) this.paint(tile, tile.address);
  }

  async during(work) {
    const hadFocus = by("grid-tiles").contains(document.activeElement);
    this.isBusy = true;
    this.failed("");
    this.mark();
    try {
      await work();
    } catch (error) {
      this.failed(
        `Not done: ${error instanceof Declined ? error.message : "the daemon does not answer"}`,
      );
    } finally {
      this.isBusy = false;
      this.draw();
      if (hadFocus) this.go(this.at);
    }
  }

  failed(text) {
    say(by("grid-error"), text);
    show(by("grid-error"), text !== "");
  }
}
