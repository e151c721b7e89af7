// Lays out a map and leads to its page.
import { fields, found, query, tell } from "./common.js";

const asked = fields(["method"]);

async function show() {
  const { current } = await found("/map", asked, document.getElementById("state"));
  const link = document.getElementById("open");
  link.href = `/api/v1/map/page?${query(asked)}`;
  link.hidden = false;
  if (current) location.replace(link.href);
}

tell(show());
