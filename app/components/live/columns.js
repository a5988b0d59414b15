// The rows of one table, as growing columns of doubles.
//
// Rows are numbered from the run's start. A batch that overlaps what came before is trimmed, a batch that starts later
// leaves a gap that is counted. When `limit` rows are held the older half is thinned: of every two neighbours the one
// with the larger `peak` stays, and what is counted of the other goes to it.

const COUNTED = ["preempted"];

class Columns {
  constructor(peak, limit) {
    this.peak = peak;
    this.limit = limit;
    this.clear();
  }

  clear() {
    this.rows = 0; // rows held
    this.next = 0; // number of the row that is expected next
    this.missed = 0; // rows that never came
    this.store = {}; // name -> Float64Array with spare room
    this.room = 0;
  }

  /**
   * Take a batch: `first` is the number of its first row, `batch` maps names to Float64Arrays of n values. Returns rows
   * added.
   */
  append(first, n, batch) {
    // A long run's early rows come thinned, under the numbers just before its whole ones: beginning late is no gap.
    if (this.rows && first > this.next) this.missed += first - this.next;
    const skip = Math.max(0, this.next - first);
    const added = n - skip;
    if (added <= 0) return 0;
    if (this.rows + added > this.limit) this.thin();
    this.makeRoom(added, Object.keys(batch));
    for (const name of Object.keys(this.store)) {
      const target = this.store[name];
      if (batch[name]) target.set(batch[name].subarray(skip), this.rows);
      else target.fill(NaN, this.rows, this.rows + added);
    }
    this.rows += added;
    this.next = first + n;
    return added;
  }

  thin() {
    const old = 2 * Math.floor(this.rows / 4);
    const peak = this.store[this.peak];
    const kept = new Uint32Array(old / 2);
    for (let pair = 0; pair < kept.length; pair++) {
      kept[pair] = 2 * pair + (peak && peak[2 * pair + 1] > peak[2 * pair] ? 1 : 0);
    }
    for (const [name, column] of Object.entries(this.store)) {
      const counts = COUNTED.includes(name);
      for (let row = 0; row < kept.length; row++) {
        column[row] = counts ? column[2 * row] + column[2 * row + 1] : column[kept[row]];
      }
      column.copyWithin(kept.length, old, this.rows);
    }
    this.rows -= old - kept.length;
  }

  makeRoom(added, names) {
    if (this.rows + added > this.room) this.room = Math.max(1024, 2 * (this.rows + added));
    for (const name of names) {
      const old = this.store[name];
      if (old && old.length >= this.room) continue;
      const column = new Float64Array(this.room);
      if (old) column.set(old.subarray(0, this.rows));
      else column.fill(NaN, 0, this.rows);
      this.store[name] = column;
    }
  }

  /** The values held of one column (a view, not a copy); empty when the column is unknown. */
  get(name) {
    const column = this.store[name];
    return column ? column.subarray(0, this.rows) : new Float64Array(0);
  }

  last(name) {
    return this.rows && this.store[name] ? this.store[name][this.rows - 1] : NaN;
  }

  /** Index of the first row whose `t` is at least `time`. */
  at(time) {
    const t = this.get("t");
    let low = 0;
    let high = t.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (t[middle] < time) low = middle + 1;
      else high = middle;
    }
    return low;
  }
}

/** Decode a binary frame of the live socket into {table, n, first, batch}. */
function decodeFrame(buffer) {
  const view = new DataView(buffer);
  const length = view.getUint32(0, true);
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
  const batch = {};
  let offset = 4 + length;
  for (const name of header.columns) {
    batch[name] = new Float64Array(buffer.slice(offset, offset + 8 * header.n));
    offset += 8 * header.n;
  }
  return { table: header.table, n: header.n, first: header.first, batch };
}
