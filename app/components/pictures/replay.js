// The KV pool replayed: its state before the first event, and every event from there on. Knows no canvas, so a test can
// hold it against the engine's own pool.

const EVENTS = ["allocate", "share", "fill", "quantise", "free", "evict"];
const [ALLOCATE, SHARE, FILL, QUANTISE, FREE, EVICT] = EVENTS.keys();
const [USED, SHARED, CACHED, EMPTY] = [0, 1, 2, 3];

class PoolReplay {
  /** `start`, `holders`, `events`: columns (store/pool_map.py); `first`: the iteration that the events begin with. */
  constructor({ blocks, first, start, holders, events }) {
    Object.assign(this, { blocks, first, start, held: holders, events });
    this.refs = new Int32Array(blocks);
    this.owner = new Int32Array(blocks);
    this.changed = new Int32Array(blocks);
    this.full = new Uint8Array(blocks);
    this.packed = new Uint8Array(blocks);
    this.cached = new Uint8Array(blocks);
    this.rewind();
  }

  /** The pool before the first iteration. */
  rewind() {
    const { start } = this;
    for (const column of [this.refs, this.full, this.packed, this.cached]) column.fill(0);
    this.owner.fill(-1);
    this.changed.fill(-1);
    for (let row = 0; row < start.rows; row++) {
      const block = start.block[row];
      this.refs[block] = start.refs[row];
      this.owner[block] = start.owner[row];
      this.changed[block] = start.changed[row];
      this.full[block] = start.is_full[row];
      this.packed[block] = start.packed[row];
      this.cached[block] = start.refs[row] === 0 && start.event[row] === FREE && start.findable[row] ? 1 : 0;
    }
    this.done = 0; // events taken in
    this.iteration = this.first - 1;
  }

  /** Go to the pool as it was after an iteration. */
  seek(iteration) {
    if (iteration < this.iteration) this.rewind();
    const { events } = this;
    while (this.done < events.rows && events.iteration[this.done] <= iteration) this.take(this.done++);
    this.iteration = iteration;
  }

  take(row) {
    const { block: blocks, event: kinds, request, ref_count: refs, findable, iteration } = this.events;
    const [block, event] = [blocks[row], kinds[row]];
    this.refs[block] = refs[row];
    this.changed[block] = iteration[row];
    this.cached[block] = event === FREE && refs[row] === 0 && findable[row] ? 1 : 0;
    if (event === ALLOCATE) {
      this.owner[block] = request[row];
      this.full[block] = this.packed[block] = 0;
    }
    if (event === FILL) this.full[block] = 1;
    if (event === QUANTISE) this.packed[block] = 1;
  }

  /**
   * [request, position] of everybody who holds a block. Looked up when somebody asks: to keep it for all takes longer
   * than to play.
   */
  holdersOf(block) {
    if (!this.refs[block]) return [];
    const { held, events } = this;
    const holders = new Map();
    for (let row = 0; row < held.rows; row++) {
      if (held.block[row] === block) holders.set(held.request[row], held.position[row]);
    }
    for (let row = 0; row < this.done; row++) {
      if (events.block[row] !== block) continue;
      const event = events.event[row];
      if (event === ALLOCATE) holders.clear();
      if (event === ALLOCATE || event === SHARE) holders.set(events.request[row], events.position[row]);
      if (event === FREE) holders.delete(events.request[row]);
    }
    return [...holders];
  }

  /** Every block that a request holds, in one walk. */
  blocksOf(request) {
    const { held, events } = this;
    const blocks = new Set();
    for (let row = 0; row < held.rows; row++) if (held.request[row] === request) blocks.add(held.block[row]);
    for (let row = 0; row < this.done; row++) {
      const [block, event] = [events.block[row], events.event[row]];
      const own = events.request[row] === request;
      if (own && (event === ALLOCATE || event === SHARE)) blocks.add(block);
      else if (event === ALLOCATE || (own && event === FREE)) blocks.delete(block);
    }
    return blocks;
  }

  /** What a block is: USED by one, SHARED by several, CACHED or EMPTY. */
  state(block) {
    if (this.refs[block] > 1) return SHARED;
    if (this.refs[block] === 1) return USED;
    return this.cached[block] ? CACHED : EMPTY;
  }
}
