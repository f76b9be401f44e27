// What a map does. `page.py` writes the data and bokeh draws the points; a row is one image.

const at = (id) => document.getElementById(id);
const data = JSON.parse(at("data").textContent);
const { classes, superclasses, colours, thresholds } = data;

const views = await Bokeh.embed.embed_item(data.plot, "map");
const { model: plot, canvas_view: canvas } = views.roots[0];
canvas.events_el.tabIndex = -1; // the map around it takes the keys
const source = (name) => plot.document.get_model_by_name(name).data_source;
const [points, ring, names] = ["points", "ring", "names"].map(source);
const rows = points.data;
const count = rows.x.length;
const home = [plot.x_range, plot.y_range].map(({ start, end }) => ({ start, end }));
const sheets = { images: at("images"), neighbours: at("neighbours") };
await Promise.all(Object.values(sheets).map((sheet) => sheet?.decode()));

const OPAQUE = 205; // of 255
const FAINT = [225, 225, 225, 90]; // grey, so that many on top of each other stay faint
const MOST_NAMES = 12; // written on the map at once
const MOUSE_REACH = 14, FINGER_REACH = 28, SMALLEST_STEP = 3; // pixels
const WORDS = {
  right: "● accepted, right", wrong: "● accepted, wrong", accepted: "● accepted, wrong", rejected: "✕ rejected",
};
let highlighted = null; // a set of classes, or null for all
let focused = count - 1; // a row: at first the most unusual, which is the last

const isUnseen = (row) => classes[rows.label[row]].unseen;
const isShown = (row) => !highlighted || highlighted.has(rows.label[row]);
const threshold = () => thresholds[at("threshold").value];
const number = (value) => value.toLocaleString("en");
const rate = (part, whole) => (whole ? `${((100 * part) / whole).toFixed(1)} %` : "–");
const short = (value) => String(Number(value.toPrecision(4)));
const tidy = (name) => name.replaceAll("_", " ");

function create(tag, parent, text = "") {
  const made = document.createElement(tag);
  made.textContent = text;
  parent.append(made);
  return made;
}

// ---- Decisions: markers, counts and rates at the threshold ----

function outcome(row, limit) {
  if (rows.score[row] > limit) return "rejected";
  if (isUnseen(row)) return "accepted";
  return rows.label[row] === rows.predicted[row] ? "right" : "wrong";
}

function decide() {
  const limit = threshold();
  const tally = { known: { right: 0, wrong: 0, rejected: 0 }, unseen: { accepted: 0, rejected: 0 } };
  const rejectedOf = new Array(classes.length).fill(0);
  for (let row = 0; row < count; row++) {
    const decided = outcome(row, limit);
    const rejected = Number(decided === "rejected");
    rows.marker[row] = data.markers[rejected];
    rejectedOf[rows.label[row]] += rejected;
    tally[isUnseen(row) ? "unseen" : "known"][decided] += 1;
  }
  points.change.emit();
  showTally(tally);
  showRates(rejectedOf);
  describe(focused);
}

function showTally(tally) {
  const spoken = [short(threshold())];
  for (const [role, counts] of Object.entries(tally)) {
    const whole = Object.values(counts).reduce((sum, part) => sum + part);
    spoken.push(`${role} rejected ${rate(counts.rejected, whole)}`);
    for (const [what, part] of Object.entries(counts)) {
      const cell = at(`${role}-${what}`);
      cell.textContent = number(part);
      create("small", cell, rate(part, whole));
    }
  }
  const slider = at("threshold");
  const place = (100 * slider.value) / slider.max;
  at("threshold-value").textContent = short(threshold());
  at("rejected-side").setAttribute("x", place);
  at("rejected-side").setAttribute("width", 100 - place);
  slider.setAttribute("aria-valuetext", spoken.join(", "));
}

function showRates(rejectedOf) {
  for (const { members, share } of entries) {
    const sum = (part) => members.reduce((total, label) => total + part(label), 0);
    share.textContent = rate(sum((label) => rejectedOf[label]), sum((label) => classes[label].count));
  }
}

function drawHistogram() {
  for (const [role, bins] of Object.entries(data.bins)) {
    const top = Math.max(1, ...bins);
    const step = 100 / bins.length;
    const bars = bins.map((bin, i) => `V${100 - (72 * bin) / top}H${(i + 1) * step}`);
    at(`bars-${role}`).setAttribute("d", `M0 100${bars.join("")}V100Z`);
  }
}

// ---- Colours, and the classes that stand out ----

function colourOf(label) {
  const { unseen, superclass } = classes[label];
  const by = at("colour").value;
  if (by === "class") return colours.class[label];
  if (by === "score") return null;
  if (unseen) return colours.unseen;
  return by === "superclass" ? colours.superclass[superclass] : colours.known;
}

function colourOfScore(score) {
  const [low, high] = data.scoreRange;
  const share = Math.min(1, Math.max(0, (score - low) / (high - low || 1)));
  return colours.score[Math.round(share * (colours.score.length - 1))];
}

function recolour() {
  const ofClass = classes.map((_, label) => colourOf(label));
  for (let row = 0; row < count; row++) {
    const hex = ofClass[rows.label[row]] ?? colourOfScore(rows.score[row]);
    const rgb = parseInt(hex.slice(1), 16);
    const bright = [rgb >> 16, (rgb >> 8) & 255, rgb & 255, OPAQUE];
    rows.colour.set(isShown(row) ? bright : FAINT, 4 * row);
  }
  points.change.emit();
  for (const { label, swatch } of entries) {
    if (swatch) swatch.style.background = ofClass[label] ?? "transparent";
  }
  at("ramp").hidden = at("colour").value !== "score";
}

function highlight(entry) {
  const chosen = entry?.button.getAttribute("aria-pressed") === "false" ? entry : null;
  highlighted = chosen && new Set(chosen.members);
  for (const { button } of entries) button.setAttribute("aria-pressed", button === chosen?.button);
  recolour();
  nameClasses();
}

function nameClasses() {
  const named = classes.filter(({ median }, label) => median && (highlighted?.has(label) ?? true));
  const shown = named.length <= MOST_NAMES ? named : [];
  names.data = {
    x: shown.map(({ median }) => median[0]),
    y: shown.map(({ median }) => median[1]),
    text: shown.map(({ name }) => tidy(name)),
  };
}

// ---- The list of classes ----

function listed() {
  const own = (holds) => [...classes.keys()].filter((label) => holds(classes[label]));
  const one = (label) => ({ name: classes[label].name, members: [label], label });
  const known = own(({ unseen }) => !unseen), unseen = own((c) => c.unseen);
  const whole = [{ name: "all known", members: known }, { name: "all unseen", members: unseen }];
  if (!superclasses.length) return [...whole, ...known.map(one), ...unseen.map(one)];
  const groups = superclasses.map((name, place) => ({ name, members: own((c) => c.superclass === place) }));
  return [...whole, ...groups.flatMap((group) => [group, ...group.members.map(one)])];
}

function addEntry(entry) {
  const button = create("button", at("class-list"));
  const isClass = entry.label !== undefined;
  button.type = "button";
  button.tabIndex = -1;
  button.className = isClass ? "class" : "group";
  button.setAttribute("aria-pressed", "false");
  const swatch = isClass ? create("i", button) : null;
  button.append(tidy(entry.name));
  if (isClass && classes[entry.label].unseen) create("em", button, " unseen");
  const made = { ...entry, button, swatch, share: create("small", button) };
  button.addEventListener("click", () => highlight(made));
  return made;
}

function filterClasses() {
  const wanted = at("filter").value.toLowerCase();
  for (const { name, button } of entries) button.hidden = !tidy(name).toLowerCase().includes(wanted);
  roveTo(visibleButtons()[0]);
}

const visibleButtons = () => entries.map(({ button }) => button).filter((button) => !button.hidden);

// One button of the list is reached by Tab, the others from there by arrow keys.
function roveTo(button) {
  for (const entry of entries) entry.button.tabIndex = entry.button === button ? 0 : -1;
}

function moveInList(event) {
  const buttons = visibleButtons();
  const here = buttons.indexOf(document.activeElement);
  const places = { ArrowRight: here + 1, ArrowDown: here + 1, ArrowLeft: here - 1, ArrowUp: here - 1 };
  const place = { ...places, Home: 0, End: buttons.length - 1 }[event.key];
  if (event.key === "Escape") highlight(null);
  if (place === undefined || !buttons[place]) return;
  event.preventDefault();
  roveTo(buttons[place]);
  buttons[place].focus();
}

// ---- The image in focus ----

function focus(row) {
  if (row === null) return;
  focused = row;
  ring.data = { x: [rows.x[row]], y: [rows.y[row]] };
  describe(row);
}

function describe(row) {
  const truth = classes[rows.label[row]];
  const guess = classes[rows.predicted[row]].name;
  const facts = {
    true: tidy(truth.name) + (truth.unseen ? " (unseen)" : ""),
    superclass: tidy(superclasses[truth.superclass] ?? ""),
    predicted: tidy(guess),
    decision: WORDS[outcome(row, threshold())],
    score: short(rows.score[row]),
    "p-value": String(Number(rows.p[row].toPrecision(2))),
    image: String(rows.row[row]),
  };
  at("facts").replaceChildren();
  for (const [name, fact] of Object.entries(facts).filter(([, fact]) => fact)) {
    create("dt", at("facts"), name);
    create("dd", at("facts"), fact).id = `fact-${name}`;
  }
  draw(at("image"), sheets.images, row, `Image ${facts.image}: ${facts.true}`);
  showNeighbours(row);
}

function showNeighbours(row) {
  const each = data.neighboursEach;
  at("near-list").replaceChildren();
  for (const place of rows.neighbours?.slice(row * each, (row + 1) * each) ?? []) {
    const item = create("li", at("near-list"));
    const name = tidy(classes[data.neighbourLabels[place]].name);
    draw(create("canvas", item), sheets.neighbours, place, `Training image: ${name}`);
    item.append(name);
  }
}

function draw(canvas, sheet, place, told) {
  const { columns, tile, width, height } = sheet.dataset;
  const left = (place % columns) * tile, top = Math.floor(place / columns) * tile;
  [canvas.width, canvas.height] = [width, height];
  canvas.getContext("2d").drawImage(sheet, left, top, width, height, 0, 0, width, height);
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", told);
}

// ---- From place to row: pointer and arrow keys ----

const pixelsPerUnit = () => plot.inner_width / (plot.x_range.end - plot.x_range.start);

// The row of least cost; cost(right, up) is of the way in pixels from (x, y), Infinity for never.
function best(x, y, cost) {
  const scale = pixelsPerUnit();
  let [found, least] = [null, Infinity];
  for (let row = 0; row < count; row++) {
    const value = isShown(row) ? cost((rows.x[row] - x) * scale, (rows.y[row] - y) * scale) : Infinity;
    if (value < least) [found, least] = [row, value];
  }
  return found;
}

function near(x, y, reach) {
  return best(x, y, (right, up) => (Math.hypot(right, up) <= reach ? Math.hypot(right, up) : Infinity));
}

const ARROWS = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };

function next([dx, dy]) {
  return best(rows.x[focused], rows.y[focused], (right, up) => {
    const ahead = right * dx + up * dy, aside = Math.abs(right * dy) + Math.abs(up * dx);
    return ahead < SMALLEST_STEP || aside > ahead ? Infinity : ahead + aside;
  });
}

function view([x, y], width) {
  plot.x_range.setv({ start: x - width / 2, end: x + width / 2 });
  plot.y_range.setv({ start: y - width / 2, end: y + width / 2 });
}

// The image in focus stays where it is; if it was out of sight, it comes to the middle.
function zoom(factor) {
  for (const [range, held] of [[plot.x_range, rows.x[focused]], [plot.y_range, rows.y[focused]]]) {
    const [start, end] = [range.start, range.end].map((edge) => held + (edge - held) / factor);
    range.setv({ start, end });
  }
  keepInView();
}

function wholeMap() {
  plot.x_range.setv(home[0]);
  plot.y_range.setv(home[1]);
}

function keepInView() {
  const here = [rows.x[focused], rows.y[focused]];
  const outside = [plot.x_range, plot.y_range].some(
    ({ start, end }, axis) => here[axis] < start || here[axis] > end,
  );
  if (outside) view(here, plot.x_range.end - plot.x_range.start);
}

function pressOnMap(event) {
  const keys = {
    "+": () => zoom(1.5),
    "-": () => zoom(1 / 1.5),
    0: wholeMap,
    Escape: () => highlight(null),
    Enter: () => highlight(entries.find(({ label }) => label === rows.label[focused])),
  };
  for (const [key, way] of Object.entries(ARROWS)) {
    keys[key] = () => {
      focus(next(way));
      keepInView();
    };
  }
  if (!keys[event.key] || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  keys[event.key]();
}

// ---- Everything put together ----

const entries = listed().filter(({ members }) => members.length).map(addEntry);
const slider = at("threshold");
slider.max = thresholds.length - 1;
slider.value = data.calibrated;
slider.addEventListener("input", decide);
at("calibrated").addEventListener("click", () => {
  slider.value = data.calibrated;
  decide();
});

if (!superclasses.length) at("colour").querySelector("[value=superclass]").remove();
at("colour").addEventListener("change", recolour);
at("ramp").querySelector("i").style.background = `linear-gradient(to right, ${colours.score})`;
[at("ramp-low").textContent, at("ramp-high").textContent] = data.scoreRange.map(short);

at("filter").addEventListener("input", filterClasses);
at("class-list").addEventListener("keydown", moveInList);
at("map").addEventListener("keydown", pressOnMap);
at("zoom-in").addEventListener("click", () => zoom(1.5));
at("zoom-out").addEventListener("click", () => zoom(1 / 1.5));
at("zoom-reset").addEventListener("click", wholeMap);
plot.on_event("mousemove", ({ x, y }) => focus(near(x, y, MOUSE_REACH)));
plot.on_event("tap", ({ x, y }) => focus(near(x, y, FINGER_REACH)));
// On a touch screen a drag over the map scrolls the page; the buttons zoom.
if (matchMedia("(pointer: coarse)").matches) plot.toolbar.tools.forEach((tool) => (tool.active = false));

at("near").hidden = !data.neighboursEach;
drawHistogram();
roveTo(entries[0].button);
decide();
recolour();
nameClasses();
focus(focused);
document.body.dataset.ready = "";
