// Lays out a map and leads to its page.
import { fields, found, tell } from "./common.js";

const query = fields(["method"]);

async function show() {
  const { current } = await found("/map", query, document.getElementById("state"));
  const link = document.getElementById("open");
  link.href = `/api/v1/map/page?${query}`;
  link.hidden = false;
  if (current) location.replace(link.href);
}

tell(show());
