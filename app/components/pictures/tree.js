// The prefix tree while iterations are played: as long as its tokens, as high as the requests that used it, and in each
// stretch how many of its blocks are in use, cached, evicted, or not computed yet.

const STATES = ["not computed yet", "in use", "cached", "evicted"];
const HEIGHT = 300;
const FOOT = 24;

class TreePicture {
  constructor(host, data) {
    this.root = element("section", "picture", "", { "aria-label": "Prefix tree" });
    host.append(this.root);
    this.told = element("p", "told");
    this.legend = element("div", "legend");
    ["grid", "kv-used", "kv-cached", "ghost"].forEach((colour, state) => {
      const swatch = element("i", "swatch");
      swatch.style.setProperty("--mark", `var(--${colour})`);
      const item = element("span");
      item.append(swatch, STATES[state]);
      this.legend.append(item);
    });
    this.root.append(this.told, this.legend);
    const paint = (ctx, width, height) => this.paint(ctx, width, height);
    this.surface = new Surface(this.root, HEIGHT, "Prefix tree", paint);
    this.tip = new Tip(this.root);
    this.surface.canvas.addEventListener("pointermove", (event) => this.point(event));
    this.surface.canvas.addEventListener("pointerleave", () => this.tip.hide());
    this.following = ({ detail }) => detail.run === this.data.run && this.seek(detail.iteration);
    document.addEventListener(FOLLOW, this.following);
    this.update(data);
  }

  update(data) {
    this.data = data;
    dress(this.root, data.palette);
    [this.spans, this.events] = [data.spans, data.events].map(columnsOf);
    this.longest = this.spans.rows ? Math.max(...this.spans.until) : 1;
    this.tallest = this.spans.rows ? Math.max(...this.spans.bottom) : 1;
    this.rewind();
    this.seek(document[FOLLOW]?.run === data.run ? document[FOLLOW].iteration : data.iteration);
  }

  rewind() {
    this.counts = new Int32Array(4 * this.spans.rows);
    for (let span = 0; span < this.spans.rows; span++) this.counts[4 * span] = this.spans.blocks[span];
    this.done = 0;
    this.iteration = -1;
  }

  /** The tree as it was after an iteration. */
  seek(iteration) {
    if (iteration < this.iteration) this.rewind();
    const { events } = this;
    for (; this.done < events.rows && events.iteration[this.done] <= iteration; this.done++) {
      const at = 4 * events.span[this.done];
      this.counts[at + events.before[this.done]]--;
      this.counts[at + events.after[this.done]]++;
    }
    this.iteration = iteration;
    const total = [0, 0, 0, 0];
    this.counts.forEach((count, at) => (total[at % 4] += count));
    this.told.textContent = `After iteration ${whole(iteration)}: ` +
      [1, 2, 3, 0].map((state) => `${whole(total[state])} blocks ${STATES[state]}`).join(", ") + ".";
    this.root.dataset.counts = total.join();
    this.surface.canvas.setAttribute("aria-label", "Prefix tree. " + this.told.textContent);
    this.surface.draw();
  }

  /** Where a stretch lies. */
  box(span, width) {
    const [wide, high] = [width / this.longest, (HEIGHT - FOOT) / this.tallest];
    const { first, until, top, bottom } = this.spans;
    const size = [(until[span] - first[span]) * wide, (bottom[span] - top[span]) * high];
    return [first[span] * wide, top[span] * high, ...size];
  }

  paint(ctx, width, height) {
    const { palette } = this.data;
    const colours = [palette.grid, palette.kv_used, palette.kv_cached, palette.ghost];
    for (let span = 0; span < this.spans.rows; span++) {
      const [x, y, wide, high] = this.box(span, width);
      const tall = Math.max(0.5, high - (high > 3 ? 1 : 0));
      let from = x;
      for (const state of [1, 2, 3, 0]) {
        const part = (wide * this.counts[4 * span + state]) / this.spans.blocks[span];
        ctx.fillStyle = state ? colours[state] : faded(colours[0], 0.6);
        ctx.fillRect(from, y, Math.max(0, part - (wide > 3 ? 1 : 0)), tall);
        from += part;
      }
    }
    ctx.fillStyle = palette.muted;
    const bottom = height - FOOT;
    for (const share of [0, 0.25, 0.5, 0.75, 1]) {
      const text = whole(Math.round(share * this.longest)) + (share === 1 ? " tokens" : "");
      ctx.fillText(text, Math.min(share * width, width - ctx.measureText(text).width), bottom + 12);
    }
  }

  point(event) {
    const [x, y] = this.surface.place(event);
    const width = this.surface.canvas.clientWidth;
    for (let span = this.spans.rows - 1; span >= 0; span--) {
      const [left, top, wide, high] = this.box(span, width);
      if (x < left || x > left + wide || y < top || y > top + Math.max(1, high)) continue;
      const { first, until, requests, blocks, text } = this.spans;
      const now = [1, 2, 3, 0].filter((state) => this.counts[4 * span + state])
        .map((state) => `${whole(this.counts[4 * span + state])} ${STATES[state]}`);
      const lines = [`Tokens ${whole(first[span])} to ${whole(until[span] - 1)}`,
        `used by ${whole(requests[span])} requests over the run`, `${whole(blocks[span])} blocks: ${now.join(", ")}`];
      if (text[span]) lines.push(`“${text[span]}”`);
      this.tip.show(event, lines);
      return;
    }
    this.tip.hide();
  }

  destroy() {
    document.removeEventListener(FOLLOW, this.following);
    this.surface.destroy();
    this.root.remove();
  }
}

export default mounting(TreePicture);
