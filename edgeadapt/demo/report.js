// Hover, touch or the slider moves one cursor over the batches; the readout tells that batch. Text
// only: nothing is parsed as HTML.
for (const figure of document.querySelectorAll("[data-live]")) {
  const { width, rows } = JSON.parse(figure.querySelector(".rows").textContent);
  const find = (selector) => figure.querySelector(selector);
  const plot = find(".plot"),
    cursor = find(".cursor"),
    readout = find(".readout"),
    scrub = find(".scrub"),
    slider = find("input"),
    scroller = find(".scroller");
  const step = width / rows.length,
    events = new Map();
  for (const glyph of plot.querySelectorAll("[data-at]")) {
    const at = Number(glyph.dataset.at),
      told = glyph.querySelector("title").textContent;
    events.set(at, [...(events.get(at) || []), { glyph, told, lane: glyph.classList[1] }]);
  }
  const stops = [...events.keys()].sort((a, b) => a - b);
  const percent = (value) => (value === null ? "–" : `${Math.round(100 * value)}%`);
  const make = (tag, kind, text) =>
    Object.assign(document.createElement(tag), { className: kind, textContent: text });
  let lit = [];

  function tell(at) {
    const [index, condition, order, learner, frozen, oracle, shift, novel, domain] = rows[at];
    const happened = events.get(at) || [];
    const x = (at + 0.5) * step;
    cursor.setAttribute("x1", x);
    cursor.setAttribute("x2", x);
    plot.classList.add("read");
    lit.forEach((glyph) => glyph.classList.remove("lit"));
    lit = happened.map((event) => event.glyph);
    lit.forEach((glyph) => glyph.classList.add("lit"));
    const figures = make("dl", "", "");
    for (const [name, value] of [
      ["learner", percent(learner)],
      ["frozen", percent(frozen)],
      ["oracle", percent(oracle)],
      ["shift", shift === null ? "–" : `${shift.toFixed(1)}×`],
      ["novel", novel === null ? "unknown" : percent(novel)],
      ["domain", domain || "–"],
    ]) {
      const pair = make("div", name, "");
      pair.append(make("dt", "", name), make("dd", "", value));
      figures.append(pair);
    }
    const list = make("ul", "", "");
    happened.forEach((event) => list.append(make("li", event.lane, event.told)));
    readout.replaceChildren(
      make(
        "p",
        "",
        `batch ${index} · ${condition}${order === "sorted" ? ", sorted by label" : ""}`,
      ),
      figures,
      list,
    );
    readout.hidden = false;
    const box = plot.getBoundingClientRect(),
      frame = readout.parentElement.getBoundingClientRect();
    const left = box.left - frame.left + (x * box.width) / plot.viewBox.baseVal.width;
    const beside = x > width / 2 ? left - 12 - readout.offsetWidth : left + 12;
    readout.style.left = `${Math.max(0, Math.min(beside, frame.width - readout.offsetWidth))}px`;
    slider.value = at;
    slider.setAttribute(
      "aria-valuetext",
      `batch ${index}, ${condition}, learner ${percent(learner)}, frozen ${percent(frozen)}` +
        happened.map((event) => `; ${event.told}`).join(""),
    );
    return left;
  }

  function show(at) {
    const hidden = tell(at) - (scroller.clientWidth + find(".gutter").clientWidth) / 2;
    if (scroller.scrollWidth > scroller.clientWidth) {
      scroller.scrollLeft += hidden;
      tell(at);
    }
  }

  function hide() {
    readout.hidden = true;
    plot.classList.remove("read");
    lit.forEach((glyph) => glyph.classList.remove("lit"));
  }

  function point(event) {
    const box = plot.getBoundingClientRect();
    const x = ((event.clientX - box.left) / box.width) * plot.viewBox.baseVal.width;
    if (x < 0 || x > width) hide();
    else tell(Math.min(rows.length - 1, Math.floor(x / step)));
  }

  // the readout tells them; a second tooltip would cover it
  plot.querySelectorAll("[data-at] title").forEach((title) => title.remove());
  plot.addEventListener("pointermove", point);
  plot.addEventListener("pointerdown", point);
  plot.addEventListener("pointerleave", (event) => event.pointerType === "mouse" && hide());
  slider.addEventListener("input", () => {
    readout.ariaLive = "off"; // the slider's own value text says it
    show(Number(slider.value));
  });
  slider.addEventListener("blur", hide);
  figure.addEventListener("keydown", (event) => event.key === "Escape" && hide());
  for (const button of scrub.querySelectorAll("[data-jump]")) {
    button.addEventListener("click", () => {
      const at = Number(slider.value);
      const next =
        button.dataset.jump > 0
          ? stops.find((stop) => stop > at)
          : stops.filter((stop) => stop < at).pop();
      readout.ariaLive = "polite";
      if (next !== undefined) show(next);
    });
  }
  scrub.hidden = false;
}
