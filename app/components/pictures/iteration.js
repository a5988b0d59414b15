// One iteration as a picture: who computed what, its five steps, its point on the roofline, what was predicted, the
// blocks it touched and what the scheduler decided. Plays on through those around it.

const ROW = 18;
const LABEL = 112;
const FEW = 3; // pixels that one token takes at least

class IterationPicture {
  constructor(host, data) {
    this.address = new Kept("iteration");
    this.root = element("section", "picture", "", { "aria-label": "One iteration" });
    this.root.addEventListener("keydown", (event) => this.player.key(event));
    host.append(this.root);
    this.player = new Player({
      label: "Which iteration",
      show: (index) => this.show(index),
      beyond: (iteration) => this.ask(iteration),
    });
    this.longest = element("button", "quiet", "The longest", {
      type: "button",
      title: "The iteration that took longest",
    });
    this.longest.addEventListener("click", () => this.player.ask(this.data.longest));
    this.player.root.append(this.longest);
    this.sentence = element("p", "", "", { "aria-live": "polite" });
    const columns = element("div", "columns");
    const [left, right] = [element("div"), element("div")];
    columns.append(left, right);
    left.append(element("h4", "", "Batch: who computed what"), this.legend());
    this.scroll = element("div", "scrolls", "", { tabindex: "0", "aria-label": "The batch, a bar for each request" });
    left.append(this.scroll);
    this.nobody = element("p", "told");
    left.append(this.nobody);
    this.batch = new Surface(this.scroll, 60, "The batch", (ctx, width) => this.paintBatch(ctx, width));
    this.times = new IterationTimes(right);
    this.blocks = element("p");
    right.append(element("h4", "", "KV blocks touched"), this.blocks);
    this.decided = element("ul");
    this.rows = element("div", "scrolls", "", { tabindex: "0", "aria-label": "Every request of the batch" });
    const details = element("details");
    details.append(element("summary", "", "The batch as a table"), this.rows);
    details.addEventListener("toggle", () => this.fillRows());
    this.table = details;
    this.every = element("div", "scrolls", "", { tabindex: "0", "aria-label": "Every column of the row" });
    const all = element("details");
    all.append(element("summary", "", "Every column of the row"), this.every);
    all.addEventListener("toggle", () => this.fillEvery());
    this.row = all;
    this.root.append(this.player.root, this.player.slider, this.sentence, columns,
      element("h4", "", "What the scheduler decided"), this.decided, details, all);
    this.tip = new Tip(this.root);
    this.batch.canvas.addEventListener("pointermove", (event) => this.point(event));
    this.batch.canvas.addEventListener("pointerleave", () => this.tip.hide());
    this.batch.canvas.addEventListener("click", (event) => this.open(event));
    this.update(data);
  }

  legend() {
    const legend = element("div", "legend");
    const mark = (colour, text, kind = "") => {
      const swatch = element("i", "swatch " + kind);
      swatch.style.setProperty("--mark", `var(--${colour})`);
      const item = element("span");
      item.append(swatch, text);
      legend.append(item);
    };
    mark("grid", "in the KV cache before");
    mark("kv-used", "of it from the prefix cache", "hatched");
    mark("prefill", "prefill");
    mark("decode", "decode");
    mark("draft", "draft, accepted");
    mark("draft", "draft, rejected", "hollow");
    return legend;
  }

  update(data) {
    const same = sameWindow(this.data, data);
    this.data = data;
    dress(this.root, data.palette);
    this.columns = columnsOf(data.steps);
    this.slices = columnsOf(data.slices);
    this.longest.disabled = !Number.isFinite(data.longest);
    const known = this.kept();
    this.player.load(this.columns, data.first, data.last, same ? this.player.at(this.index) : data.iteration);
    if (known?.playing && !this.player.playing) this.player.start();
    if (known?.focused) this.player.button.focus();
  }

  /** What a picture before this one left, if it asked the page for other iterations. */
  kept() {
    const left = IterationPicture.left;
    IterationPicture.left = null;
    return left && left.run === this.data.run ? left : null;
  }

  /** Ask the page for iterations that are not loaded. */
  ask(iteration) {
    const focused = Boolean(this.root.getRootNode().activeElement);
    IterationPicture.left = { run: this.data.run, playing: this.player.playing, focused };
    this.tell?.("asked", { ...selected(), iteration: String(iteration) });
  }

  show(index) {
    this.index = index;
    const iteration = this.player.at(index);
    this.from = lowerBound(this.slices.iteration, iteration);
    this.to = lowerBound(this.slices.iteration, iteration + 1);
    this.sentence.textContent = this.data.sentences[index];
    const decided = this.data.decisions[iteration] || ["Nothing out of the ordinary: the same requests went on."];
    this.decided.replaceChildren(...decided.map((text) => element("li", "", text)));
    const touched = this.data.touched[iteration];
    this.blocks.textContent = this.data.recorded
      ? touched || "None: every token went into a block that was there."
      : "Not recorded: set recording to full and run again.";
    this.nobody.textContent = this.to > this.from ? "" : this.data.recorded
      ? "Nobody computed anything in this iteration."
      : `Who computed what was not recorded (recording: ${this.data.recording}). Set recording to full and run again.`;
    this.batch.height = Math.max(1, this.to - this.from) * ROW + 4;
    this.batch.draw();
    this.times.show(this.columns, index, this.data);
    this.fillRows();
    this.fillEvery();
    this.tip.hide();
    this.address.set(iteration);
    const [begun, ended] = ["start_ns", "end_ns"].map((name) => Number(this.player.steps[name][index]) / 1e6);
    lead(this.data.run, iteration, begun, ended);
  }

  /** Pixels per token of what was there before, and of what this iteration computed. */
  scales(width) {
    let [context, computed] = [1, 1];
    for (let row = 0; row < this.slices.rows; row++) {
      context = Math.max(context, this.slices.context_len[row]);
      computed = Math.max(computed, this.slices.tokens[row]);
    }
    const room = Math.max(60, width - LABEL - 8);
    const right = Math.min(0.6 * room, FEW * 8 * computed);
    return {
      left: LABEL,
      context: (room - right) / context,
      now: LABEL + (room - right) + 4,
      computed: (right - 4) / computed,
    };
  }

  paintBatch(ctx, width) {
    const { palette } = this.data;
    const { slices } = this;
    const at = this.scales(width);
    for (let row = this.from; row < this.to; row++) {
      const y = (row - this.from) * ROW + 3;
      const high = ROW - 6;
      ctx.fillStyle = palette.text;
      ctx.fillText(fitted(ctx, this.named(slices.request[row]), LABEL - 10), 0, y + high / 2);
      if (slices.request[row] === this.data.request) ctx.fillRect(LABEL - 8, y, 3, high);
      const before = slices.context_len[row] * at.context;
      ctx.fillStyle = palette.grid;
      ctx.fillRect(at.left, y, before, high);
      hatch(ctx, at.left, y, slices.cached[row] * at.context, high, palette.kv_used);
      this.paintNow(ctx, row, at.now, y, high, at.computed);
    }
  }

  paintNow(ctx, row, x, y, high, scale) {
    const { palette } = this.data;
    const { tokens, drafted, accepted, kind } = this.slices;
    const own = (tokens[row] - drafted[row]) * scale;
    ctx.fillStyle = KINDS[kind[row]] === "prefill" ? palette.prefill : palette.decode;
    ctx.fillRect(x, y, Math.max(2, own), high);
    if (!drafted[row]) return;
    const taken = accepted[row] * scale;
    ctx.fillStyle = palette.draft;
    ctx.fillRect(x + own, y, taken, high);
    ctx.strokeStyle = palette.draft;
    ctx.lineWidth = 1.5;
    const rest = (drafted[row] - accepted[row]) * scale;
    if (rest > 2) ctx.strokeRect(x + own + taken + 0.75, y + 0.75, rest - 1.5, high - 1.5);
  }

  named(request) {
    const [name] = this.data.names[request] || [];
    return name ? `${request} ${name}` : `request ${request}`;
  }

  rowAt(event) {
    const row = this.from + Math.floor(this.batch.place(event)[1] / ROW);
    return row < this.to ? row : -1;
  }

  point(event) {
    const row = this.rowAt(event);
    if (row < 0) return this.tip.hide();
    const { slices } = this;
    const request = slices.request[row];
    const [name, group] = this.data.names[request] || [];
    const lines = [`Request ${request}${name ? ` (${name})` : ""}`];
    if (group) lines.push(`group ${group}`);
    lines.push(`${KINDS[slices.kind[row]]}: ${whole(slices.tokens[row])} tokens computed, ` +
      `${whole(slices.emitted[row])} given out`);
    lines.push(`${whole(slices.context_len[row])} in the KV cache before, ` +
      `${whole(slices.cached[row])} of them from the prefix cache`);
    if (slices.drafted[row]) lines.push(`${slices.drafted[row]} drafted, ${slices.accepted[row]} accepted`);
    if (slices.itl_ms[row] >= 0) lines.push(`${milliseconds(slices.itl_ms[row])} since its token before`);
    lines.push("Click: open the request");
    this.tip.show(event, lines);
    return undefined;
  }

  open(event) {
    const row = this.rowAt(event);
    if (row < 0) return;
    const number = this.slices.request[row];
    const also = { ...selected(), iteration: String(this.player.at(this.index)) };
    this.tell?.("opened", { opens: "request", number, selected: also });
  }

  fillRows() {
    if (!this.table.open) return;
    const names = ["tokens", "context_len", "cached", "drafted", "accepted", "emitted", "itl_ms"];
    const head = ["request", "kind", "tokens", "context", "cached", "drafted", "accepted", "emitted", "ITL, ms"];
    const body = [];
    for (let row = this.from; row < this.to; row++) {
      const cells = names.map((name) => {
        const value = this.slices[name][row];
        return name !== "itl_ms" ? whole(value) : value < 0 ? DASH : value.toFixed(1);
      });
      body.push([this.named(this.slices.request[row]), KINDS[this.slices.kind[row]], ...cells]);
    }
    this.rows.replaceChildren(tableOf(head, body, [0, 1]));
  }

  fillEvery() {
    if (!this.row.open) return;
    const body = this.data.columns.map(([name, unit, help, origin]) => {
      const value = this.data.steps.getChild(name)?.get(this.index); // null where there is none
      const text =
        value === null || value === undefined ? DASH
        : typeof value === "string" ? value
        : Number(value).toLocaleString("en-US");
      return [name, text, unit, help, origin];
    });
    this.every.replaceChildren(tableOf(["column", "value", "unit", "meaning", "is"], body, [0, 2, 3, 4]));
  }

  destroy() {
    this.player.stop();
    this.address.stop();
    this.batch.destroy();
    this.times.destroy();
    this.root.remove();
  }
}

export default mounting(IterationPicture);
