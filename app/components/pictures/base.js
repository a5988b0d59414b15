// What all pictures of recorded runs share: a canvas that fits its place and its screen, a tip beside the pointer, a clock that
// plays iterations, and the life of a picture in the page.

const KINDS = ["prefill", "decode", "verify"];
const FOLLOW = "servescope-iteration"; // an event of the document: pictures of one run show one iteration

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
    ctx.font = `12px ${getComputedStyle(this.canvas).fontFamily}`;
    ctx.textBaseline = "middle";
    this.paint(ctx, width, this.height);
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

/**
 * Previous, next, play, and which iteration is shown. `steps`: columns iteration, start_ns, end_ns. `show(index)` is told every
 * change, `beyond(iteration)` that one outside of them is asked for.
 */
class Player {
  constructor({ steps, first, last, show, beyond, label }) {
    Object.assign(this, { steps, first, last, show, beyond });
    this.index = 0;
    this.speed = 1;
    this.playing = false;
    this.calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
    this.root = element("div", "player", "", { role: "group", "aria-label": label });
    const button = (text, title, act) => {
      const made = element("button", "quiet", text, { type: "button", title });
      made.addEventListener("click", act);
      this.root.append(made);
      return made;
    };
    this.previous = button("‹ Previous", "The iteration before (arrow left)", () => this.step(-1));
    this.field = element("input", "number", "", { type: "number", "aria-label": "Iteration", step: "1" });
    this.field.addEventListener("change", () => this.ask(Number(this.field.value)));
    this.root.append(this.field);
    this.told = element("span", "told");
    this.root.append(this.told);
    this.next = button("Next ›", "The iteration after (arrow right)", () => this.step(1));
    this.button = button("Play", "Play the run (space)", () => this.toggle());
    this.speeds = [1, 0.1].map((speed) => {
      const made = button(`${speed} ×`, speed === 1 ? "As fast as it ran" : "Ten times slower", () => this.setSpeed(speed));
      return [speed, made];
    });
    this.slider = element("input", "slider", "", { type: "range", "aria-label": "Iteration, within those loaded", step: "1" });
    this.slider.addEventListener("input", () => this.turn(Number(this.slider.value) - this.at(0)));
    this.setSpeed(1);
  }

  at(index) {
    return Number(this.steps.iteration[index]);
  }

  /** New steps around the iteration that is shown, or around another. */
  load(steps, first, last, iteration) {
    Object.assign(this, { steps, first, last, waits: false, since: null });
    for (const [name, value] of [["min", first], ["max", last]]) this.field.setAttribute(name, String(value));
    this.told.textContent = `of ${whole(first)} to ${whole(last)}`;
    this.slider.min = String(this.at(0));
    this.slider.max = String(this.at(steps.rows - 1));
    this.turn(lowerBound(steps.iteration, iteration));
  }

  /** Show the iteration at an index of those loaded. */
  turn(index) {
    this.index = Math.max(0, Math.min(this.steps.rows - 1, index));
    const shown = this.at(this.index);
    this.field.value = String(shown);
    this.slider.value = String(shown);
    this.previous.disabled = shown <= this.first;
    this.next.disabled = shown >= this.last;
    this.show(this.index);
  }

  /** Show an iteration by its number, loaded or not. */
  ask(iteration) {
    if (!Number.isFinite(iteration)) return this.turn(this.index);
    const asked = Math.max(this.first, Math.min(this.last, Math.round(iteration)));
    const index = lowerBound(this.steps.iteration, asked);
    if (this.at(Math.min(index, this.steps.rows - 1)) === asked) return this.turn(index);
    return this.beyond(asked);
  }

  step(by) {
    this.stop();
    this.move(by);
  }

  move(by) {
    const to = this.index + by;
    if (to >= 0 && to < this.steps.rows) return this.turn(to);
    const asked = this.at(this.index) + by;
    if (asked >= this.first && asked <= this.last) return this.beyond(asked);
    return this.stop();
  }

  setSpeed(speed) {
    this.speed = speed;
    for (const [of, button] of this.speeds) button.setAttribute("aria-pressed", String(of === speed));
  }

  toggle() {
    if (this.playing) this.stop();
    else this.start();
  }

  start() {
    this.playing = true;
    this.button.textContent = "Pause";
    this.since = null;
    requestAnimationFrame((now) => this.tick(now));
  }

  stop() {
    this.playing = false;
    this.button.textContent = "Play";
  }

  /** Go on by the time that passed, at the run's own pace; readers who want less motion see two iterations a second at most. */
  tick(now) {
    if (!this.playing || !this.root.isConnected) return;
    this.since ??= now;
    const passed = (now - this.since) * this.speed * 1e6;
    let index = this.index;
    const begun = Number(this.steps.start_ns[index]);
    while (index + 1 < this.steps.rows && Number(this.steps.start_ns[index + 1]) - begun <= passed) index++;
    const waited = !this.calm || now - this.since >= 500;
    if (index + 1 === this.steps.rows && Number(this.steps.end_ns[index]) - begun <= passed) {
      if (!this.waits) this.move(this.steps.rows - this.index);
      this.waits = true; // for those that come next; asked for once
    } else if (index > this.index && waited) {
      this.since = now;
      this.turn(index);
    }
    requestAnimationFrame((then) => this.tick(then));
  }

  /** Arrow keys and space, wherever the keyboard is within the picture. */
  key(event) {
    if (event.target instanceof HTMLInputElement || event.altKey || event.ctrlKey || event.metaKey) return;
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (by) this.step(by);
    else if (event.key === " " && !(event.target instanceof HTMLButtonElement)) this.toggle();
    else return;
    event.preventDefault();
  }
}

const pictures = new WeakMap();

/**
 * The function that Streamlit calls whenever data or theme change. It runs only the newest cleanup, and a superseded call's
 * cleanup may also run right after a newer call; so a picture ends only if no newer call follows.
 */
function mounting(Picture) {
  return ({ parentElement, data, setTriggerValue }) => {
    let entry = pictures.get(parentElement);
    if (entry && !entry.picture.gone) entry.picture.update(data);
    else {
      entry = { picture: new Picture(parentElement, data), calls: 0 };
      pictures.set(parentElement, entry);
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
  for (const [name, colour] of Object.entries(palette)) root.style.setProperty(`--${name.replaceAll("_", "-")}`, colour);
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
    const text = step >= 1000 ? `${Math.round(at / 1000)} s` : step >= 1 ? `${(at / 1000).toFixed(step >= 100 ? 1 : step >= 10 ? 2 : 3)} s` : `${at.toFixed(2)} ms`;
    const x = ((at - min) / (max - min)) * width;
    if (x + ctx.measureText(text).width < width + 20) told.push([x, text]);
  }
  return told;
}
