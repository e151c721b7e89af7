// Pictures that are not stored: their embeddings, kept for this tab so that "back" finds them.
import { ask, make } from "./common.js";

const KEY = "imgsim-examples";

function all() {
  return JSON.parse(sessionStorage.getItem(KEY) || "{}");
}

export function kept(name) {
  return all()[name];
}

async function small(blob) {
  const image = await createImageBitmap(blob).catch(() => null);
  if (!image) return "";
  const scale = Math.min(1, 120 / Math.max(image.width, image.height));
  const canvas = make("canvas", { width: Math.max(1, image.width * scale), height: Math.max(1, image.height * scale) });
  canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
  return canvas.toDataURL("image/jpeg", 0.8);
}

export async function keep(blob, name) {
  const { embedding } = await ask("/embed", { method: "POST", headers: { "content-type": "application/octet-stream" }, body: blob });
  const examples = all();
  const key = `u${Object.keys(examples).length + 1}`;
  examples[key] = { embedding, name, picture: await small(blob) };
  sessionStorage.setItem(KEY, JSON.stringify(examples));
  return key;
}
