// How well labelled images are retrieved, and queries with right and wrong neighbours.
import { ask, card, found, make, nameOf, tell } from "./common.js";

function measures(page) {
  const ks = Object.keys(page.measures[0].recall);
  const head = make("tr", {}, ...["", ...ks.map((k) => `recall@${k}`), "P@10", "mAP"].map((text) => make("th", { scope: "col", textContent: text })));
  const rows = page.measures.map((each) => {
    const values = [...ks.map((k) => each.recall[k]), each.p10, each.map].map((value) => make("td", { textContent: value.toFixed(3) }));
    return make("tr", {}, make("th", { scope: "row", textContent: each.name }), ...values);
  });
  document.getElementById("measures").append(head, ...rows);
}

function shownImage(image, caption, kind) {
  if (image.id) {
    const figure = card(image, caption);
    figure.classList.add(kind);
    return figure;
  }
  const text = make("bdi", { textContent: nameOf(image.path) });
  return make("figure", { className: `card ${kind}` }, make("span", { className: "absent", textContent: "not stored" }), make("figcaption", {}, caption, make("br"), text));
}

async function show() {
  const page = await found("/evaluation", {}, document.getElementById("state"));
  document.getElementById("facts").textContent = `${page.queries.toLocaleString()} queries among ${page.images.toLocaleString()} labelled images.${page.rows.some(({ query: image }) => !image.id) ? " Those that are ingested are shown." : ""}`;
  measures(page);
  document.getElementById("rows").append(...page.rows.map(({ query: image, nearest }) => make("section", { className: "group" },
    make("h2", {}, make("bdi", { textContent: image.label })),
    make("div", { className: "grid" }, shownImage(image, "query", "query"),
      ...nearest.map((each) => shownImage(each, `${each.label === image.label ? "✓" : "✗"} ${each.label}`, each.label === image.label ? "right" : "wrong"))))));
}

tell(ask("/activity").then(({ may }) => {
  if (may.includes("evaluate")) return show();
  document.getElementById("state").textContent = "Start imgsim serve with --labelled DIR: images in folders by label.";
}));
