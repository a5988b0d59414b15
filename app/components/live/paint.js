// Painters: each draws one kind of chart into uPlot's canvas. Where many rows share a pixel column the tallest one is
// drawn, so a spike is never hidden.

const STEPS = ["forward", "schedule", "prepare", "sample", "finish"];

/** Rows of `table` in the window of `view`: {from, to} indices. */
function visibleRows(table, view) {
  const from = Math.max(0, table.at(view.min) - 1);
  const to = Math.min(table.rows, table.at(Math.min(view.max, view.limit) + 1e-9) + 1);
  const t = table.get("t");
  return { from, to: to > from && t[to - 1] > view.limit ? to - 1 : to };
}

/** Largest value of the summed columns among the rows in view; 0 without rows. */
function peakInView(table, view, names) {
  const { from, to } = visibleRows(table, view);
  const columns = names.map((name) => table.get(name));
  let peak = 0;
  for (let row = from; row < to; row++) {
    let sum = 0;
    for (const column of columns) if (column[row] > 0) sum += column[row];
    if (sum > peak) peak = sum;
  }
  return peak;
}

/**
 * Bars from start to end of every iteration, each a stack of parts.
 * `parts(row)` returns [[value, colour], ...] from the bottom up; `height(row)` says which row of a crowded pixel
 * column is drawn.
 */
function paintBars(u, table, view, height, parts) {
  const { from, to } = visibleRows(table, view);
  if (to <= from) return;
  const t = table.get("t");
  const duration = table.get("duration_ms");
  const ctx = u.ctx;
  const { left, top, width, height: plotHeight } = u.bbox;
  const perSecond = width / (view.max - view.min);
  const yZero = u.valToPos(0, "y", true);
  const yScale = u.valToPos(1, "y", true) - yZero;
  ctx.save();
  ctx.beginPath();
  ctx.rect(left, top, width, plotHeight);
  ctx.clip();
  const draw = (row, x0, x1) => {
    let base = yZero;
    for (const [value, colour] of parts(row)) {
      if (!(value > 0)) continue;
      const size = value * yScale; // negative: upwards
      ctx.fillStyle = colour;
      ctx.fillRect(x0, base + size, x1 - x0, -size);
      base += size;
    }
  };
  let crowded = -1; // pixel column being gathered
  let tallest = -1;
  const flush = () => {
    if (tallest >= 0) draw(tallest, crowded, crowded + 1);
    tallest = -1;
  };
  for (let row = from; row < to; row++) {
    const x1 = left + (t[row] - view.min) * perSecond;
    const x0 = x1 - (duration[row] / 1000) * perSecond;
    if (x1 - x0 < 2) {
      const column = Math.floor((x0 + x1) / 2);
      if (column !== crowded) {
        flush();
        crowded = column;
      }
      if (tallest < 0 || height(row) > height(tallest)) tallest = row;
    } else {
      flush();
      draw(row, x0, x1 - Math.min(2, (x1 - x0) * 0.12));
    }
  }
  flush();
  ctx.restore();
}

/**
 * A step line (value holds from one iteration's end to the next); `fill` colours the area below, `base` is the lower
 * edge's column.
 */
function paintSteps(u, table, view, name, { stroke, fill, base, dash = [], width = 1.75 }) {
  const { from, to } = visibleRows(table, view);
  if (to - from < 1) return;
  const t = table.get("t");
  const values = table.get(name);
  const lower = base ? table.get(base) : null;
  const ctx = u.ctx;
  const box = u.bbox;
  const perSecond = box.width / (view.max - view.min);
  const zero = u.valToPos(0, "y", true);
  const scale = u.valToPos(1, "y", true) - zero;
  const ratio = devicePixelRatio || 1;
  const xs = [];
  const highs = [];
  const lows = [];
  let column = -1;
  for (let row = from; row < to; row++) {
    const value = values[row] + (lower ? lower[row] : 0);
    if (!Number.isFinite(value)) continue;
    const x = box.left + (t[row] - view.min) * perSecond;
    const y = zero + value * scale;
    if (Math.floor(x) === column) {
      const last = highs.length - 1;
      if (y < highs[last]) {
        highs[last] = y;
        lows[last] = lower ? zero + lower[row] * scale : zero;
      }
      continue;
    }
    column = Math.floor(x);
    xs.push(x);
    highs.push(y);
    lows.push(lower ? zero + lower[row] * scale : zero);
  }
  if (!xs.length) return;
  const trace = (ys, backwards) => {
    const count = xs.length;
    for (let step = 0; step < count; step++) {
      const at = backwards ? count - 1 - step : step;
      if (step === 0 && !backwards) ctx.moveTo(xs[at], ys[at]);
      else if (backwards) {
        if (at + 1 < count) ctx.lineTo(xs[at + 1], ys[at]);
        ctx.lineTo(xs[at], ys[at]);
      } else {
        ctx.lineTo(xs[at], ys[at - 1]);
        ctx.lineTo(xs[at], ys[at]);
      }
    }
  };
  ctx.save();
  ctx.beginPath();
  ctx.rect(box.left, box.top, box.width, box.height);
  ctx.clip();
  if (fill) {
    ctx.beginPath();
    trace(highs, false);
    ctx.lineTo(xs[xs.length - 1], lows[lows.length - 1]);
    trace(lows, true);
    ctx.closePath();
    ctx.fillStyle = fill;
    ctx.fill();
  }
  if (stroke) {
    ctx.beginPath();
    trace(highs, false);
    ctx.strokeStyle = stroke;
    ctx.lineWidth = width * ratio;
    ctx.setLineDash(dash.map((length) => length * ratio));
    ctx.stroke();
  }
  ctx.restore();
}

/**
 * Dots of (t, value) with at most one per pixel cell, so 100,000 of them cost as much as fill the picture.
 * `colourOf(value)` returns [colour, size factor].
 */
function paintDots(u, times, values, from, to, view, size, colourOf) {
  const ctx = u.ctx;
  const box = u.bbox;
  const cell = Math.max(1, Math.round(size / 2));
  const columns = Math.ceil(box.width / cell) + 1;
  const taken = new Uint8Array(columns * (Math.ceil(box.height / cell) + 1));
  const perSecond = box.width / (view.max - view.min);
  const scale = u.scales.y;
  const place = scale.distr === 3 ? Math.log10 : (value) => value; // what uPlot does, without its bookkeeping per point
  const low = place(scale.min);
  const perUnit = box.height / (place(scale.max) - low);
  ctx.save();
  ctx.beginPath();
  ctx.rect(box.left, box.top, box.width, box.height);
  ctx.clip();
  for (let row = from; row < to; row++) {
    const value = values[row];
    if (!(value > 0) || times[row] > view.limit) continue;
    const x = (times[row] - view.min) * perSecond;
    const y = box.height - (place(value) - low) * perUnit;
    if (x < 0 || x > box.width || y < -size || y > box.height + size) continue;
    const key = Math.floor(Math.max(0, Math.min(box.height, y)) / cell) * columns + Math.floor(x / cell);
    if (taken[key]) continue;
    taken[key] = 1;
    const [colour, factor] = colourOf(value);
    const edge = size * factor;
    ctx.fillStyle = colour;
    ctx.fillRect(box.left + x - edge / 2, box.top + y - edge / 2, edge, edge);
  }
  ctx.restore();
}

const CROSS = 4.5; // half its width, in CSS pixels

/** A cross at `height` wherever column `marked` is above zero; where many share a pixel column, one. */
function paintCrosses(u, table, view, marked, height, colour) {
  const { from, to } = visibleRows(table, view);
  const ctx = u.ctx;
  const box = u.bbox;
  const ratio = devicePixelRatio || 1;
  const size = CROSS * ratio;
  const [t, marks, heights] = ["t", marked, height].map((name) => table.get(name));
  const path = new Path2D();
  let last = -Infinity;
  for (let row = from; row < to; row++) {
    if (!(marks[row] > 0)) continue;
    const x = u.valToPos(t[row], "x", true);
    if (x < box.left || x > box.left + box.width || x - last < ratio) continue;
    last = x;
    const y = Math.max(box.top + size, u.valToPos(heights[row], "y", true)); // a full pool's marks stay whole
    for (const side of [-1, 1]) {
      path.moveTo(x - size, y - side * size);
      path.lineTo(x + size, y + side * size);
    }
  }
  ctx.save();
  ctx.lineCap = "round";
  for (const [stroke, width] of [[u.paperColour || "#fff", 4.5], [colour, 2.25]]) {
    ctx.strokeStyle = stroke; // first a rim, so that a mark stands out from what it lies on
    ctx.lineWidth = width * ratio;
    ctx.stroke(path);
  }
  ctx.restore();
}

/** The row whose mark lies nearest to a time, if it is within reach of the pointer; -1 without one. */
function markedRowNear(u, table, marked, time) {
  const marks = table.get(marked);
  const t = table.get("t");
  const reach = u.posToVal(2.5 * CROSS, "x") - u.posToVal(0, "x");
  let nearest = -1;
  for (let row = Math.max(0, table.at(time - reach)); row < table.rows && t[row] <= time + reach; row++) {
    if (marks[row] > 0 && (nearest < 0 || Math.abs(t[row] - time) < Math.abs(t[nearest] - time))) nearest = row;
  }
  return nearest >= 0 && Math.abs(t[nearest] - time) <= reach ? nearest : -1;
}

/** A horizontal line across the plot with its words at the right end. */
function paintLevel(u, value, colour, words, { dash = [6, 4], above = true } = {}) {
  const box = u.bbox;
  const y = u.valToPos(value, "y", true);
  if (!(y >= box.top && y <= box.top + box.height)) return;
  const ratio = devicePixelRatio || 1;
  const ctx = u.ctx;
  ctx.save();
  ctx.strokeStyle = colour;
  ctx.lineWidth = 1.25 * ratio;
  ctx.setLineDash(dash.map((length) => length * ratio));
  ctx.beginPath();
  ctx.moveTo(box.left, y);
  ctx.lineTo(box.left + box.width, y);
  ctx.stroke();
  if (words) {
    ctx.font = `600 ${12 * ratio}px ${u.fontFamily || "sans-serif"}`;
    ctx.textAlign = "right";
    ctx.textBaseline = above ? "bottom" : "top";
    const x = box.left + box.width - 6 * ratio;
    const at = y + (above ? -3 : 3) * ratio;
    ctx.lineWidth = 4 * ratio;
    ctx.setLineDash([]);
    ctx.strokeStyle = u.paperColour || "#fff";
    ctx.strokeText(words, x, at);
    ctx.fillStyle = colour;
    ctx.fillText(words, x, at);
  }
  ctx.restore();
}
