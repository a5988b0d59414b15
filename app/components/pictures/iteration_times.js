// Times of one iteration: its five steps, what was predicted against what was measured, and its point on the roofline.

const STEPS = ["schedule", "prepare", "forward", "sample", "finish"];

class IterationTimes {
  constructor(parent) {
    const add = (title, height, label, paint) => {
      parent.append(element("h4", "", title));
      return new Surface(parent, height, label, paint);
    };
    this.steps = add("Five steps, ms", 74, "Time of each step", (ctx, width) => this.paintSteps(ctx, width));
    this.bound = add("Predicted and measured", 74, "Least time predicted, and measured", (ctx, width) =>
      this.paintBound(ctx, width));
    this.roof = add("Roofline", 170, "Roofline", (ctx, width, height) => this.paintRoof(ctx, width, height));
  }

  /** `columns`: the steps loaded; `index`: which of them; `data`: palette and peaks. */
  show(columns, index, data) {
    Object.assign(this, { columns, index, data });
    for (const surface of [this.steps, this.bound, this.roof]) surface.draw();
  }

  value(name) {
    return Number(this.columns[name][this.index]);
  }

  paintSteps(ctx, width) {
    if (!this.data) return;
    const { palette } = this.data;
    const parts = STEPS.map((name) => this.value(name + "_ns") / 1e6);
    const colours = [palette.schedule, palette.prepare, this.kindColour(), palette.sample, palette.finish];
    const whole = Math.max(parts.reduce((sum, part) => sum + part, 0), 1e-9);
    let x = 0;
    parts.forEach((part, step) => {
      ctx.fillStyle = colours[step];
      ctx.fillRect(x, 4, Math.max(part > 0 ? 1 : 0, (part / whole) * width), 18);
      x += (part / whole) * width;
    });
    const drafting = this.value("draft_ns") / 1e6;
    const told = STEPS.map((name, step) => `${name} ${milliseconds(parts[step])}`);
    if (drafting > 0) told[0] += ` (drafting ${milliseconds(drafting)})`;
    this.writeLines(ctx, width, 38, told, colours);
    this.steps.canvas.setAttribute("aria-label", "Time of each step: " + told.join(", "));
  }

  /** Words with a mark of their colour, as many in a line as there is room for. */
  writeLines(ctx, width, y, words, colours) {
    let x = 0;
    words.forEach((text, at) => {
      const wide = ctx.measureText(text).width + 32;
      if (x && x + wide > width) {
        x = 0;
        y += 18;
      }
      ctx.fillStyle = colours[at];
      ctx.fillRect(x, y - 5, 10, 10);
      ctx.fillStyle = this.data.palette.muted;
      ctx.fillText(text, x + 15, y);
      x += wide;
    });
  }

  kindColour(index = this.index) {
    const { palette } = this.data;
    const [prefill, decode] = ["prefill_tokens", "decode_tokens"].map((name) => Number(this.columns[name][index]));
    return prefill && decode ? palette.mixed : prefill ? palette.prefill : palette.decode;
  }

  /** The least time at the device's peaks, the forward pass, and the whole iteration, on one scale. */
  paintBound(ctx, width) {
    if (!this.data) return;
    const { palette, peaks } = this.data;
    const forward = this.value("forward_ns") / 1e6;
    const all = (this.value("end_ns") - this.value("start_ns")) / 1e6;
    const arithmetic = peaks ? (this.value("flops") / peaks.flops_per_s) * 1e3 : 0;
    const memory = peaks ? (this.value("bytes") / peaks.bytes_per_s) * 1e3 : 0;
    const least = Math.max(arithmetic, memory);
    const scale = (width - 4) / Math.max(least, forward, all, 1e-9);
    const limit = memory >= arithmetic ? "memory" : "arithmetic";
    const lines = [
      [least, palette.ghost,
        peaks ? `predicted ${milliseconds(least)}: ${limit} at its peak (modelled)` : "peaks not measured"],
      [forward, this.kindColour(), `forward pass ${milliseconds(forward)} (measured)`],
      [all, palette.running, `whole iteration ${milliseconds(all)} (measured)`],
    ];
    lines.forEach(([value, colour, text], row) => {
      const y = row * 24 + 2;
      ctx.fillStyle = colour;
      ctx.fillRect(0, y, Math.max(1, value * scale), 5);
      ctx.fillStyle = palette.muted;
      ctx.fillText(fitted(ctx, text, width), 0, y + 13);
    });
    this.bound.canvas.setAttribute("aria-label", lines.map(([, , text]) => text).join(", "));
  }

  paintRoof(ctx, width, height) {
    if (!this.data) return undefined;
    const { palette, peaks } = this.data;
    const { flops, bytes, forward_ns: took } = this.columns;
    const points = [];
    for (let row = 0; row < this.columns.rows; row++) {
      const [x, y] = [flops[row] / bytes[row], flops[row] / (Number(took[row]) / 1e9)];
      if (Number.isFinite(x * y) && x * y > 0) points.push([Math.log10(x), Math.log10(y), row]);
    }
    if (!points.length) return ctx.fillText("No modelled work was recorded.", 0, height / 2);
    const bend = peaks ? Math.log10(peaks.flops_per_s / peaks.bytes_per_s) : null;
    const xs = points.map(([x]) => x).concat(peaks ? [bend] : []);
    const ys = points.map(([, y]) => y).concat(peaks ? [Math.log10(peaks.flops_per_s)] : []);
    const [low, high] = [Math.min(...xs) - 0.3, Math.max(...xs) + 0.4];
    const [floor, top] = [Math.min(...ys) - 0.3, Math.max(...ys) + 0.2];
    const px = (x) => ((x - low) / (high - low)) * width;
    const py = (y) => height - 18 - ((y - floor) / (top - floor)) * (height - 26);
    if (peaks) {
      const peak = Math.log10(peaks.flops_per_s);
      ctx.strokeStyle = palette.text;
      ctx.setLineDash([5, 4]);
      ctx.beginPath();
      ctx.moveTo(px(low), py(peak + low - bend));
      ctx.lineTo(px(bend), py(peak));
      ctx.lineTo(px(high), py(peak));
      ctx.stroke();
      ctx.setLineDash([]);
    }
    let shown = null;
    for (const [x, y, row] of points) {
      if (row === this.index) shown = [x, y];
      ctx.fillStyle = faded(this.kindColour(row), 0.3);
      ctx.fillRect(px(x) - 2, py(y) - 2, 4, 4);
    }
    if (shown) {
      ctx.fillStyle = this.kindColour();
      ctx.strokeStyle = palette.text;
      ctx.lineWidth = 2;
      ctx.beginPath();
      ctx.arc(px(shown[0]), py(shown[1]), 5.5, 0, 7);
      ctx.fill();
      ctx.stroke();
    }
    ctx.fillStyle = palette.muted;
    let told = "this iteration has no modelled work";
    if (shown) {
      const [intensity, rate] = shown.map((power) => 10 ** power);
      const limit = peaks ? Math.min(peaks.flops_per_s, intensity * peaks.bytes_per_s) : NaN;
      told = `${number(rate / 1e9)} GFLOP/s at ${number(intensity)} FLOP/byte`;
      if (peaks) told += `, ${Math.round((100 * rate) / limit)} % of the limit`;
    }
    ctx.fillText(fitted(ctx, told, width), 0, height - 7);
    this.roof.canvas.setAttribute("aria-label", "Roofline: " + told);
    return undefined;
  }

  destroy() {
    for (const surface of [this.steps, this.bound, this.roof]) surface.destroy();
  }
}
