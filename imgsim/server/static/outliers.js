// The images that are farthest from all others.
import { card, fields, found, tell } from "./common.js";

const asked = fields(["k", "most"]);

async function show() {
  const page = await found("/outliers", asked, document.getElementById("state"));
  document.getElementById("facts").textContent = `Half of ${page.images.toLocaleString()} images have ${asked.k} others within ${page.median.toPrecision(4)}; ${page.beyond.toLocaleString()} are more than 3.5 deviations beyond.`;
  document.getElementById("images").append(...page.outliers.map((each) => {
    const look = each.look === "usual" ? "" : ` · ${each.look}`;
    return card(each, `${each.rank} · ${each.distance.toPrecision(4)} · ${each.deviations.toFixed(1)} deviations${look}`);
  }));
}

tell(show());
