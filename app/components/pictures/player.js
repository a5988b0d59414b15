// The clock that plays iterations, and its buttons.

/**
 * Previous, next, play, and which iteration is shown. `steps`: columns iteration, start_ns, end_ns. `show(index)` is
 * told every change, `beyond(iteration)` that one outside of them is asked for.
 */
class Player {
  constructor({ steps, first, last, show, beyond, label }) {
    Object.assign(this, { steps, first, last, show, beyond });
    this.index = 0;
    this.speed = 1;
    this.playing = false;
    this.calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
    this.root = element("div", "player", "", { role: "group", "aria-label": label });
    const button = (text, title, act) => {
      const made = element("button", "quiet", text, { type: "button", title });
      made.addEventListener("click", act);
      this.root.append(made);
      return made;
    };
    this.previous = button("‹ Previous", "The iteration before (arrow left)", () => this.step(-1));
    this.field = element("input", "number", "", { type: "number", "aria-label": "Iteration", step: "1" });
    this.field.addEventListener("change", () => this.ask(Number(this.field.value)));
    this.root.append(this.field);
    this.told = element("span", "told");
    this.root.append(this.told);
    this.next = button("Next ›", "The iteration after (arrow right)", () => this.step(1));
    this.button = button("Play", "Play the run (space)", () => this.toggle());
    this.speeds = [1, 0.1].map((speed) => {
      const title = speed === 1 ? "As fast as it ran" : "Ten times slower";
      const made = button(`${speed} ×`, title, () => this.setSpeed(speed));
      return [speed, made];
    });
    this.slider = element("input", "slider", "", {
      type: "range",
      "aria-label": "Iteration, within those loaded",
      step: "1",
    });
    this.slider.addEventListener("input", () => this.turn(Number(this.slider.value) - this.at(0)));
    this.setSpeed(1);
  }

  at(index) {
    return Number(this.steps.iteration[index]);
  }

  /** New steps around the iteration that is shown, or around another. */
  load(steps, first, last, iteration) {
    Object.assign(this, { steps, first, last, waits: false, since: null });
    for (const [name, value] of [["min", first], ["max", last]]) this.field.setAttribute(name, String(value));
    this.told.textContent = `of ${whole(first)} to ${whole(last)}`;
    this.slider.min = String(this.at(0));
    this.slider.max = String(this.at(steps.rows - 1));
    this.turn(lowerBound(steps.iteration, iteration));
  }

  /** Show the iteration at an index of those loaded. */
  turn(index) {
    this.index = Math.max(0, Math.min(this.steps.rows - 1, index));
    const shown = this.at(this.index);
    this.field.value = String(shown);
    this.slider.value = String(shown);
    this.previous.disabled = shown <= this.first;
    this.next.disabled = shown >= this.last;
    this.show(this.index);
  }

  /** Show an iteration by its number, loaded or not. */
  ask(iteration) {
    if (!Number.isFinite(iteration)) return this.turn(this.index);
    const asked = Math.max(this.first, Math.min(this.last, Math.round(iteration)));
    const index = lowerBound(this.steps.iteration, asked);
    if (this.at(Math.min(index, this.steps.rows - 1)) === asked) return this.turn(index);
    return this.beyond(asked);
  }

  step(by) {
    this.stop();
    this.move(by);
  }

  move(by) {
    const to = this.index + by;
    if (to >= 0 && to < this.steps.rows) return this.turn(to);
    const asked = this.at(this.index) + by;
    if (asked >= this.first && asked <= this.last) return this.beyond(asked);
    return this.stop();
  }

  setSpeed(speed) {
    this.speed = speed;
    for (const [of, button] of this.speeds) button.setAttribute("aria-pressed", String(of === speed));
  }

  toggle() {
    if (this.playing) this.stop();
    else this.start();
  }

  start() {
    this.playing = true;
    this.button.textContent = "Pause";
    this.since = null;
    requestAnimationFrame((now) => this.tick(now));
  }

  stop() {
    this.playing = false;
    this.button.textContent = "Play";
  }

  /**
   * Go on by the time that passed, at the run's own pace; readers who want less motion see two iterations a second at
   * most.
   */
  tick(now) {
    if (!this.playing || !this.root.isConnected) return;
    this.since ??= now;
    const passed = (now - this.since) * this.speed * 1e6;
    let index = this.index;
    const begun = Number(this.steps.start_ns[index]);
    while (index + 1 < this.steps.rows && Number(this.steps.start_ns[index + 1]) - begun <= passed) index++;
    const waited = !this.calm || now - this.since >= 500;
    if (index + 1 === this.steps.rows && Number(this.steps.end_ns[index]) - begun <= passed) {
      if (!this.waits) this.move(this.steps.rows - this.index);
      this.waits = true; // for those that come next; asked for once
    } else if (index > this.index && waited) {
      this.since = now;
      this.turn(index);
    }
    requestAnimationFrame((then) => this.tick(then));
  }

  /** Arrow keys and space, wherever the keyboard is within the picture. */
  key(event) {
    if (event.target instanceof HTMLInputElement || event.altKey || event.ctrlKey || event.metaKey) return;
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (by) this.step(by);
    else if (event.key === " " && !(event.target instanceof HTMLButtonElement)) this.toggle();
    else return;
    event.preventDefault();
  }
}
