// The gap between two tokens of one request: every one a dot, stalls marked, an earlier run behind as a ghost.

const PER_DECADE = 200;
const LOWEST_EXPONENT = -3; // 1 microsecond, in ms

/** Counts of values in logarithmic bins: the median of millions of gaps in constant memory, to 1 %. */
class LogHistogram {
  constructor() {
    this.counts = new Uint32Array(10 * PER_DECADE);
    this.total = 0;
    this.max = 0;
  }

  add(values, from) {
    for (let index = from; index < values.length; index++) {
      const value = values[index];
      if (!(value > 0)) continue;
      this.counts[this.bin(value)] += 1;
      this.total += 1;
      if (value > this.max) this.max = value;
    }
  }

  bin(value) {
    const bin = Math.floor((Math.log10(value) - LOWEST_EXPONENT) * PER_DECADE);
    return Math.max(0, Math.min(this.counts.length - 1, bin));
  }

  /** How many values lie above the bin of `limit`. */
  above(limit) {
    if (!(limit > 0)) return 0;
    let count = 0;
    for (let bin = this.bin(limit) + 1; bin < this.counts.length; bin++) count += this.counts[bin];
    return count;
  }

  median() {
    let left = this.total / 2;
    for (let bin = 0; bin < this.counts.length; bin++) {
      left -= this.counts[bin];
      if (left < 0) return 10 ** ((bin + 0.5) / PER_DECADE + LOWEST_EXPONENT);
    }
    return NaN;
  }
}

function itlSpec(board) {
  const tokens = board.tables.token;
  const log = () => board.itlLog;
  const threshold = () => board.data.stall_factor * board.itlHistogram.median();
  const told = (histogram, limit) => {
    const count = histogram.above(limit);
    return (count === 1 ? "1 stall" : number(count) + " stalls") + (histogram.max > 0 ? ", longest gap " + milliseconds(histogram.max) : "");
  };
  // Before the present run has a median, the earlier one is held against its own.
  const ghostLimit = () => {
    const limit = threshold();
    return Number.isFinite(limit) ? limit : board.data.stall_factor * board.ghost.histogram.median();
  };
  return {
    id: "itl",
    rows: () => board.tables.token.rows,
    waiting: "The first gap between two tokens appears here.",
    wide: true,
    log,
    unit: milliseconds,
    legend: [
      { name: "gap before a token", colour: (c) => c.decode, mark: "dot" },
      { name: "stall", colour: (c) => c.stall, mark: "dot big" },
      { name: "before: " + (board.data.ghost ? board.data.ghost.name : ""), colour: (c) => c.ghost, mark: "dot", visible: () => Boolean(board.ghost) },
    ],
    values: () => {
      const limit = threshold();
      return [
        Number.isFinite(limit) ? "median " + milliseconds(limit / board.data.stall_factor) : DASH,
        tokens.rows ? told(board.itlHistogram, limit) : DASH,
board.ghost ? (board.ghost.sampled ? "at least " : "") + told(board.ghost.histogram, ghostLimit()) : "",
      ];
    },
    range: (view) => {
      let high = Math.max(board.itlHistogram.max, board.ghost ? board.ghost.histogram.max : 0, 1.2 * threshold() || 0, 10);
      let low = Infinity;
      const from = tokens.at(view.min);
      const values = tokens.get("itl_ms");
      for (let row = from; row < values.length; row++) if (values[row] > 0 && values[row] < low) low = values[row];
      if (board.ghost) low = Math.min(low, board.ghost.shortest);
      if (!Number.isFinite(low)) low = 1;
      if (!log()) return [0, roundUp(high * 1.05)];
      return [10 ** Math.floor(Math.log10(low)), Math.max(10 ** Math.ceil(Math.log10(low) + 0.5), roundUp(high * 1.15))];
    },
    paint: (u, colours, view) => {
      const size = Math.max(2, (board.width < 640 ? 2.5 : 3) * (devicePixelRatio || 1));
      const limit = threshold();
      if (board.ghost) {
        u.ctx.globalAlpha = 0.7;
        paintDots(u, board.ghost.t, board.ghost.itl_ms, 0, board.ghost.t.length, { ...view, limit: Infinity }, size, (value) => [
          colours.ghost,
          value > limit ? 1.7 : 1,
        ]);
        u.ctx.globalAlpha = 1;
      }
      const from = tokens.at(view.min);
      paintDots(u, tokens.get("t"), tokens.get("itl_ms"), from, tokens.at(view.max + 1e-9), view, size, (value) =>
        value > limit ? [colours.stall, 1.7] : [colours.decode, 1],
      );
      if (Number.isFinite(limit)) {
        paintLevel(u, limit, colours.stall, "stall: over " + board.data.stall_factor + " x the median gap");
      }
    },
    tip: (time, value, u) => nearestToken(board, time, u, threshold()),
    summary: () =>
      tokens.rows
        ? `${tokens.next} gaps, median ${milliseconds(board.itlHistogram.median())}, ${told(board.itlHistogram, threshold())}.`
        : "No token yet.",
  };
}

/** The words for the dot nearest the cursor, within 12 px; null if there is none. */
function nearestToken(board, time, u, limit) {
  const tokens = board.tables.token;
  const reach = (12 * (board.view.max - board.view.min)) / u.over.clientWidth;
  const t = tokens.get("t");
  const values = tokens.get("itl_ms");
  let best = 12;
  let found = -1;
  for (let row = tokens.at(time - reach); row < t.length && t[row] <= time + reach; row++) {
    if (!(values[row] > 0)) continue;
    const dx = u.valToPos(t[row], "x") - u.cursor.left;
    const dy = u.valToPos(values[row], "y") - u.cursor.top;
    const distance = Math.hypot(dx, dy);
    if (distance < best) [best, found] = [distance, row];
  }
  if (found < 0) return null;
  const request = tokens.get("request")[found];
  const lines = [milliseconds(values[found]) + " gap", "request " + request, "at " + t[found].toFixed(2) + " s"];
  if (values[found] > limit) {
    const rows = board.tables.iteration;
    const row = Math.min(rows.rows - 1, rows.at(t[found]));
    const prefill = row >= 0 ? rows.get("prefill_tokens")[row] : NaN;
    lines.push(prefill > 0 ? `stall: the iteration computed ${prefill} prompt tokens` : "stall: it waited for other iterations");
  }
  return lines;
}
