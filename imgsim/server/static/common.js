// What the pages share: the service, cards of images, notes, keys.

export class Problem extends Error {}

export async function ask(path, options = {}) {
  const answer = await fetch(`/api/v1${path}`, options);
  if (answer.ok) return answer.json();
  const problem = await answer.json().catch(() => ({ detail: answer.statusText }));
  throw new Problem(problem.detail);
}

export function post(path, body) {
  const headers = { "content-type": "application/json" };
  return ask(path, { method: "POST", headers, body: JSON.stringify(body) });
}

export function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

export function note(text) {
  const place = document.getElementById("note");
  place.textContent = text;
  place.hidden = !text;
  if (text) setTimeout(() => { if (place.textContent === text) place.hidden = true; }, 8000);
}

export function tell(work) {
  return work.catch((error) => note(error instanceof Problem ? error.message : `no answer: ${error.message}`));
}

// Bytes that are not UTF-8 come as lone surrogates, and controls would not show.
export function shown(path) {
  return path.replace(/[\p{Cc}\p{Cs}\p{Bidi_Control}]/gu, (each) => `\\u${each.codePointAt(0).toString(16).padStart(4, "0")}`);
}

function asQuery(text) {
  const escaped = (each) => `%${(each.codePointAt(0) - 0xdc00).toString(16)}`;
  return [...text].map((each) => /[\udc80-\udcff]/u.test(each) ? escaped(each) : encodeURIComponent(each)).join("");
}

function fromQuery(text) {
  return text.replaceAll("+", " ").replace(/(%[0-9a-f]{2})+/gi, (run) => {
    try {
      return decodeURIComponent(run);
    } catch {
      const codes = run.slice(1).split("%").map((hex) => parseInt(hex, 16));
      return String.fromCharCode(...codes.map((code) => code < 128 ? code : 0xdc00 + code));
    }
  });
}

// The parameters of the address. URLSearchParams would lose bytes that are not UTF-8.
export function parameters() {
  const pairs = location.search.slice(1).split("&").filter(Boolean).map((pair) => pair.split("="));
  return Object.fromEntries(pairs.map(([name, value = ""]) => [name, fromQuery(value)]));
}

export function query(values) {
  return Object.entries(values).filter(([, value]) => value !== "").map(([name, value]) => `${name}=${asQuery(String(value))}`).join("&");
}

export function nameOf(path) {
  return shown(path.slice(path.lastIndexOf("/") + 1));
}

export function picture(image, size) {
  const shape = { src: `/api/v1/images/${image.id}/picture?size=${size}`, alt: nameOf(image.path), loading: "lazy" };
  const element = make("img", shape);
  element.addEventListener("error", () => element.replaceWith(make("span", { textContent: "the file is gone or has changed" })));
  return element;
}

export function card(image, caption = "", ...more) {
  const link = make("a", { href: `/image/${image.id}`, title: shown(image.path) }, picture(image, "small"));
  const text = make("bdi", { textContent: nameOf(image.path) });
  const lines = make("figcaption", {}, ...(caption ? [caption, make("br")] : []), text);
  return make("figure", { className: "card" }, link, lines, ...more);
}

export function distance(match) {
  return `${match.rank} · ${match.distance.toPrecision(6)}`;
}

const PAGES = { "/": "Browse", "/search": "Search", "/duplicates": "Duplicates", "/outliers": "Outliers", "/map": "Map", "/evaluation": "Evaluation" };

document.getElementById("pages").append(...Object.entries(PAGES).map(([href, textContent]) => {
  const here = location.pathname === href ? { ariaCurrent: "page" } : {};
  return make("a", { href, textContent, ...here });
}));

// What takes long is asked for again until it is there; meanwhile the place says how far it is.
export async function found(path, values, place) {
  let anew = location.hash === "#anew" ? "true" : "";
  if (anew) history.replaceState(null, "", location.pathname + location.search);
  for (;;) {
    const answer = await ask(`${path}?${query({ ...values, anew })}`);
    anew = "";
    if (!answer.progress) {
      const again = make("button", { textContent: "look again" });
      again.addEventListener("click", () => { location.hash = "anew"; location.reload(); });
      place.replaceChildren(...(answer.current ? [] : ["The collection has changed since. ", again]));
      return answer;
    }
    const { stage, done, total } = answer.progress;
    const bar = make("progress", { max: total || 1, ariaLabel: stage, ...(total ? { value: done } : {}) });
    place.replaceChildren(`${stage} ${done.toLocaleString()} of ${total.toLocaleString()} `, bar);
    await new Promise((resolve) => { setTimeout(resolve, 400); });
  }
}

// The values of parameters, of which most have a field: a change of one asks anew.
export function fields(names) {
  const given = parameters();
  const asked = Object.fromEntries(names.map((name) => [name, given[name] ?? ""]));
  const valueOf = (field) => field.type === "checkbox" ? (field.checked ? "true" : "") : field.value;
  for (const field of names.map((name) => document.getElementById(name)).filter(Boolean)) {
    if (field.type === "checkbox") field.checked = asked[field.id] === "true";
    else field.value = asked[field.id] || field.value;
    asked[field.id] = valueOf(field);
    field.addEventListener("change", () => { location.search = query({ ...asked, [field.id]: valueOf(field) }); });
  }
  return asked;
}

const HELP = "arrows: from picture to picture · Enter: open · /: the first field · Esc: leave it · ?: this line";

function focusBeside(key) {
  const links = [...document.querySelectorAll(".grid .card a")];
  const now = links.indexOf(document.activeElement);
  if (now < 0) return links[0]?.focus();
  const top = links[now].getBoundingClientRect().top;
  const inRow = links.filter((link) => Math.abs(link.getBoundingClientRect().top - top) < 2).length || 1;
  const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: inRow, ArrowUp: -inRow }[key];
  links[now + step]?.focus();
}

document.addEventListener("keydown", (event) => {
  const typing = event.target.matches("input, select, textarea");
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "Escape" && typing) event.target.blur();
  else if (typing) return;
  else if (event.key === "/") document.querySelector("input, select")?.focus();
  else if (event.key === "?") note(HELP);
  else if (event.key.startsWith("Arrow")) focusBeside(event.key);
  else return;
  event.preventDefault();
});
