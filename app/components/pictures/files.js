// A picture as a file: what its canvases show is drawn once more, into SVG, with the words around it where they stand.
// A PNG is that SVG, painted.

const SVG = "http://www.w3.org/2000/svg";
const WRITTEN = "h4, p, li, .legend span";
const MARGIN = 16;
const GAP = 20; // pixels that stay of a place where only controls stand

function shape(tag, attributes = {}) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, String(value));
  return made;
}

/** What a canvas's context does, as elements. Knows what the pictures use. */
class Drawing {
  constructor(font) {
    this.group = shape("g");
    this.ruler = document.createElement("canvas").getContext("2d");
    this.ruler.font = font;
    this.state = { dash: [], clip: null };
    this.kept = [];
    Object.assign(this, { font, fillStyle: "#000", strokeStyle: "#000", lineWidth: 1, path: "" });
  }

  add(tag, attributes, text = "") {
    const made = shape(tag, attributes);
    if (this.state.clip) made.setAttribute("clip-path", `url(#${this.state.clip})`);
    made.textContent = text;
    this.group.append(made);
    return made;
  }

  line() {
    return { fill: "none", stroke: this.strokeStyle, "stroke-width": this.lineWidth,
      "stroke-dasharray": this.state.dash.join(" ") };
  }

  fillRect(x, y, width, height) {
    if (width > 0 && height > 0) this.add("rect", { x, y, width, height, fill: this.fillStyle });
  }

  strokeRect(x, y, width, height) {
    if (width >= 0 && height >= 0) this.add("rect", { x, y, width, height, ...this.line() });
  }

  /** As wide as on the page, whatever font the file is read with. */
  fillText(text, x, y, wide = this.measureText(text).width) {
    this.add("text", { x, y, fill: this.fillStyle, "dominant-baseline": "central", textLength: wide,
      lengthAdjust: "spacingAndGlyphs" }, text);
  }

  drawImage(picture, x, y, width, height) {
    this.add("image", { x, y, width, height, href: picture.toDataURL(), preserveAspectRatio: "none",
      style: "image-rendering: pixelated" });
  }

  measureText(text) { return this.ruler.measureText(text); }
  setLineDash(dash) { this.state.dash = dash; }
  beginPath() { this.path = ""; }
  moveTo(x, y) { this.path += `M${x} ${y}`; }
  lineTo(x, y) { this.path += `L${x} ${y}`; }
  rect(x, y, width, height) { this.path += `M${x} ${y}h${width}v${height}h${-width}z`; }

  /** A whole circle. */
  arc(x, y, r) { this.path += `M${x + r} ${y}A${r} ${r} 0 1 1 ${x - r} ${y}A${r} ${r} 0 1 1 ${x + r} ${y}`; }
  stroke() { if (this.path) this.add("path", { d: this.path, ...this.line() }); }
  fill() { if (this.path) this.add("path", { d: this.path, fill: this.fillStyle }); }

  clip() {
    const id = `clip-${crypto.randomUUID()}`;
    this.add("clipPath", { id }).append(shape("path", { d: this.path }));
    this.state.clip = id;
  }

  save() { this.kept.push([{ ...this.state }, this.fillStyle, this.strokeStyle, this.lineWidth]); }
  restore() { [this.state, this.fillStyle, this.strokeStyle, this.lineWidth] = this.kept.pop(); }
}

/** The lines of an element's text, each with its place in the window. */
function linesOf(written) {
  const lines = [];
  const walker = document.createTreeWalker(written, NodeFilter.SHOW_TEXT);
  const range = document.createRange();
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    for (const { 0: word, index } of node.data.matchAll(/\S+\s*/g)) {
      range.setStart(node, index);
      range.setEnd(node, index + word.trimEnd().length);
      const box = range.getBoundingClientRect();
      const last = lines.at(-1);
      if (last && Math.abs(last.box.top - box.top) < 3) {
        last.text += word;
        last.right = box.right;
      } else lines.push({ text: word, box, right: box.right });
    }
  }
  return lines;
}

/** What of a picture is in sight, as SVG of its size. */
function asSvg(root, background) {
  const all = root.getBoundingClientRect();
  const style = getComputedStyle(root);
  const items = [];
  const place = (box, draw) => box.width && box.height && items.push({ box, draw });
  for (const canvas of root.querySelectorAll("canvas.surface")) {
    const frame = (canvas.closest(".scrolls") ?? canvas).getBoundingClientRect();
    place(frame, (y) => drawnAgain(canvas, frame, all, y));
  }
  for (const swatch of root.querySelectorAll(".legend .swatch")) {
    const box = swatch.getBoundingClientRect();
    const { backgroundColor, borderTopColor, borderTopWidth } = getComputedStyle(swatch);
    const drawing = new Drawing(style.font);
    place(box, (y) => {
      Object.assign(drawing, { fillStyle: backgroundColor, strokeStyle: borderTopColor, lineWidth: 2 });
      drawing.fillRect(box.left - all.left, y, box.width, box.height);
      if (parseFloat(borderTopWidth)) drawing.strokeRect(box.left - all.left, y, box.width, box.height);
      if (swatch.classList.contains("hatched")) {
        hatch(drawing, box.left - all.left, y, box.width, box.height, borderTopColor);
      }
      return drawing.group;
    });
  }
  for (const written of root.querySelectorAll(WRITTEN)) {
    if (written.closest("details") || !written.checkVisibility()) continue;
    const { fontSize, fontWeight, color } = getComputedStyle(written);
    for (const { text, box, right } of linesOf(written)) {
      place(box, (y) => {
        const drawing = new Drawing(style.font);
        drawing.fillStyle = color;
        drawing.fillText(text.trimEnd(), box.left - all.left, y + box.height / 2, right - box.left);
        drawing.group.setAttribute("style", `font-size: ${fontSize}; font-weight: ${fontWeight}`);
        return drawing.group;
      });
    }
  }
  return assembled(items, all.width, style.fontFamily, background);
}

/** Puts the parts where they stand; places where nothing is drawn shrink. */
function assembled(items, width, font, background) {
  const inner = shape("g", { transform: `translate(${MARGIN} 0)` });
  let [below, removed] = [-Infinity, 0];
  for (const { box, draw } of items.sort((one, other) => one.box.top - other.box.top)) {
    if (below === -Infinity) removed = box.top - MARGIN;
    else removed += Math.max(0, box.top - below - GAP);
    below = Math.max(below, box.bottom);
    inner.append(draw(box.top - removed));
  }
  const size = [Math.ceil(width + 2 * MARGIN), Math.ceil(Math.max(0, below - removed) + MARGIN)];
  const [wide, high] = size;
  const svg = shape("svg", { width: wide, height: high, viewBox: `0 0 ${wide} ${high}`, "font-family": font });
  svg.append(shape("rect", { width: wide, height: high, fill: background }), inner);
  return { text: new XMLSerializer().serializeToString(svg), size };
}

function drawnAgain(canvas, frame, all, y) {
  const { surface } = canvas;
  const box = canvas.getBoundingClientRect();
  const drawing = new Drawing(surface.font());
  surface.paint(drawing, canvas.clientWidth, surface.height);
  drawing.group.setAttribute("transform", `translate(${box.left - frame.left} ${box.top - frame.top})`);
  // hides what its scrolling place hides
  const part = shape("svg", { x: frame.left - all.left, y, width: frame.width, height: frame.height });
  part.style.fontSize = "12px";
  part.append(drawing.group);
  return part;
}

/** The SVG painted at twice its size, as a data URL. */
async function asPng({ text, size: [width, height] }) {
  const picture = new Image();
  picture.src = "data:image/svg+xml;charset=utf-8," + encodeURIComponent(text);
  await picture.decode();
  const sheet = document.createElement("canvas");
  [sheet.width, sheet.height] = [2 * width, 2 * height];
  sheet.getContext("2d").drawImage(picture, 0, 0, sheet.width, sheet.height);
  return sheet.toDataURL("image/png");
}

function download(address, name) {
  element("a", "", "", { href: address, download: name }).click();
}

/** Buttons below a picture. `files`: its file name, and whether it can be pinned. `tell` tells the page. */
function fileButtons(root, data, tell) {
  const bar = element("div", "files", "", { role: "group", "aria-label": "This picture as a file" });
  const drawn = () => asSvg(root, data().palette.background);
  const add = (text, title, act) => {
    const button = element("button", "quiet", text, { type: "button", title });
    button.addEventListener("click", act);
    bar.append(button);
  };
  add("PNG", "This picture as a PNG file", async () => download(await asPng(drawn()), `${data().files.name}.png`));
  add("SVG", "This picture as an SVG file", () => {
    const address = URL.createObjectURL(new Blob([drawn().text], { type: "image/svg+xml" }));
    download(address, `${data().files.name}.svg`);
    setTimeout(() => URL.revokeObjectURL(address), 60_000);
  });
  if (data().files.pins) add("Pin", "Put this picture into a report", async () => tell("pinned", await asPng(drawn())));
  root.append(bar);
}
