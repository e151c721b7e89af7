// Search by examples: stored images, files that are dropped, pasted or chosen; some perhaps not wanted.
import { ask, card, distance, make, note, post, shown, tell } from "./common.js";
import { keep, kept } from "./examples.js";

const asked = new URLSearchParams(location.search);
const drop = document.getElementById("drop");

function names(kind) {
  return (asked.get(kind) || "").split(",").filter(Boolean);
}

function go(like, unlike) {
  const next = new URLSearchParams();
  if (like.length) next.set("like", like.join(","));
  if (unlike.length) next.set("unlike", unlike.join(","));
  location.search = next;
}

function example(name) {
  const file = kept(name);
  return file ? { embedding: file.embedding } : { id: Number(name) };
}

async function chosen(name, kind) {
  const other = kind === "like" ? "unlike" : "like";
  const without = make("button", { textContent: "remove" });
  without.addEventListener("click", () => go(names("like").filter((each) => each !== name), names("unlike").filter((each) => each !== name)));
  const turn = make("button", { textContent: kind === "like" ? "not like this" : "like this" });
  turn.addEventListener("click", () => {
    const left = names(kind).filter((each) => each !== name);
    const right = [...names(other), name];
    go(kind === "like" ? left : right, kind === "like" ? right : left);
  });
  const file = kept(name);
  let figure;
  if (file) {
    const inside = file.picture ? make("img", { src: file.picture, alt: "" }) : make("span", { textContent: "no preview" });
    figure = make("figure", { className: "card" }, make("a", { href: location.href }, inside), make("figcaption", {}, make("bdi", { textContent: shown(file.name) })));
  } else figure = card(await ask(`/images/${Number(name)}`));
  figure.classList.add(kind);
  figure.append(turn, " ", without);
  return figure;
}

async function show() {
  const like = names("like");
  const unlike = names("unlike");
  const place = document.getElementById("chosen");
  for (const name of like) place.append(await chosen(name, "like"));
  for (const name of unlike) place.append(await chosen(name, "unlike"));
  if (!like.length) return;
  const { matches } = await post("/search", { like: like.map(example), unlike: unlike.map(example), k: 60 });
  document.getElementById("matches").append(...matches.map((match) => {
    const plus = make("button", { textContent: "+", ariaLabel: "more like this" });
    plus.addEventListener("click", () => go([...like, String(match.image.id)], unlike));
    const minus = make("button", { textContent: "−", ariaLabel: "not like this" });
    minus.addEventListener("click", () => go(like, [...unlike, String(match.image.id)]));
    return card(match.image, distance(match), plus, " ", minus);
  }));
}

async function take(files) {
  const like = names("like");
  for (const file of files) {
    note(`encoding ${shown(file.name || "the picture")} …`);
    like.push(await keep(file, file.name || "pasted"));
  }
  if (files.length) go(like, names("unlike"));
}

for (const kind of ["dragenter", "dragover"]) {
  document.addEventListener(kind, (event) => { event.preventDefault(); drop.classList.add("over"); });
}
document.addEventListener("dragleave", () => drop.classList.remove("over"));
document.addEventListener("drop", (event) => {
  event.preventDefault();
  drop.classList.remove("over");
  tell(take([...event.dataTransfer.files]));
});
document.addEventListener("paste", (event) => tell(take([...event.clipboardData.files])));
document.getElementById("file").addEventListener("change", (event) => tell(take([...event.target.files])));
tell(show());
