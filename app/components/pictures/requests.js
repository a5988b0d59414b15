// All requests of a run, a line each: queued, prefill, decode, preempted, and whether the objective was missed. Draws
// the rows in sight only, so ten thousand of them move as easily as ten.

const PARTS = ["queued", "prefill", "decode", "preempted", "swapped out", "SLO missed"];
const SIGHT = 420; // pixels of rows in sight
const AXIS = 24;
const MOST_IN_A_LINE = 4; // rows drawn over each other in one line of pixels
const TALL = 16; // pixels of a row that can be read
const ORDERS = [
  ["arrival", "arrival"],
  ["waited", "longest wait first"],
  ["ttft", "longest TTFT first"],
  ["e2e", "longest E2E first"],
  ["group", "group"],
];

class RequestsPicture {
  constructor(host, data) {
    this.root = element("section", "picture", "", { "aria-label": "Requests over time" });
    host.append(this.root);
    this.bar = element("div", "filters", "", { role: "group", "aria-label": "Which requests, in which order" });
    this.order = this.choice("Order", ORDERS);
    this.group = this.choice("Group", [["", "all"]]);
    this.missed = this.check("SLO missed");
    this.thrown = this.check("preempted");
    this.fit = element("button", "quiet", "", { type: "button" });
    this.fit.addEventListener("click", () => this.setFit(!this.fits));
    this.whole = element("button", "quiet", "Whole run", { type: "button", title: "Show the whole time again" });
    this.whole.addEventListener("click", () => this.zoom(0, this.end));
    this.bar.append(this.fit, this.whole);
    this.told = element("p", "told", "", { "aria-live": "polite" });
    const legend = element("div", "legend");
    ["ghost", "prefill", "decode", "stall", "mixed", "text"].forEach((colour, at) => {
      const swatch = element("i", "swatch");
      swatch.style.setProperty("--mark", `var(--${colour})`);
      const item = element("span");
      item.append(swatch, PARTS[at]);
      legend.append(item);
    });
    this.place = element("div", "", "", { tabindex: "0", "aria-label": "Requests, a line each; arrow keys scroll" });
    this.place.style.cssText = "position: relative; overflow-y: auto; overflow-x: hidden;";
    this.spacer = element("div");
    this.root.append(this.bar, this.told, legend, this.place);
    this.surface = new Surface(this.place, SIGHT, "Requests over time", (ctx, width, height) =>
      this.paint(ctx, width, height));
    this.surface.canvas.style.position = "sticky";
    this.surface.canvas.style.top = "0";
    this.place.append(this.spacer);
    this.place.addEventListener("scroll", () => this.surface.draw());
    this.tip = new Tip(this.root);
    this.listen();
    this.following = ({ detail }) => this.follow(detail);
    if (data.follows) document.addEventListener(FOLLOW, this.following);
    this.update(data);
    this.shared = new SharedView("requests", ([min = 0, max = this.end]) => this.zoom(min, max));
  }

  choice(title, options) {
    const [label, select] = [element("label", "", title), element("select", "", "", { "aria-label": title })];
    const fill = (entries) =>
      select.replaceChildren(...entries.map(([value, text]) => element("option", "", text, { value })));
    fill(options);
    select.addEventListener("change", () => this.arrange());
    label.append(select);
    this.bar.append(label);
    return { select, fill };
  }

  check(title) {
    const [label, box] = [element("label"), element("input", "", "", { type: "checkbox" })];
    box.addEventListener("change", () => this.arrange());
    label.append(box, title);
    this.bar.append(label);
    return box;
  }

  listen() {
    const { canvas } = this.surface;
    canvas.addEventListener("pointermove", (event) => this.point(event));
    canvas.addEventListener("pointerleave", () => this.tip.hide());
    canvas.addEventListener("pointerdown", (event) => (this.from = this.surface.place(event)[0]));
    canvas.addEventListener("dblclick", () => this.zoom(0, this.end));
    canvas.addEventListener("pointerup", (event) => {
      const from = this.from;
      this.from = null;
      const to = this.surface.place(event)[0];
      if (from !== null && from !== undefined && Math.abs(to - from) > 6) {
        this.zoom(this.time(Math.min(from, to)), this.time(Math.max(from, to)));
      } else this.open(event);
    });
  }

  update(data) {
    this.data = data;
    dress(this.root, data.palette);
    this.rows = columnsOf(data.requests);
    const groups = [...new Set(this.rows.group)].sort();
    const chosen = this.group.select.value;
    this.group.fill([["", "all"], ...groups.filter(Boolean).map((name) => [name, name])]);
    this.group.select.value = groups.includes(chosen) ? chosen : "";
    this.thrownOut = new Map();
    const thrown = columnsOf(data.preempted);
    for (let row = 0; row < thrown.rows; row++) {
      const request = thrown.request[row];
      if (!this.thrownOut.has(request)) this.thrownOut.set(request, []);
      this.thrownOut.get(request).push([thrown.since_ms[row], thrown.until_ms[row], thrown.swapped?.[row]]);
    }
    this.chosen = data.request ?? -1;
    this.end = 1;
    for (let row = 0; row < this.rows.rows; row++) this.end = Math.max(this.end, this.rows.end_ms[row]);
    if (this.min === undefined) [this.min, this.max] = data.range || [0, this.end];
    this.arrange();
    if (this.fits === undefined) this.setFit(this.shown.length * TALL > SIGHT);
    if (data.follows && document[FOLLOW]) this.follow(document[FOLLOW]);
  }

  /** Mark the iteration that another picture of the run shows. */
  follow({ run, start_ms, end_ms }) {
    if (run !== this.data.run || start_ms === undefined) return;
    this.data = { ...this.data, iteration: { start_ms, end_ms } };
    this.surface.draw();
  }

  /** Which rows are shown, in which order. */
  arrange() {
    const { rows } = this;
    const group = this.group.select.value;
    const shown = [];
    for (let row = 0; row < rows.rows; row++) {
      if (group && rows.group[row] !== group) continue;
      if (this.missed.checked && !(rows.missed[row] > 0)) continue;
      if (this.thrown.checked && !rows.preemptions[row]) continue;
      shown.push(row);
    }
    const until = (name, row) => (rows[name][row] < 0 ? rows.end_ms[row] : rows[name][row]) - rows.arrival_ms[row];
    const by = {
      waited: (row) => -until("scheduled_ms", row),
      ttft: (row) => -until("first_ms", row),
      e2e: (row) => -until("end_ms", row),
    }[this.order.select.value];
    if (by) shown.sort((one, other) => by(one) - by(other));
    else if (this.order.select.value === "group") {
      shown.sort((one, other) => rows.group[one].localeCompare(rows.group[other]) || one - other);
    }
    this.shown = shown;
    this.root.dataset.shown = String(shown.length);
    const missed = shown.filter((row) => rows.missed[row] > 0).length;
    const known = shown.some((row) => rows.missed[row] >= 0);
    this.told.textContent = `${whole(shown.length)} of ${whole(rows.rows)} requests` +
      (known ? `, ${whole(missed)} missed the objective (${this.data.objective})` : "") +
      ". Drag over a stretch of time to see it larger; click a line to open its request.";
    this.surface.canvas.setAttribute("aria-label", "Requests over time. " + this.told.textContent);
    this.place.scrollTop = 0;
    this.measure();
    const at = shown.findIndex((row) => rows.request[row] === this.chosen);
    if (at >= 0) this.place.scrollTop = Math.max(0, at * this.row - SIGHT / 2);
  }

  setFit(fits) {
    this.fits = fits;
    this.fit.textContent = fits ? "Readable rows" : "All at once";
    this.fit.title = fits ? "A row of its own for each request, to scroll through" : "All requests in one picture";
    this.measure();
  }

  measure() {
    const count = Math.max(1, this.shown.length);
    const sight = Math.min(SIGHT, this.fits ? SIGHT : Math.max(3 * TALL, count * TALL));
    this.row = this.fits ? Math.min(TALL, sight / count) : TALL;
    this.surface.height = (this.fits ? Math.min(sight, count * this.row) : sight) + AXIS;
    this.place.style.maxHeight = this.surface.height + "px";
    this.spacer.style.height = Math.max(0, count * this.row + AXIS - this.surface.height) + "px";
    this.surface.draw();
  }

  zoom(min, max) {
    if (!(max - min > 0.001)) return;
    [this.min, this.max] = [min, max];
    this.surface.draw();
    const all = min <= 0 && max >= this.end;
    this.shared.say(all ? [] : [min, max]);
    rewrite((parameters) => {
      for (const [name, time] of [["from", min], ["to", max]]) {
        if (all) parameters.delete(name);
        else parameters.set(name, (time / 1000).toFixed(3));
      }
    });
  }

  time(x) {
    return this.min + (x / (this.surface.canvas.clientWidth || 1)) * (this.max - this.min);
  }

  /** Index in `shown` of the first row in sight, and of the one after the last. */
  inSight() {
    const first = Math.floor(this.place.scrollTop / this.row);
    const last = Math.min(this.shown.length, Math.ceil((this.place.scrollTop + this.surface.height - AXIS) / this.row));
    return [first, last];
  }

  /** Places in `shown` of the rows to draw. Where many share a line of pixels: the longest, and a few of the others. */
  drawn() {
    const [first, last] = this.inSight();
    const crowd = Math.floor(1 / this.row);
    if (crowd <= MOST_IN_A_LINE) return Array.from({ length: last - first }, (_, at) => first + at);
    const chosen = [];
    const took = (at) => this.rows.end_ms[this.shown[at]] - this.rows.arrival_ms[this.shown[at]];
    const stride = Math.ceil(crowd / (MOST_IN_A_LINE - 1));
    for (let begin = first; begin < last; begin += crowd) {
      let longest = begin;
      for (let at = begin; at < Math.min(last, begin + crowd); at++) {
        if ((at - begin) % stride === 0) chosen.push(at);
        if (took(at) > took(longest)) longest = at;
      }
      chosen.push(longest);
    }
    return chosen;
  }

  paint(ctx, width, height) {
    const { rows, shown } = this;
    const { palette } = this.data;
    const scale = width / (this.max - this.min);
    const drawn = this.drawn();
    const high = Math.max(1, this.row > 4 ? this.row - 2 : this.row);
    const bottom = height - AXIS;
    ctx.save();
    ctx.beginPath();
    ctx.rect(0, 0, width, bottom);
    ctx.clip();
    const bars = (colour, begin, end, thin = 1) => {
      ctx.fillStyle = colour;
      for (const at of drawn) {
        const row = shown[at];
        const from = begin(row);
        const to = end(row);
        if (!(to > from) || to < this.min || from > this.max) continue;
        const x = (from - this.min) * scale;
        const y = at * this.row - this.place.scrollTop;
        const tall = Math.max(1, high * thin);
        ctx.fillRect(x, y + (high - tall) / 2, Math.max(0.75, (to - from) * scale), tall);
      }
    };
    const or = (name) => (row) => (rows[name][row] < 0 ? rows.end_ms[row] : rows[name][row]);
    bars(palette.ghost, (row) => rows.arrival_ms[row], or("scheduled_ms"), 0.4);
    bars(palette.prefill, or("scheduled_ms"), or("first_ms"));
    bars(palette.decode, or("first_ms"), (row) => rows.end_ms[row]);
    this.paintPreempted(ctx, drawn, high, scale);
    ctx.fillStyle = palette.text;
    for (const at of drawn) {
      const row = shown[at];
      if (rows.missed[row] > 0) {
        ctx.fillRect((rows.end_ms[row] - this.min) * scale, at * this.row - this.place.scrollTop, 4, high);
      }
    }
    this.paintSelected(ctx, width, bottom, scale, high);
    ctx.restore();
    this.paintAxis(ctx, width, bottom);
  }

  /** The selected iteration as a stretch of time from top to bottom, the selected request in a frame. */
  paintSelected(ctx, width, bottom, scale, high) {
    const { iteration, palette } = this.data;
    if (iteration) {
      const x = (iteration.start_ms - this.min) * scale;
      ctx.fillStyle = faded(palette.accent, 0.5);
      ctx.fillRect(x, 0, Math.max(1.5, (iteration.end_ms - iteration.start_ms) * scale), bottom);
    }
    const at = this.shown.findIndex((row) => this.rows.request[row] === this.chosen);
    if (at < 0) return;
    ctx.strokeStyle = palette.accent;
    ctx.lineWidth = 2;
    ctx.strokeRect(1, at * this.row - this.place.scrollTop - 1, width - 2, Math.max(4, high + 2));
  }

  paintPreempted(ctx, drawn, high, scale) {
    const { palette } = this.data;
    for (const at of drawn) {
      const spells = this.thrownOut.get(this.rows.request[this.shown[at]]);
      if (!spells) continue;
      const y = at * this.row - this.place.scrollTop;
      for (const [since, until, swapped] of spells) {
        const x = (since - this.min) * scale;
        const wide = Math.max(1, (until - since) * scale);
        ctx.fillStyle = palette.background;
        ctx.fillRect(x, y, wide, high);
        ctx.fillStyle = swapped ? palette.mixed : palette.stall;
        ctx.fillRect(x, y + high * 0.2, wide, Math.max(1, high * 0.6));
      }
    }
  }

  paintAxis(ctx, width, bottom) {
    const { palette } = this.data;
    ctx.fillStyle = palette.muted;
    ctx.strokeStyle = palette.grid;
    ctx.beginPath();
    ctx.moveTo(0, bottom + 0.5);
    ctx.lineTo(width, bottom + 0.5);
    for (const [x, text] of ticks(this.min, this.max, width, ctx)) {
      ctx.moveTo(x, bottom);
      ctx.lineTo(x, bottom + 5);
      ctx.fillText(text, Math.min(x + 3, width - ctx.measureText(text).width), bottom + 14);
    }
    ctx.stroke();
  }

  rowAt(event) {
    const y = this.surface.place(event)[1];
    if (y > this.surface.height - AXIS) return -1;
    const at = Math.floor((y + this.place.scrollTop) / this.row);
    return at >= 0 && at < this.shown.length ? this.shown[at] : -1;
  }

  point(event) {
    const row = this.rowAt(event);
    if (row < 0) return this.tip.hide();
    const { rows } = this;
    const from = (name) => (rows[name][row] < 0 ? null : rows[name][row] - rows.arrival_ms[row]);
    const missed = ["met", "TTFT missed", "TPOT missed", "TTFT and TPOT missed"][rows.missed[row]];
    const lines = [`Request ${rows.request[row]} (${rows.request_id[row]})` +
      (rows.group[row] ? `, ${rows.group[row]}` : "")];
    lines.push(`arrived at ${milliseconds(rows.arrival_ms[row])}, waited ${milliseconds(from("scheduled_ms"))}`);
    lines.push(`TTFT ${milliseconds(from("first_ms"))}, E2E ${milliseconds(from("end_ms"))}`);
    lines.push(`${whole(rows.prompt_tokens[row])} prompt tokens, ${whole(rows.cached_tokens[row])} from the cache; ` +
      `${whole(rows.output_tokens[row])} output`);
    if (rows.preemptions[row]) lines.push(`preempted ${rows.preemptions[row]} times`);
    lines.push(`ended by ${rows.end_reason[row]}` + (missed ? `; objective ${missed}` : ""));
    this.tip.show(event, lines);
    return undefined;
  }

  open(event) {
    const row = this.rowAt(event);
    if (row < 0) return;
    this.tell?.("opened", { opens: "request", number: this.rows.request[row], selected: selected() });
  }

  destroy() {
    this.shared.stop();
    document.removeEventListener(FOLLOW, this.following);
    this.surface.destroy();
    this.root.remove();
  }
}

export default mounting(RequestsPicture);
