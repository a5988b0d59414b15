// What all pictures of recorded runs share: a canvas that fits its place and its screen, a tip beside the pointer,
// and the life of a picture in the page.

const KINDS = ["prefill", "decode", "verify"];
const FOLLOW = "servescope-iteration"; // an event of the document: pictures of one run show one iteration

/**
 * Tell the other pictures of a run which iteration is shown, and when it began and ended; one that comes later finds it
 * at the document.
 */
function lead(run, iteration, start_ms, end_ms) {
  document[FOLLOW] = { run, iteration, start_ms, end_ms };
  document.dispatchEvent(new CustomEvent(FOLLOW, { detail: document[FOLLOW] }));
}

/** Columns of an Arrow table as typed arrays, by name. */
function columnsOf(table) {
  const columns = { rows: table ? table.numRows : 0 };
  if (table) for (const { name } of table.schema.fields) columns[name] = table.getChild(name).toArray();
  return columns;
}

/** First index of a sorted array whose value is at least `value`. */
function lowerBound(values, value) {
  let low = 0;
  let high = values.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (values[middle] < value) low = middle + 1;
    else high = middle;
  }
  return low;
}

/** `#rrggbb` with an opacity. */
function faded(colour, opacity) {
  const [red, green, blue] = [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16));
  return `rgba(${red},${green},${blue},${opacity})`;
}

/** [red, green, blue] of `#rrggbb`. */
function channels(colour) {
  return [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16));
}

/** A colour of its own for every request, the same in all pictures: neighbours far apart. */
function ownColour(request, dark) {
  const hue = ((request * 137.508) % 360) / 60;
  const [light, strength] = [dark ? 0.62 : 0.48, 0.55];
  const chroma = (1 - Math.abs(2 * light - 1)) * strength;
  const second = chroma * (1 - Math.abs((hue % 2) - 1));
  const [r, g, b] = [[chroma, second, 0], [second, chroma, 0], [0, chroma, second], [0, second, chroma],
    [second, 0, chroma], [chroma, 0, second]][Math.floor(hue)];
  return [r, g, b].map((part) => Math.round(255 * (part + light - chroma / 2)));
}

function css([red, green, blue]) {
  return `rgb(${red},${green},${blue})`;
}

/** A canvas in CSS pixels, as wide as its place. `paint(ctx, width, height)` draws all of it. */
class Surface {
  constructor(parent, height, label, paint) {
    this.height = height;
    this.paint = paint;
    this.canvas = element("canvas", "surface", "", { role: "img", "aria-label": label });
    this.canvas.surface = this;
    parent.append(this.canvas);
    this.observer = new ResizeObserver(() => this.draw());
    this.observer.observe(this.canvas);
  }

  draw() {
    if (this.waits) return;
    this.waits = true;
    requestAnimationFrame(() => {
      this.waits = false;
      this.drawNow();
    });
  }

  drawNow() {
    const width = this.canvas.clientWidth;
    if (!width || !this.canvas.isConnected) return;
    const ratio = devicePixelRatio || 1;
    const [wide, high] = [Math.round(width * ratio), Math.round(this.height * ratio)];
    if (this.canvas.width !== wide || this.canvas.height !== high) {
      this.canvas.width = wide;
      this.canvas.height = high;
      this.canvas.style.height = this.height + "px";
    }
    const ctx = this.canvas.getContext("2d");
    ctx.setTransform(ratio, 0, 0, ratio, 0, 0);
    ctx.clearRect(0, 0, width, this.height);
    ctx.font = this.font();
    ctx.textBaseline = "middle";
    this.paint(ctx, width, this.height);
  }

  font() {
    return `12px ${getComputedStyle(this.canvas).fontFamily}`;
  }

  /** Where an event of the pointer lies, in CSS pixels. */
  place(event) {
    const box = this.canvas.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  }

  destroy() {
    this.observer.disconnect();
  }
}

/** Lines beside the pointer, within the picture. The first one is the heading. */
class Tip {
  constructor(parent) {
    this.root = element("div", "tip", "", { hidden: "" });
    this.parent = parent;
    parent.append(this.root);
  }

  show(event, lines) {
    this.root.replaceChildren(...lines.map((line, row) => element("div", row ? "" : "tip-head", line)));
    this.root.hidden = false;
    const box = this.parent.getBoundingClientRect();
    const [x, y] = [event.clientX - box.left, event.clientY - box.top];
    const left = x + 14 + this.root.offsetWidth > box.width ? x - 14 - this.root.offsetWidth : x + 14;
    this.root.style.left = Math.max(0, left) + "px";
    this.root.style.top = Math.max(0, y - this.root.offsetHeight - 8) + "px";
  }

  hide() {
    this.root.hidden = true;
  }
}

/** Text that fits a width, cut with an ellipsis. */
function fitted(ctx, text, width) {
  if (ctx.measureText(text).width <= width) return text;
  let low = 0;
  let high = text.length;
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (ctx.measureText(text.slice(0, middle) + "…").width <= width) low = middle;
    else high = middle - 1;
  }
  return low ? text.slice(0, low) + "…" : "";
}

/** Fill with slanted lines: what was taken from the cache. */
function hatch(ctx, x, y, width, height, colour) {
  if (!(width > 0)) return;
  ctx.save();
  ctx.beginPath();
  ctx.rect(x, y, width, height);
  ctx.clip();
  ctx.strokeStyle = colour;
  ctx.lineWidth = 1;
  ctx.beginPath();
  for (let at = x - height; at < x + width; at += 5) {
    ctx.moveTo(at, y + height);
    ctx.lineTo(at + height, y);
  }
  ctx.stroke();
  ctx.restore();
}

/** Whether a picture that plays is given what it has: the page gives it again whenever it is drawn. */
function sameWindow(before, now) {
  const stamp = ({ run, iteration, steps }) =>
    [run, iteration, steps.numRows, steps.getChild("iteration").get(0)].join();
  return Boolean(before) && stamp(before) === stamp(now);
}

const pictures = new WeakMap();

/**
 * The function that Streamlit calls whenever data or theme change. It runs only the newest cleanup, and a superseded
 * call's cleanup may also run right after a newer call; so a picture ends only if no newer call follows.
 */
function mounting(Picture) {
  return ({ parentElement, data, setTriggerValue }) => {
    let entry = pictures.get(parentElement);
    if (entry && !entry.picture.gone) entry.picture.update(data);
    else {
      const picture = new Picture(parentElement, data);
      entry = { picture, calls: 0 };
      pictures.set(parentElement, entry);
      if (data.files) fileButtons(picture.root, () => picture.data, (...told) => picture.tell(...told));
    }
    entry.picture.tell = setTriggerValue;
    const call = ++entry.calls;
    return () =>
      setTimeout(() => {
        if (entry.calls !== call) return;
        entry.picture.gone = true;
        entry.picture.destroy();
      }, 0);
  };
}

/** The palette as variables of the picture's own style sheet. */
function dress(root, palette) {
  for (const [name, colour] of Object.entries(palette)) {
    root.style.setProperty(`--${name.replaceAll("_", "-")}`, colour);
  }
}

/** A table of texts; `words`: columns that are not numbers. */
function tableOf(heads, rows, words) {
  const table = element("table");
  const line = (cells, tag) => {
    const row = element("tr");
    row.append(...cells.map((text, column) => element(tag, words.includes(column) ? "words" : "", text)));
    return row;
  };
  const [head, body] = [element("thead"), element("tbody")];
  head.append(line(heads, "th"));
  body.append(...rows.map((cells) => line(cells, "td")));
  table.append(head, body);
  return table;
}

/** Places and texts of an axis of time, `min` to `max` in ms. */
function ticks(min, max, width, ctx) {
  const rough = (max - min) / Math.max(1, width / 90);
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((by) => by * power).find((by) => by >= rough);
  const told = [];
  for (let at = Math.ceil(min / step) * step; at <= max; at += step) {
    const text =
      step >= 1000 ? `${Math.round(at / 1000)} s`
      : step >= 1 ? `${(at / 1000).toFixed(step >= 100 ? 1 : step >= 10 ? 2 : 3)} s`
      : `${at.toFixed(2)} ms`;
    const x = ((at - min) / (max - min)) * width;
    if (x + ctx.measureText(text).width < width + 20) told.push([x, text]);
  }
  return told;
}
