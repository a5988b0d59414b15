// Which stretch of time the charts show: following the run, or where the reader put it.

const WHOLE_RUN = Infinity;

class TimeView {
  constructor(changed) {
    this.changed = changed;
    this.reset();
  }

  reset() {
    this.span = WHOLE_RUN; // seconds shown while following
    this.following = true;
    this.paused = false;
    this.now = 0; // newest time known, s
    this.ended = false;
    this.min = 0;
    this.max = 10;
    this.limit = Infinity; // rows after this time are not drawn (pause)
  }

  /** Tell the newest time known. Moves the window while following. */
  advance(now) {
    if (now > this.now) this.now = now;
    if (this.following && !this.paused) this.follow();
  }

  /**
   * Place the window at the newest data. The right edge of a whole run moves in steps, so that what is drawn stays put.
   */
  follow() {
    if (this.span === WHOLE_RUN) {
      this.min = 0;
      const step = this.now < 10 ? 5 : this.now < 60 ? 10 : this.now < 240 ? 30 : 120;
      this.max = this.ended ? Math.max(0.1, this.now * 1.01) : Math.max(5, step * Math.ceil((this.now * 1.03) / step));
    } else {
      this.max = Math.max(this.now, this.span);
      this.min = this.max - this.span;
    }
  }

  setSpan(span) {
    this.span = span;
    this.toFollow();
  }

  toFollow() {
    this.following = true;
    this.setPaused(false);
  }

  setPaused(paused) {
    this.paused = paused;
    this.limit = paused ? this.now : Infinity;
    if (!paused && this.following) this.follow();
    this.changed();
  }

  zoom(min, max) {
    if (!(max - min > 1e-4)) return;
    this.following = false;
    this.min = Math.max(0, min);
    this.max = Math.max(this.min + 1e-4, max);
    this.changed();
  }

  /** Zoom by `factor` about the middle, or shift by a `share` of the window. */
  scale(factor) {
    const middle = (this.min + Math.min(this.max, Math.max(this.now, this.min))) / 2;
    const half = ((this.max - this.min) * factor) / 2;
    this.zoom(middle - half, middle + half);
  }

  shift(share) {
    const by = Math.max(-this.min, (this.max - this.min) * share);
    this.zoom(this.min + by, this.max + by);
  }

  /** What is shown, for others to show the same: how long a stretch of the newest (0: all), or from when to when. */
  numbers() {
    if (this.following && !this.paused) return [this.span === WHOLE_RUN ? 0 : this.span];
    return this.paused ? [this.min, this.max, this.limit] : [this.min, this.max];
  }

  take([first, last, limit]) {
    if (last === undefined) return this.setSpan(first || WHOLE_RUN);
    Object.assign(this, { following: false, paused: limit !== undefined, limit: limit ?? Infinity });
    return this.zoom(first, last);
  }
}
