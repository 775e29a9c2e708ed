// How the page speaks with the daemon: one function, one token, and a failure that says what it is.

const PATIENCE_MS = 12000;
const PLACE = "edgeadapt.token";

export class Unanswered extends Error {} // nobody is there, or not now
export class Unknown extends Error {} // the token is missing or wrong
export class Declined extends Error {} // the daemon says no, and why

function token() {
  try {
    return sessionStorage.getItem(PLACE) ?? kept;
  } catch {
    return kept;
  }
}
let kept = "";

export function remember(given) {
  kept = given;
  try {
    sessionStorage.setItem(PLACE, given);
  } catch {
    /* a browser that keeps nothing: the token lasts as long as the page */
  }
}

async function request(method, path, body) {
  const headers = {};
  if (token()) headers.authorization = `Bearer ${token()}`;
  if (body !== undefined) headers["content-type"] = "application/json";
  let answer;
  try {
    answer = await fetch(path, {
      method,
      headers,
      body: body === undefined ? undefined : JSON.stringify(body),
      cache: "no-store",
      signal: AbortSignal.timeout(PATIENCE_MS * (body === undefined ? 1 : 10)),
    });
  } catch (error) {
    if (error instanceof TypeError && token() && !/^[\x20-\x7e]+$/.test(token()))
      throw new Unknown("a token is a line of printable ASCII");
    throw new Unanswered(error.name === "TimeoutError" ? "it takes too long" : "nobody answers");
  }
  if (answer.ok) return answer;
  const said = await answer.json().catch(() => ({}));
  if (answer.status === 401) throw new Unknown(token() ? "That is not its token." : "");
  if (answer.status === 503 && method === "GET") throw new Unanswered(said.error ?? "it is busy");
  throw new Declined(said.error ?? `status ${answer.status}`);
}

export const ask = async (path) => (await request("GET", path)).json();
export const bid = async (path, body) => (await request("POST", path, body)).json();
export const picture = async (path) =>
  URL.createObjectURL(await (await request("GET", path)).blob());
