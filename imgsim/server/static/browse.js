// All stored images, as far as one scrolls.
import { ask, card, fields, make, query, shown, tell } from "./common.js";

const KEPT = 1500; // pixels beyond the window within which pictures stay
const asked = fields(["order", "under", "suffix", "least_side"]);
const grid = document.getElementById("images");
const end = document.getElementById("end");
let after = "";
let busy = false;

// A part far from the window keeps its height and gives up its pictures.
const watcher = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) {
    if (isIntersecting && !target.firstChild) {
      target.append(...target.images.map((image) => card(image)));
      target.style.height = "";
    } else if (!isIntersecting && target.firstChild) {
      target.style.height = `${target.offsetHeight}px`;
      target.replaceChildren();
    }
  }
}, { rootMargin: `${KEPT}px` });

async function more() {
  if (busy || after === null) return;
  busy = true;
  const page = await ask(`/images?${query({ ...asked, most: 120, after })}`).finally(() => { busy = false; });
  after = page.after || null;
  const part = make("div", { className: "grid part", images: page.images });
  part.append(...page.images.map((image) => card(image)));
  grid.append(part);
  watcher.observe(part);
  if (after === null) end.textContent = grid.querySelector(".card") ? "these are all" : "there are none";
  else if (end.getBoundingClientRect().top < innerHeight + KEPT) await more();
}

function folderLink(text, place) {
  return make("a", { href: `/?${query({ ...asked, under: place })}` }, make("bdi", { textContent: shown(text) }));
}

async function folders() {
  const place = asked.under || "/";
  const crumbs = document.getElementById("crumbs");
  const parts = place.split("/").filter(Boolean);
  crumbs.append(folderLink("/", "/"));
  parts.forEach((part, n) => crumbs.append(" ", folderLink(`${part}/`, `/${parts.slice(0, n + 1).join("/")}`)));
  const { folders: names } = await ask(`/folders?${query({ under: place })}`);
  const list = document.getElementById("folders");
  list.append(...names.flatMap((name) => [folderLink(name, `${place.replace(/\/$/, "")}/${name}`), " "]));
}

// What runs beside: who writes, how a training goes, how many images came since.
async function activity(before = null) {
  const { images, writer, training } = await ask("/activity");
  const here = document.getElementById("activity");
  const parts = [`${images.toLocaleString()} images`];
  if (writer) parts.push(`being written to by ${writer}`);
  if (training) parts.push(`training: epoch ${training.epoch}, loss ${training.loss.toPrecision(4)}`);
  const text = parts.join(" · ");
  if (here.dataset.text !== text) here.replaceChildren(text);
  here.dataset.text = text;
  if (before !== null && images !== before && here.children.length === 0) {
    here.append(" · ", make("a", { href: location.href, textContent: "show what is new" }));
  }
  setTimeout(() => tell(activity(before ?? images)), 5000);
}

new IntersectionObserver((entries) => {
  if (entries.some((entry) => entry.isIntersecting)) tell(more());
}, { rootMargin: `${KEPT}px` }).observe(end);
tell(folders());
tell(activity());
