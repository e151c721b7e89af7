// The map: points go into an array of pixels, which needs no GPU; pictures are drawn above them.

// --- View -------------------------------------------------------------------------------------

const canvas = element("map"), context = canvas.getContext("2d");
const dark = matchMedia("(prefers-color-scheme: dark)");
const view = { x: 32768, y: 32768, scale: 0 };
let width = 0, height = 0, ratio = 1, pixels, ink, least = 0;
let colouring = 0, palette, pale, filter = null, matches = null, matched = 0, chosen = -1, hovered = -1;
let side = 0, visible = 0, drawn = [];

const COLOURS = ["#4e79a7", "#f28e2b", "#59a14f", "#e15759", "#b07aa1", "#edc948", "#76b7b2", "#ff9da7", "#9c755f", "#1fa2d6",
  "#8cd17d", "#d37295", "#b6992d", "#499894", "#d4a6c8", "#86bcb6", "#f1ce63", "#79706e", "#a0cbe8", "#d7b5a6"];
const GREY = "#999999";

function colourOf(code) { // those that are not in the legend get hues that are far apart for a while
  if (!facts.colourings[colouring].labels[code]) return GREY;
  return COLOURS[code] ?? fromHue((code * 137.5) % 360);
}

function fromHue(hue) { // of lightness .6 and saturation .35, as CSS defines them
  const part = (offset) => {
    const at = (offset + hue / 30) % 12, value = 0.6 - 0.14 * Math.max(-1, Math.min(at - 3, 9 - at, 1));
    return Math.round(255 * value).toString(16).padStart(2, "0");
  };
  return `#${part(0)}${part(8)}${part(4)}`;
}

const packed = (hex, alpha) => {
  const [red, green, blue] = [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
  return ((alpha << 24) | (blue << 16) | (green << 8) | red) >>> 0;
};

function setColours() {
  const { labels } = facts.colourings[colouring];
  palette = Uint32Array.from(labels, (_, code) => packed(colourOf(code), 255));
  pale = Uint32Array.from(labels, (_, code) => packed(colourOf(code), 40));
}

function resize() {
  ratio = devicePixelRatio || 1;
  width = canvas.width = Math.max(1, Math.round(innerWidth * ratio));
  height = canvas.height = Math.max(1, Math.round(innerHeight * ratio));
  ink = context.createImageData(width, height);
  pixels = new Uint32Array(ink.data.buffer);
  const fit = 0.94 * Math.min(width, height) / 65536;
  view.scale *= least ? fit / least : 0;
  least = fit;
  if (!view.scale) everything();
}

function everything() {
  Object.assign(view, { x: 32768, y: 32768, scale: least });
  zoomed();
}

function zoom(by, x = width / 2, y = height / 2) {
  const scale = Math.min(Math.max(view.scale * by, 0.5 * least), 400 * least * Math.sqrt(1 + n / 10000));
  view.x += (x - width / 2) * (1 / view.scale - 1 / scale);
  view.y += (y - height / 2) * (1 / view.scale - 1 / scale);
  view.scale = scale;
  zoomed();
}

function zoomed() { // the size of pictures changes with zooming only, so that moving changes nothing
  countVisible();
  const room = 0.9 * Math.sqrt((width * height) / Math.max(visible, 1));
  side = visible <= 3000 ? Math.min(Math.max(room, 28 * ratio), 150 * ratio) : 0;
  redraw();
}

function move(x, y) {
  view.x -= x / view.scale;
  view.y -= y / view.scale;
  redraw();
}

function countVisible() {
  const right = width / 2 / view.scale, below = height / 2 / view.scale;
  visible = 0;
  for (let at = 0; at < places.length; at += 2) {
    visible += Math.abs(places[at] - view.x) < right && Math.abs(places[at + 1] - view.y) < below;
  }
}

let isDue = false;
function redraw() {
  if (isDue || !places) return;
  isDue = true;
  requestAnimationFrame(() => { isDue = false; draw(); });
}

// --- Drawing ----------------------------------------------------------------------------------

const isLit = (image) => (!matches || matches[image] === 1) && (filter === null || codes[colouring][image] === filter);

function stamp(radius) { // offsets of the pixels of a disc, and of those at its edge
  const core = [], edge = [], reach = Math.ceil(radius);
  for (let y = -reach; y <= reach; y++) {
    for (let x = -reach; x <= reach; x++) {
      const over = Math.hypot(x, y) - radius;
      if (over <= 0) core.push(y * width + x);
      else if (over < 0.7) edge.push(y * width + x);
    }
  }
  return [core, edge, reach + 1];
}

function drawPoints(wanted, colours, [core, edge, reach]) {
  const mine = codes[colouring], { scale } = view;
  const left = width / 2 - view.x * scale, top = height / 2 - view.y * scale;
  const right = width - reach, below = height - reach;
  for (let image = 0; image < n; image++) {
    const x = places[2 * image] * scale + left, y = places[2 * image + 1] * scale + top;
    if (!(x > reach && y > reach && x < right && y < below) || (wanted !== null && isLit(image) !== wanted)) continue;
    const at = Math.floor(y) * width + Math.floor(x), colour = colours[mine[image]];
    for (const offset of core) pixels[at + offset] = colour;
    for (const offset of edge) if (!pixels[at + offset]) pixels[at + offset] = (colour & 0xffffff) | (((colour >>> 25) & 0x7f) << 24);
  }
}

function draw() {
  pixels.fill(0);
  const room = 0.2 * Math.sqrt((width * height) / n) * Math.sqrt(view.scale / least);
  const radius = Math.min(Math.max(room, 0.9 * ratio), 4.5 * ratio);
  if (matches || filter !== null) {
    drawPoints(false, pale, stamp(radius));
    drawPoints(true, palette, stamp(Math.max(1.3 * radius, 2 * ratio)));
  } else drawPoints(null, palette, stamp(radius));
  context.putImageData(ink, 0, 0);
  drawn = [];
  if (side) drawPictures();
  if (chosen >= 0) drawChosen();
}

const across = (image) => (places[2 * image] - view.x) * view.scale + width / 2;
const down = (image) => (places[2 * image + 1] - view.y) * view.scale + height / 2;

function drawPictures() { // none over another; which ones does not change as the map is moved
  const taken = new Map(), cell = side / view.scale, reach = 2 * side;
  const isFree = (x, y, row, column) => {
    for (let at = 0; at < 9; at++) {
      const other = taken.get((row + Math.floor(at / 3) - 1) * 1e7 + column + (at % 3) - 1);
      if (other !== undefined && Math.abs(places[2 * other] - x) < cell && Math.abs(places[2 * other + 1] - y) < cell) return false;
    }
    return true;
  };
  for (const lit of [true, false]) {
    for (let image = 0; image < n; image++) {
      const x = across(image), y = down(image);
      if (!(x > -reach && y > -reach && x < width + reach && y < height + reach) || isLit(image) !== lit) continue;
      const column = Math.floor(places[2 * image] / cell), row = Math.floor(places[2 * image + 1] / cell);
      if (!isFree(places[2 * image], places[2 * image + 1], row, column)) continue;
      taken.set(row * 1e7 + column, image);
      drawPicture(image, x, y, lit);
    }
  }
}

function drawPicture(image, x, y, lit) {
  const picture = pictureOf(image, side);
  if (!picture) return;
  const scale = (0.92 * side) / Math.max(picture[3], picture[4]), wide = picture[3] * scale, high = picture[4] * scale;
  const border = Math.max(1, Math.round(side / 40)), box = [x - wide / 2, y - high / 2, wide, high];
  context.globalAlpha = lit ? 1 : 0.15;
  context.fillStyle = colourOf(codes[colouring][image]);
  context.fillRect(box[0] - border, box[1] - border, wide + 2 * border, high + 2 * border);
  context.drawImage(...picture, ...box);
  context.globalAlpha = 1;
  drawn.push([image, ...box]);
}

const neighboursOf = (image) => nearest ? [...nearest.subarray(image * k, image * k + k)].filter((other) => other >= 0) : [];

function drawChosen() {
  const x = across(chosen), y = down(chosen);
  context.strokeStyle = context.fillStyle = dark.matches ? "#fff" : "#000";
  context.lineWidth = 1.5 * ratio;
  for (const other of neighboursOf(chosen)) {
    const toX = across(other), toY = down(other);
    context.globalAlpha = 0.6;
    context.beginPath();
    context.moveTo(x, y);
    context.lineTo(toX, toY);
    context.stroke();
    context.globalAlpha = 1;
    context.beginPath();
    context.arc(toX, toY, 4 * ratio, 0, 7);
    context.fill();
  }
  context.lineWidth = 3 * ratio;
  context.strokeStyle = "#2a7ae2";
  context.beginPath();
  context.arc(x, y, Math.max(9 * ratio, side / 1.8), 0, 7);
  context.stroke();
}

// --- What people do ---------------------------------------------------------------------------

function imageAt(x, y, reach = 12 * ratio) {
  for (let at = drawn.length - 1; at >= 0; at--) {
    const [image, left, top, wide, high] = drawn[at];
    if (x >= left && y >= top && x <= left + wide && y <= top + high) return image;
  }
  let best = -1, least = reach ** 2;
  for (let image = 0; image < n; image++) {
    const far = (across(image) - x) ** 2 + (down(image) - y) ** 2;
    if (far < least && isLit(image)) [best, least] = [image, far];
  }
  return best;
}

function paragraph(text) {
  const made = document.createElement("p"), inner = document.createElement("bdi");
  inner.textContent = text;
  made.append(inner);
  return made;
}

const labelOf = (image) => facts.colourings[colouring].labels[codes[colouring][image]] || "no label";

function hover(image, x, y) {
  const box = element("hover");
  canvas.style.cursor = image < 0 ? "" : "pointer";
  if (image !== hovered) {
    hovered = image;
    box.hidden = image < 0 || !paths;
    if (!box.hidden) box.replaceChildren(pictureElement(image), paragraph(shown(paths[image])), paragraph(labelOf(image)));
  }
  if (box.hidden) return;
  box.style.left = `${x / ratio + 16 + box.offsetWidth > innerWidth ? x / ratio - 16 - box.offsetWidth : x / ratio + 16}px`;
  box.style.top = `${Math.max(8, Math.min(y / ratio + 16, innerHeight - box.offsetHeight - 8))}px`;
}

function choose(image) {
  if (!paths) return;
  const box = element("chosen"), close = document.createElement("button"), link = document.createElement("a");
  const list = document.createElement("div"), others = image < 0 ? [] : neighboursOf(image);
  chosen = image;
  box.hidden = image < 0;
  redraw();
  if (image < 0) return box.replaceChildren();
  hover(-1);
  close.textContent = "Close";
  close.onclick = () => { choose(-1); canvas.focus(); };
  link.href = pageOf(image);
  link.target = "_blank";
  link.append(pictureElement(image));
  list.id = "nearest";
  others.forEach((other, rank) => {
    const button = document.createElement("button");
    button.title = shown(paths[other]);
    button.ariaLabel = `${rank + 1}: ${nameOf(other)}`;
    button.append(pictureElement(other), ((distances[image * k + rank] / 65535) * facts.farthest).toPrecision(3));
    button.onclick = () => { goTo(other); choose(other); };
    list.append(button);
  });
  box.replaceChildren(close, link, paragraph(shown(paths[image])), paragraph(labelOf(image)), paragraph("Nearest, with their distances:"), list);
  box.scrollTop = 0;
}

function goTo(image) {
  const x = across(image), y = down(image), margin = 0.1;
  if (x > margin * width && x < (1 - margin) * width && y > margin * height && y < (1 - margin) * height) return;
  [view.x, view.y] = [places[2 * image], places[2 * image + 1]];
  redraw();
}

function search(text) {
  const wanted = text.toLowerCase(), told = element("matched");
  matches = wanted && lower ? Uint8Array.from({ length: n }, (_, image) => lower[image].includes(wanted)) : null;
  matched = matches ? matches.reduce((sum, each) => sum + each, 0) : 0;
  told.hidden = !matches;
  told.textContent = `${matched.toLocaleString("en")} found; Enter shows all`;
  redraw();
}

function fitMatches() {
  if (!matched) return;
  let [left, right, top, below] = [65535, 0, 65535, 0];
  for (let image = 0; image < n; image++) {
    if (!matches[image]) continue;
    [left, right] = [Math.min(left, places[2 * image]), Math.max(right, places[2 * image])];
    [top, below] = [Math.min(top, places[2 * image + 1]), Math.max(below, places[2 * image + 1])];
  }
  [view.x, view.y] = [(left + right) / 2, (top + below) / 2];
  const scale = 0.85 * Math.min(width / (right - left + 300), height / (below - top + 300));
  zoom(scale / view.scale);
}

function legend() {
  const { labels, counts } = facts.colourings[colouring], list = element("legend");
  const rows = labels.slice(0, COLOURS.length).map((label, code) => [label || "no label", colourOf(code), counts[code], code]);
  const others = counts.slice(COLOURS.length).reduce((sum, each) => sum + each, 0);
  list.replaceChildren(...rows.map(([label, colour, count, code]) => {
    const item = document.createElement("li"), button = document.createElement("button");
    const dot = document.createElement("i"), name = document.createElement("bdi"), number = document.createElement("span");
    button.type = "button";
    button.ariaPressed = filter === code;
    button.title = label;
    dot.style.background = colour;
    name.textContent = label;
    number.textContent = count.toLocaleString("en");
    button.append(dot, name, number);
    button.onclick = () => { filter = filter === code ? null : code; legend(); redraw(); };
    item.append(button);
    return item;
  }));
  if (others) list.append(paragraph(`${(labels.length - rows.length).toLocaleString("en")} more, in other colours: ${others.toLocaleString("en")}`));
}

const pointers = new Map();
let pressed = null;
const at = (event) => [event.clientX * ratio, event.clientY * ratio];

canvas.onpointerdown = (event) => {
  canvas.setPointerCapture(event.pointerId);
  pointers.set(event.pointerId, at(event));
  pressed = pointers.size === 1 ? at(event) : null;
};
canvas.onpointermove = (event) => {
  const now = at(event), before = pointers.get(event.pointerId);
  if (!before) return hover(imageAt(...now), ...now);
  const others = [...pointers].filter(([id]) => id !== event.pointerId).map(([, place]) => place);
  if (others.length) {
    const [x, y] = others[0];
    zoom(Math.hypot(now[0] - x, now[1] - y) / Math.max(1, Math.hypot(before[0] - x, before[1] - y)), x, y);
  } else move(now[0] - before[0], now[1] - before[1]);
  pointers.set(event.pointerId, now);
  if (pressed && Math.hypot(now[0] - pressed[0], now[1] - pressed[1]) > 4 * ratio) { pressed = null; hover(-1); }
};
canvas.onpointerup = canvas.onpointercancel = (event) => {
  pointers.delete(event.pointerId);
  if (pressed && event.type === "pointerup") choose(imageAt(...pressed));
  pressed = null;
};
canvas.onpointerleave = () => hover(-1);
canvas.addEventListener("wheel", (event) => {
  event.preventDefault();
  zoom(Math.exp(-event.deltaY * (event.deltaMode ? 0.05 : 0.0015)), ...at(event));
}, { passive: false });

const STEP = 80;
const KEYS = {
  ArrowLeft: () => move(STEP * ratio, 0), ArrowRight: () => move(-STEP * ratio, 0),
  ArrowUp: () => move(0, STEP * ratio), ArrowDown: () => move(0, -STEP * ratio),
  "+": () => zoom(1.4), "=": () => zoom(1.4), "-": () => zoom(1 / 1.4), "0": everything,
  Enter: () => choose(imageAt(width / 2, height / 2, Math.max(width, height))),
};
canvas.onkeydown = (event) => {
  if (!KEYS[event.key] || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  KEYS[event.key]();
};
addEventListener("keydown", (event) => {
  if (event.key === "/" && document.activeElement !== element("search")) {
    event.preventDefault();
    element("search").focus();
  } else if (event.key === "Escape") {
    element("search").value = "";
    filter = null;
    hover(-1);
    choose(-1);
    search("");
    legend();
    canvas.focus();
  }
});

let typing;
element("search").oninput = (event) => { clearTimeout(typing); typing = setTimeout(() => search(event.target.value), 120); };
element("controls").onsubmit = (event) => { event.preventDefault(); search(element("search").value); fitMatches(); };
element("colouring").onchange = (event) => { colouring = +event.target.value; filter = null; setColours(); legend(); redraw(); };
addEventListener("resize", () => { resize(); zoomed(); });
dark.onchange = redraw;

async function start() {
  element("facts").textContent = facts.text;
  element("colouring").append(...facts.colourings.map(({ name }, number) => new Option(`colour by ${name}`, number)));
  await loadPlaces();
  setColours();
  legend();
  resize();
  draw();
  performance.mark("drawn");
  await loadRest();
  zoomed();
  performance.mark("complete");
}
start();
