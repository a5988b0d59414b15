// One request from arrival to end: what it waited for, every step that computed for it, and the time before each of its
// tokens.

const LANES = [["waited", 18], ["computed", 18], ["time before each token", 120]];
const LANE_GAP = 22;

class WaterfallPicture {
  constructor(host, data) {
    this.root = element("section", "picture", "", { "aria-label": "One request over time" });
    host.append(this.root);
    this.told = element("p", "told");
    this.legend = element("div", "legend");
    const place = element("div");
    place.style.position = "relative";
    this.root.append(this.told, this.legend, place);
    const high = LANES.reduce((sum, [, lane]) => sum + lane + LANE_GAP, 0) + 22;
    this.surface = new Surface(place, high, "One request over time", (ctx, width, height) =>
      this.paint(ctx, width, height));
    this.tip = new Tip(place);
    const { canvas } = this.surface;
    canvas.addEventListener("pointermove", (event) => this.point(event));
    canvas.addEventListener("pointerleave", () => this.tip.hide());
    canvas.addEventListener("pointerdown", (event) => (this.from = this.surface.place(event)[0]));
    canvas.addEventListener("pointerup", (event) => this.released(this.surface.place(event)[0]));
    canvas.addEventListener("dblclick", () => this.zoom(this.data.row.arrival_ms, this.data.row.end_ms));
    this.shared = new SharedView("request", ([min, max]) => this.zoom(min, max));
    this.update(data);
  }

  update(data) {
    const other = !this.data || this.data.row.request !== data.row.request;
    this.data = data;
    dress(this.root, data.palette);
    this.gaps = new Map(data.gaps.map((gap) => [gap.iteration, gap]));
    this.longest = Math.max(1e-6, ...data.gaps.map((gap) => gap.itl_ms));
    const { row } = data;
    const tokens = data.parts.filter((part) => part.emitted).length;
    this.told.textContent = `Request ${row.request} (${row.request_id}): ${whole(data.parts.length)} steps, ` +
      `${whole(row.output_tokens)} tokens in ${whole(tokens)} emissions. ` +
      "Drag over a stretch of time to see it larger; a double click shows all of it.";
    this.fillLegend();
    if (other) this.zoom(row.arrival_ms, row.end_ms);
    else this.surface.draw();
  }

  fillLegend() {
    const { spells, gaps, colours, waits, parts, palette } = this.data;
    const marks = [];
    for (const reason of Object.keys(waits)) {
      if (spells.some((spell) => spell.reason === reason)) marks.push([colours[reason], `waits: ${waits[reason]}`]);
    }
    for (const kind of new Set(parts.map((part) => part.kind))) marks.push([this.of(kind, palette), kind]);
    for (const [kind, text] of Object.entries(this.data.kinds)) {
      if (gaps.some((gap) => gap[kind + "_ms"] > 0)) marks.push([colours[kind], text]);
    }
    this.legend.replaceChildren(...marks.map(([colour, text]) => {
      const swatch = element("i", "swatch");
      swatch.style.setProperty("--mark", colour);
      const item = element("span");
      item.append(swatch, text);
      return item;
    }));
  }

  of(kind, palette) {
    return { prefill: palette.prefill, decode: palette.decode, verify: palette.draft }[kind];
  }

  zoom(min, max) {
    [this.min, this.max] = [min, Math.max(max, min + 0.001)];
    this.shared.say([this.min, this.max]);
    this.surface.draw();
  }

  released(to) {
    const { from } = this;
    this.from = null;
    if (from === null || from === undefined || Math.abs(to - from) < 6) return;
    const time = (x) => this.min + (x / this.surface.canvas.clientWidth) * (this.max - this.min);
    this.zoom(time(Math.min(from, to)), time(Math.max(from, to)));
  }

  paint(ctx, width, height) {
    const { palette, colours, spells, parts, kinds } = this.data;
    const x = (time) => ((time - this.min) / (this.max - this.min)) * width;
    const bar = (colour, since, until, y, high) => {
      if (until < this.min || since > this.max) return;
      ctx.fillStyle = colour;
      ctx.fillRect(x(since), y, Math.max(1, x(until) - x(since) - 0.5), high);
    };
    this.tops = [];
    let y = 0;
    for (const [name, high] of LANES) {
      ctx.fillStyle = palette.muted;
      ctx.fillText(name + (high > 50 ? `, at most ${milliseconds(this.longest)}` : ""), 0, y + 9);
      this.tops.push(y + LANE_GAP - 4);
      y += high + LANE_GAP;
    }
    for (const spell of spells) bar(colours[spell.reason], spell.since_ms, spell.until_ms, this.tops[0], LANES[0][1]);
    const floor = this.tops[2] + LANES[2][1];
    for (const part of parts) {
      bar(this.of(part.kind, palette), part.start_ms, part.end_ms, this.tops[1], LANES[1][1]);
      const gap = this.gaps.get(part.iteration);
      if (!gap) continue;
      let base = floor;
      for (const kind of Object.keys(kinds)) {
        const high = (Math.max(0, gap[kind + "_ms"]) / this.longest) * LANES[2][1];
        base -= high;
        ctx.fillStyle = colours[kind];
        const left = x(part.end_ms - gap.itl_ms);
        ctx.fillRect(left + 0.5, base, Math.max(1, x(part.end_ms) - left - 1), high);
      }
    }
    ctx.fillStyle = palette.text;
    for (const part of parts) if (part.emitted) ctx.fillRect(x(part.end_ms) - 0.5, floor, 1.25, 5);
    ctx.fillStyle = palette.muted;
    for (const [at, text] of ticks(this.min, this.max, width, ctx)) {
      ctx.fillText(text, Math.min(at, width - ctx.measureText(text).width), height - 8);
    }
  }

  point(event) {
    const [px, py] = this.surface.place(event);
    const time = this.min + (px / this.surface.canvas.clientWidth) * (this.max - this.min);
    const { spells, parts, waits } = this.data;
    if (py < this.tops[1] - LANE_GAP / 2) {
      const spell = spells.find(({ since_ms: since, until_ms: until }) => since <= time && time <= until);
      if (!spell) return this.tip.hide();
      const waited = `waited ${milliseconds(spell.until_ms - spell.since_ms)}`;
      return this.tip.show(event, [waited, `for: ${waits[spell.reason]}`]);
    }
    const inGaps = py > this.tops[2] - LANE_GAP / 2;
    const begin = (part) =>
      inGaps && this.gaps.has(part.iteration) ? part.end_ms - this.gaps.get(part.iteration).itl_ms : part.start_ms;
    const part = parts.find((one) => begin(one) <= time && time <= one.end_ms);
    if (!part) return this.tip.hide();
    return this.tip.show(event, this.about(part));
  }

  about(part) {
    const lines = [`iteration ${part.iteration}: ${part.kind}, ${whole(part.tokens)} tokens computed`];
    if (part.drafted) lines.push(`${part.drafted} drafted, ${part.accepted} accepted`);
    if (part.emitted) {
      const last = part.tokens_so_far;
      const which = part.emitted > 1 ? `tokens ${last - part.emitted + 1} to ${last}` : `token ${last}`;
      lines.push(`${which} at ${milliseconds(part.end_ms)}` +
        (part.itl_ms ? `, ${milliseconds(part.itl_ms)} after the one before` : ""));
    }
    const gap = this.gaps.get(part.iteration);
    if (gap) {
      for (const [kind, text] of Object.entries(this.data.kinds)) {
        if (gap[kind + "_ms"] > 0) lines.push(`${milliseconds(gap[kind + "_ms"])} ${text}`);
      }
    }
    if (part.prefill_beside) {
      const requests = part.prompts_beside === 1 ?
        `request ${part.most_beside}` :
        `${part.prompts_beside} requests, most of request ${part.most_beside}`;
      lines.push(`beside it ${whole(part.prefill_beside)} prompt tokens of ${requests}`);
    }
    return lines;
  }

  destroy() {
    this.shared.stop();
    this.surface.destroy();
    this.root.remove();
  }
}

export default mounting(WaterfallPicture);
