// Numbers and decisions in words.

const PLACES = new Intl.NumberFormat("en", { maximumSignificantDigits: 3 });
const WHOLE = new Intl.NumberFormat("en");

export const number = (value) =>
  Math.abs(value) >= 100 ? WHOLE.format(Math.round(value)) : PLACES.format(value);
export const whole = (value) => WHOLE.format(value);
export const milliseconds = (value) => `${value < 10 ? value.toFixed(1) : number(value)}\u00a0ms`;
export const percent = (share) => `${(100 * share).toFixed(share > 0 && share < 0.01 ? 1 : 0)}%`;
export const times = (ratio) =>
  `${ratio >= 10 ? ratio.toFixed(0) : ratio >= 1 ? ratio.toFixed(1) : ratio.toFixed(2)}×`;
export const counted = (count, one, many = `${one}s`) =>
  `${whole(count)} ${count === 1 ? one : many}`;

// A name that somebody gave, such that what stands around it stays where it is: marks that would
// turn the text around are shown as what they are, and a name that is written from right to left
// turns within itself only.
export function named(name) {
  if (/^[\x20-\x7e]*$/.test(name)) return name;
  const shown = name.replace(
    /[\u202a-\u202e\u2066-\u2069]/g,
    (mark) => `‹U+${mark.charCodeAt(0).toString(16).toUpperCase()}›`,
  );
  return `\u2068${shown}\u2069`;
}
const join = (names) =>
  names.length < 2 ? names.join("") : `${names.slice(0, -1).join(", ")} and ${names.at(-1)}`;
export const list = (names) => join(names.map(named));

export function clock(seconds, withSeconds = true) {
  const form = { hour: "2-digit", minute: "2-digit", hourCycle: "h23" };
  return new Date(1000 * seconds).toLocaleTimeString(
    "en",
    withSeconds ? { ...form, second: "2-digit" } : form,
  );
}

export function when(seconds) {
  const then = new Date(1000 * seconds);
  return then.toDateString() === new Date().toDateString()
    ? clock(seconds)
    : then.toLocaleDateString("en", { day: "numeric", month: "short" }) +
        ` ${clock(seconds, false)}`;
}

export function duration(seconds) {
  if (seconds < 90) return counted(Math.max(0, Math.round(seconds)), "second");
  if (seconds < 5400) return counted(Math.round(seconds / 60), "minute");
  return seconds < 172800
    ? counted(Math.round(seconds / 3600), "hour")
    : counted(Math.round(seconds / 86400), "day");
}

// The daemon's reasons, which it writes for a log, as a sentence.
export function reason(why) {
  const said = why
    .replace(
      /shift ([\d.]+) x threshold/,
      (_, ratio) =>
        `conditions are ${times(Number(ratio))} as far from the factory's as they may be`,
    )
    .replace("no known condition fits", "no condition that it knows fits")
    .replace(/([\d.]+) from (\S+)$/, (_, gap, name) => `${name} fits, at a distance of ${gap}`)
    .replace(
      /% of the window looks unlike every known class/,
      "% of the last samples look unlike every class that it knows",
    )
    .replace("conditions are those of the factory again", "all is again as at the factory")
    .replace("a provisional domain", "to see whether that helps");
  return said ? said[0].toUpperCase() + said.slice(1) + (/[.!?]$/.test(said) ? "" : ".") : "";
}

const DECIDED = {
  ask: (on) => (on === "novel" ? "Asked about something new" : `Asked about ${on}`),
  adapt: (on) => `Adapts to ${on}`,
  probe: () => "Looked closer",
  open_domain: () => "Met a new condition",
  route: (on) => `Went back to ${on}`,
  close_domain: (on) => `Left ${on}`,
  learn: () => "Learned",
  hold: () => "Did nothing",
  suspend: (on) => `Took back the correction of ${on}`,
  merge: (on) => `Joined two conditions to ${on}`,
};
export const FAMILY = {
  ask: "asks",
  adapt: "learns",
  probe: "senses",
  open_domain: "senses",
  route: "senses",
  close_domain: "senses",
  learn: "learns",
  hold: "guards",
  suspend: "guards",
  merge: "grows",
};

export const decided = (one) =>
  (DECIDED[one.kind] ?? (() => one.kind.replaceAll("_", " ")))(one.domain || "the stream");

const from = (detail) => (detail.source ? ` from ${named(detail.source)}` : "");
const under = (detail) =>
  detail.domain && detail.domain !== "source" ? ` under ${detail.domain}` : "";
const CHANGED = {
  "learn learned": (d) => `Learned ${counted(d.labels, "label")}${from(d)}${under(d)}`,
  "learn vetoed": (d) => `Refused ${counted(d.labels, "label")}${from(d)}${under(d)}`,
  "learn held": (d) => `Put ${counted(d.labels, "label")}${from(d)} aside`,
  "learn superseded": (d) => `Passed over ${counted(d.labels, "label")} that were given anew`,
  "add_class added": (d) => `New class: ${named(d.class)}`,
  "remove_class removed": (d) => `Class removed: ${named(d.class)}`,
  "domain opened": (d) => `${d.domain} is a condition`,
  "domain is new classes": (d) => `${d.domain} is no condition: it is new classes`,
  "domain merged": (d) => `Joined ${[d.merged].flat().join(", ")}`,
  "domain saved": (d) => `Let ${[d.retired ?? d.domains].flat().join(", ")} go`,
  "rollback rolled back": (d) =>
    `Went back to #${d.to}, ${counted(d.labels ?? 0, "label")} withdrawn`,
  "withdraw withdrawn": (d) => `Took ${counted(d.rows, "label")} back`,
  "forget forgotten": (d) => `Forgot ${counted(d.rows, "sample")}`,
  "expire thinned": (d) => `Let the features of ${counted(d.rows, "old sample")} go`,
  "expire saved": (d) => `Let ${counted(d.rows, "old sample")} go`,
  "checkpoint saved": () => "Saved its conditions",
  "grow grown": (d) => `${d.domain} got an adaptor of its own`,
  "grow shed": (d) => `${d.domain} lost its adaptor`,
  "grow vetoed": (d) => `Refused an adaptor for ${d.domain}`,
};
export const isRefusal = (change) => ["vetoed", "held", "refused"].includes(change.outcome);
export const changes = (change) =>
  !isRefusal(change) &&
  !["checkpoint", "expire"].includes(change.kind) &&
  change.outcome !== "superseded";
export const changed = (change) =>
  (
    CHANGED[`${change.kind} ${change.outcome}`] ??
    (() => `${change.kind.replaceAll("_", " ")}: ${change.outcome}`)
  )(change.detail);
export const familyOf = (change) =>
  isRefusal(change) || change.kind === "rollback"
    ? "guards"
    : change.kind === "learn"
      ? "learns"
      : ["domain", "add_class", "grow"].includes(change.kind)
        ? "grows"
        : "senses";

const JUDGED = "accuracy on ";
export const judges = (name) =>
  name.replace("field labels in source", "field labels").replace("field labels in ", "field, ");

// Why, and how the held-out labels stand after it.
export function because(change) {
  if (change.detail.why) return reason(String(change.detail.why));
  const marks = Object.entries(change.detail).filter(([name]) => name.startsWith(JUDGED));
  const told = marks.map(
    ([name, share]) => `${judges(name.slice(JUDGED.length))} ${percent(share)}`,
  );
  return marks.length ? `Right: ${told.join(" · ")}` : "";
}
