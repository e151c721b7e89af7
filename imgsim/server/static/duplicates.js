// Groups of duplicates side by side; where the server may, they are judged, moved away, brought back.
import { ask, card, fields, found, make, note, post, shown, tell } from "./common.js";

const asked = fields(["keep", "mirror", "rotate", "radius"]);
const place = document.getElementById("groups");
const more = document.getElementById("more");
let may = [];
let number = 0;

function facts(member) {
  const size = member.bytes < 1e6 ? `${Math.ceil(member.bytes / 1e3)} kB` : `${(member.bytes / 1e6).toFixed(1)} MB`;
  const when = new Date(1000 * member.modified).toISOString().slice(0, 10);
  return [`${member.width} × ${member.height} · ${size} · ${member.format} · ${when}`, shown(member.path.slice(0, member.path.lastIndexOf("/") + 1))];
}

function button(text, act) {
  const made = make("button", { textContent: text });
  made.addEventListener("click", async () => {
    made.disabled = true;
    await tell(act());
    made.disabled = false;
  });
  return made;
}

function judged(section, members, kept) {
  const ids = [kept.id, ...members.filter((each) => each !== kept).map((each) => each.id)];
  return async () => {
    await post("/duplicates/ignore", { ids });
    gone(section, "remembered: these are no duplicates", async () => { await post("/duplicates/unignore", { ids }); });
  };
}

function moved(section, members, kept) {
  const move = members.filter((each) => each !== kept && each.kind !== "same file").map((each) => each.id);
  return async () => {
    const change = await post("/duplicates/move", { keep: kept.id, move });
    for (const { path, reason } of change.left) note(`left alone: ${shown(path)}: ${reason}`);
    if (!change.done) return;
    gone(section, `moved away: ${change.done} of ${move.length}`, async () => {
      const undone = await post("/duplicates/undo", { number: change.number });
      for (const { path, reason } of undone.left) note(`left alone: ${shown(path)}: ${reason}`);
    });
  };
}

function gone(section, text, undo) {
  const line = make("p", {}, text, " ");
  line.append(button("undo", async () => { await undo(); line.replaceWith(section); }));
  section.replaceWith(line);
  line.querySelector("button").focus();
}

function group(members) {
  let kept = members[0];
  const name = `keep-${number += 1}`;
  const section = make("section", { className: "group" });
  const cards = members.map((member) => {
    const relation = member === members[0] ? "" : `${member.kind} · ${member.distance.toPrecision(4)}`;
    const shape = { type: "radio", name, checked: member === kept };
    const radio = make("input", shape);
    radio.addEventListener("change", () => { kept = member; });
    const lines = facts(member).flatMap((line) => [make("bdi", { textContent: line }), make("br")]);
    return card(member, "", make("small", {}, ...lines, relation), make("label", {}, radio, " keep"));
  });
  const acts = make("p");
  if (may.includes("move")) acts.append(button("move the others away", () => moved(section, members, kept)()), " ");
  if (may.includes("ignore")) acts.append(button("no duplicates", () => judged(section, members, kept)()));
  section.append(make("div", { className: "grid" }, ...cards), acts);
  return section;
}

async function show() {
  const page = await found("/duplicates", asked, document.getElementById("state"));
  const told = `${page.found.toLocaleString()} groups among ${page.images.toLocaleString()} images, within ${page.radius.toPrecision(4)}`;
  const hint = may.length ? "" : "; to judge or move them, start imgsim serve with --allow-changes";
  document.getElementById("facts").textContent = told + hint;
  place.append(...page.groups.map(({ members }) => group(members)));
  more.hidden = !page.after;
  asked.after = page.after;
}

more.addEventListener("click", () => tell(show()));
tell(ask("/activity").then((activity) => { may = activity.may; return show(); }));
