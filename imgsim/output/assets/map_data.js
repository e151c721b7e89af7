"use strict";
// What a map shows: the data in the page, pictures from its atlases, and larger ones from files.

const element = (id) => document.getElementById(id);
const facts = JSON.parse(element("data-facts").textContent);
const { n, k } = facts;

const bytesOf = (id) => {
  const text = element(id).textContent;
  if (Uint8Array.fromBase64) return Uint8Array.fromBase64(text);
  return Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
};
const unpack = async (id) => {
  const stream = new Blob([bytesOf(id)]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).arrayBuffer();
};
const ready = new Promise((done) => addEventListener("DOMContentLoaded", done));

// --- Data -------------------------------------------------------------------------------------

let places, codes = [], nearest, distances, pathBytes, pathStarts, paths, lower, sizes, ids;

async function loadPlaces() {
  places = new Uint16Array(await unpack("data-places"));
  codes = await Promise.all(facts.colourings.map(async (_, at) => new Uint32Array(await unpack(`data-codes-${at}`))));
}

async function loadRest() {
  await ready;
  pathBytes = new Uint8Array(await unpack("data-paths"));
  pathStarts = new Uint32Array(n + 1);
  for (let at = 0, image = 1; at < pathBytes.length; at++) if (!pathBytes[at]) pathStarts[image++] = at + 1;
  nearest = new Int32Array(await unpack("data-nearest"));
  distances = new Uint16Array(await unpack("data-distances"));
  sizes = new Uint8Array(await unpack("data-sizes"));
  if (facts.served) ids = new Float64Array(await unpack("data-ids"));
  const text = new TextDecoder().decode(pathBytes);
  paths = text.split("\0");
  lower = text.toLowerCase().split("\0");
  redraw();
}

const shown = (text) => text.replace( // all but joiners, which are parts of words and of emojis
  /(?![\u200c\u200d])[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/gu,
  (character) => `\\u${character.codePointAt(0).toString(16).padStart(4, "0")}`,
);
const nameOf = (image) => shown(paths[image].slice(paths[image].lastIndexOf("/") + 1));

const pageOf = (image) => (ids ? `/image/${ids[image]}` : addressOf(image));

function addressOf(image) {
  if (ids) return `/api/v1/images/${ids[image]}/picture?size=large`;
  let address = "file://";
  for (let at = pathStarts[image]; at < pathStarts[image + 1] - 1; at++) {
    const character = String.fromCharCode(pathBytes[at]);
    address += /[\w.~/-]/.test(character) ? character : `%${pathBytes[at].toString(16).padStart(2, "0")}`;
  }
  return address;
}

// --- Pictures: tiles of an atlas, and files once they are large enough ------------------------

class Cache { // of promised bitmaps: those that were wanted longest ago are let go
  constructor(most, atOnce, load) { Object.assign(this, { most, atOnce, load, held: new Map(), wanted: [], busy: 0 }); }
  get(key) {
    const found = this.held.get(key);
    this.held.delete(key);
    this.held.set(key, found);
    if (found === undefined) {
      this.held.set(key, null);
      this.wanted.push(key);
      if (this.wanted.length > this.most / 2) this.held.delete(this.wanted.shift());
      this.next();
    }
    return found ?? null;
  }
  async next() {
    if (this.busy >= this.atOnce || !this.wanted.length) return;
    const key = this.wanted.pop();
    this.busy++;
    try { this.held.set(key, await this.load(key)); } catch { this.held.set(key, false); }
    this.busy--;
    for (const [old, bitmap] of this.held) {
      if (this.held.size <= this.most) break;
      if (bitmap === null) continue;
      if (bitmap) bitmap.close();
      this.held.delete(old);
    }
    this.next();
    redraw();
  }
}

const atlases = new Cache(40, 2, async (number) => createImageBitmap(new Blob([bytesOf(`atlas-${number}`)], { type: "image/jpeg" })));
const files = new Cache(400, 3, async (image) => {
  const picture = new Image();
  picture.src = addressOf(image);
  await picture.decode();
  const scale = Math.min(1, 320 / Math.max(picture.naturalWidth, picture.naturalHeight));
  const size = [picture.naturalWidth, picture.naturalHeight].map((side) => Math.max(1, Math.round(side * scale)));
  return createImageBitmap(picture, { resizeWidth: size[0], resizeHeight: size[1], resizeQuality: "medium" });
});

function pictureOf(image, side) {
  if (!sizes) return null;
  if (side > 1.1 * facts.side) {
    const bitmap = files.get(image);
    if (bitmap) return [bitmap, 0, 0, bitmap.width, bitmap.height];
  }
  const width = sizes[2 * image], atlas = width ? atlases.get(Math.floor(image / facts.columns ** 2)) : null;
  if (!atlas) return null;
  const place = image % facts.columns ** 2, row = Math.floor(place / facts.columns);
  return [atlas, (place % facts.columns) * facts.side, row * facts.side, width, sizes[2 * image + 1]];
}

function pictureElement(image) {
  const box = document.createElement("div"), picture = new Image();
  box.className = "picture";
  picture.alt = "";
  picture.decoding = "async";
  picture.onerror = () => {
    const tile = pictureOf(image, 0), canvas = document.createElement("canvas");
    if (!tile) return box.replaceChildren("cannot be shown");
    [canvas.width, canvas.height] = tile.slice(3);
    canvas.getContext("2d").drawImage(...tile, 0, 0, canvas.width, canvas.height);
    box.replaceChildren(canvas);
  };
  picture.src = addressOf(image);
  box.append(picture);
  return box;
}
