// Who looks at the page, and what that role may do: the rest is not shown, and said.

import { by, say, show } from "./dom.js";
import { named } from "./words.js";

const MAY = {
  view:
    "may look; answering questions needs the role label, " +
    "the switches and going back the role admin",
  label: "may look and answer questions; the switches and going back need the role admin",
  admin: "may do everything",
};

export const mayLabel = () => document.body.dataset.role !== "view";

export function showRole(me) {
  document.body.dataset.role = me.role;
  show(by("who"), me.name !== "");
  if (me.name) say(by("who"), `${named(me.name)}, role ${me.role}: ${MAY[me.role]}.`);
}
