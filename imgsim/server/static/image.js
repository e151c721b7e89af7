// One image, its facts and its nearest; a part of it can be drawn and searched for.
import { ask, card, distance, make, nameOf, note, picture, shown, tell } from "./common.js";
import { keep } from "./examples.js";

const id = Number(location.pathname.split("/").pop());
const place = document.getElementById("picture");

function fact(name, value) {
  return [make("dt", { textContent: name }), make("dd", {}, make("bdi", { textContent: value }))];
}

async function show() {
  const image = await ask(`/images/${id}`);
  document.title = `imgsim: ${nameOf(image.path)}`;
  document.getElementById("name").textContent = nameOf(image.path);
  document.getElementById("facts").append(
    ...fact("path", shown(image.path)), ...fact("size", `${image.width} × ${image.height}`),
    ...fact("bytes", image.bytes.toLocaleString()), ...fact("id", String(image.id)));
  document.getElementById("more").href = `/search?like=${id}`;
  const element = picture(image, "large");
  element.loading = "eager";
  element.draggable = false;
  place.append(element);
  drawable(element);
}

async function nearest() {
  const { matches } = await ask(`/images/${id}/neighbours?k=24`);
  document.getElementById("nearest").append(...matches.map((match) => card(match.image, distance(match))));
}

function drawable(image) {
  let from = null;
  let box = null;
  const at = (event) => {
    const frame = image.getBoundingClientRect();
    return [Math.min(Math.max(event.clientX - frame.left, 0), frame.width), Math.min(Math.max(event.clientY - frame.top, 0), frame.height)];
  };
  const drawn = (event) => {
    const [x, y] = at(event);
    return { left: Math.min(x, from[0]), top: Math.min(y, from[1]), width: Math.abs(x - from[0]), height: Math.abs(y - from[1]) };
  };
  image.addEventListener("pointerdown", (event) => {
    from = at(event);
    box?.remove();
    box = make("div", { className: "crop" });
    place.append(box);
    image.setPointerCapture(event.pointerId);
  });
  image.addEventListener("pointermove", (event) => {
    if (!from) return;
    for (const [name, value] of Object.entries(drawn(event))) box.style[name] = `${value}px`;
  });
  image.addEventListener("pointerup", (event) => {
    if (!from) return;
    const area = drawn(event);
    from = null;
    if (area.width < 8 || area.height < 8) box.remove();
    else tell(searchPart(image, area));
  });
}

async function searchPart(image, area) {
  const scale = image.naturalWidth / image.getBoundingClientRect().width;
  const canvas = make("canvas", { width: Math.round(area.width * scale), height: Math.round(area.height * scale) });
  canvas.getContext("2d").drawImage(image, area.left * scale, area.top * scale, canvas.width, canvas.height, 0, 0, canvas.width, canvas.height);
  note("searching for this part …");
  const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
  location.href = `/search?like=${await keep(blob, "a part of a picture")}`;
}

tell(show());
tell(nearest());
