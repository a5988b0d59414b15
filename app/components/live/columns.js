// The rows of one table, as growing columns of doubles.
//
// Rows are numbered from the run's start. A batch that overlaps what is held is trimmed, a batch that starts later leaves a gap that
// is counted; the oldest quarter goes when `limit` rows are held.

class Columns {
  constructor(limit = 600000) {
    this.limit = limit;
    this.clear();
  }

  clear() {
    this.rows = 0; // rows held
    this.base = 0; // number of the first row held
    this.missed = 0; // rows that never came
    this.store = {}; // name -> Float64Array with spare room
    this.room = 0;
  }

  /** Number of the row that is expected next. */
  get next() {
    return this.base + this.rows;
  }

  /** Take a batch: `first` is the number of its first row, `batch` maps names to Float64Arrays of n values. Returns rows added. */
  append(first, n, batch) {
    let skip = 0;
    if (!this.rows) {
      this.base = first; // a long run's early rows come thinned, under the numbers just before its whole ones
    } else if (first > this.next) {
      this.missed += first - this.next;
      this.base = first - this.rows;
    } else {
      skip = this.next - first;
    }
    const added = n - skip;
    if (added <= 0) return 0;
    this.makeRoom(added, Object.keys(batch));
    for (const name of Object.keys(this.store)) {
      const target = this.store[name];
      if (batch[name]) target.set(batch[name].subarray(skip), this.rows);
      else target.fill(NaN, this.rows, this.rows + added);
    }
    this.rows += added;
    return added;
  }

  makeRoom(added, names) {
    if (this.rows + added > this.limit) {
      const drop = Math.min(this.rows, Math.ceil(this.limit / 4) + added);
      for (const column of Object.values(this.store)) column.copyWithin(0, drop, this.rows);
      this.rows -= drop;
      this.base += drop;
    }
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
