// The board: tiles, the sentence on what limits the engine, and the charts of one run, fed by its live socket.

const PACES_MS = [180, 350, 500, 1000]; // between two drawings; the first is five a second
const DRAWING_SHARE = 0.04; // of one core: where this script takes more, it draws less often
const CALM_DRAW_MS = 500; // for readers who asked for less motion
const BEAT_MS = 800;
const DESCRIBE_MS = 3000;
const FINAL = ["finished", "failed", "cancelled", "crashed"];
const CHIPS = {
  connecting: "Connecting",
  reconnecting: "Reconnecting",
  refused: "Not connected",
  queued: "Queued",
  starting: "Starting",
  loading: "Loading the model",
  running: "Live",
  finished: "Finished",
  failed: "Failed",
  cancelled: "Cancelled",
  crashed: "Crashed",
};

const COST_HELP =
  "What watching costs: the page's drawing until it is painted, and what the lab does to send it the run's rows, in " +
  "percent of one processor core. On a slow machine the page draws less often.";

class Board {
  /** `turned(state)` is called when the run's state is another than the page was drawn for. */
  constructor(host, data, turned) {
    this.host = host;
    this.data = data;
    this.turned = turned;
    this.itlLog = true;
    this.cursorTime = null;
    this.draws = 0;
    this.frames = 0;
    this.pace = PACES_MS[0];
    this.tables = {
      iteration: new Columns("duration_ms", 100000),
      token: new Columns("itl_ms", 160000),
      request: new Columns("e2e_ms", 50000),
      device: new Columns("utilization", 50000),
    };
    this.figures = null; // the newest `figures` message
    this.unsaid = []; // `figures` messages that the tiles do not show yet
    this.longestGap = 0;
    this.view = new TimeView(() => this.viewChanged());
    this.shared = new SharedView("live", (view) => this.view.take(view));
    this.calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
    this.build();
    this.restyle();
    this.restart();
    this.observer = new ResizeObserver(() => this.requestDraw());
    this.observer.observe(this.root);
    this.painted = new MessageChannel();
    this.painted.port1.onmessage = ({ data: began }) => {
      this.paintCost = smooth(this.paintCost, performance.now() - began);
    };
    this.woken = () => document.hidden || this.requestDraw();
    document.addEventListener("visibilitychange", this.woken);
  }

  build() {
    this.root = element("div", "board");
    this.chip = element("span", "chip", "", { role: "status" });
    this.progressText = element("span", "progress-text", "");
    this.cost = element("span", "cost-text", "", { title: COST_HELP });
    this.progress = element("div", "progress", "", {
      role: "progressbar", "aria-valuemin": "0", "aria-valuemax": "100", "aria-label": "Progress of the run",
    });
    this.progressFill = element("i");
    this.progress.append(this.progressFill);
    this.notice = element("p", "notice", "", { hidden: "", role: "status" });
    const bar = element("div", "bar");
    const told = element("div", "bar-told");
    told.append(this.chip, this.progressText, this.cost);
    bar.append(told, this.controls());
    this.limit = new LimitLine(this.data.words.limit);
    this.tiles = tileSpecs(this.data.words.tiles, this.data.words.tiles_after).map((spec) => new Tile(spec));
    const tiles = element("div", "tiles");
    tiles.append(...this.tiles.map((tile) => tile.root));
    this.charts = CHART_SPECS.map((make) => {
      const spec = make(this);
      return new ChartCard(this, { ...spec, ...this.data.words.charts[spec.id] });
    });
    this.addScaleSwitch();
    this.grid = element("div", "grid");
    this.grid.append(...this.charts.map((chart) => chart.root));
    this.root.append(bar, this.progress, this.notice, this.limit.root, tiles, this.grid);
    this.host.append(this.root);
  }

  controls() {
    const group = element("div", "controls", "", { role: "group", "aria-label": "Time shown" });
    const button = (text, label, act) => {
      const made = element("button", "quiet", text, { type: "button", "aria-label": label, title: label });
      made.addEventListener("click", act);
      group.append(made);
      return made;
    };
    this.pauseButton = button("Pause", "Hold the charts still; the run goes on", () =>
      this.view.setPaused(!this.view.paused));
    this.spanButtons = [
      [10, "10 s"],
      [30, "30 s"],
      [WHOLE_RUN, "Whole run"],
    ].map(([span, text]) => {
      const about = "Follow the run, showing " + (span === WHOLE_RUN ? "all of it" : "its last " + text);
      return [span, button(text, about, () => this.view.setSpan(span))];
    });
    button("−", "Show a longer time", () => this.view.scale(2));
    button("+", "Show a shorter time", () => this.view.scale(0.5));
    return group;
  }

  addScaleSwitch() {
    const chart = this.charts.find(({ spec }) => spec.id === "itl");
    const button = element("button", "quiet", "", { type: "button" });
    const label = () => (button.textContent = this.itlLog ? "Linear scale" : "Log scale");
    button.addEventListener("click", () => {
      this.itlLog = !this.itlLog;
      label();
      this.requestDraw();
    });
    label();
    chart.actions.append(button);
  }

  /** New data from the page: a changed run starts over, a changed ghost or theme is drawn. */
  update(data) {
    const other = data.run !== this.data.run || data.token !== this.data.token || data.path !== this.data.path;
    this.data = data;
    this.restyle();
    if (other) this.restart();
    else this.readGhost();
    this.requestDraw();
  }

  restart() {
    if (this.feed) this.feed.stop();
    for (const table of Object.values(this.tables)) table.clear();
    this.figures = null;
    this.unsaid = [];
    this.longestGap = 0;
    this.view.reset();
    for (const tile of this.tiles) tile.clear();
    this.limit.show(null);
    this.status = null;
    this.connection = "connecting";
    this.readGhost();
    this.showStatus();
    const base = window.__streamlit?.BACKEND_BASE_URL ?? `${location.origin}/`;
    const address = `${base}${this.data.path.slice(1)}`.replace(/^http/, "ws");
    const positions = () => Object.fromEntries(Object.entries(this.tables).map(([name, table]) => [name, table.next]));
    this.feed = new Feed(address, this.data.token, this.data.run, positions, {
      frame: (frame) => this.take(frame),
      message: (message) => this.hear(message),
      state: (state) => {
        this.connection = state;
        this.showStatus();
      },
    });
  }

  readGhost() {
    const ghost = this.data.ghost;
    this.ghost = null;
    if (!ghost || !ghost.t.length) return;
    this.ghost = { ...ghost };
    this.ghost.shortest = ghost.itl_ms.reduce((least, value) => (value > 0 && value < least ? value : least), Infinity);
    const entry = this.charts && this.charts.find(({ spec }) => spec.id === "itl").readings[2];
    if (entry) entry.item.children[1].textContent = "before: " + ghost.name;
  }

  take({ table, n, first, batch }) {
    const target = this.tables[table];
    if (!target) return;
    this.frames += 1;
    this.root.dataset.frames = this.frames;
    const before = target.missed;
    const added = target.append(first, n, batch);
    if (table === "token" && added) {
      const gaps = target.get("itl_ms").subarray(target.rows - added);
      this.longestGap = gaps.reduce((most, gap) => (gap > most ? gap : most), this.longestGap);
    }
    if (target.missed > before) this.showNotice();
    this.view.advance(Math.max(this.view.now, target.last("t") || 0));
    this.requestDraw();
  }

  hear(message) {
    if (message.type === "figures") {
      this.figures = message;
      this.unsaid.push(message);
      if (this.unsaid.length > TREND_POINTS) this.unsaid.shift(); // nothing is drawn while the page is hidden
      this.requestDraw();
    } else if (message.type === "status") {
      this.status = message.status || message;
      this.noteState();
      this.requestDraw();
    } else if (message.type === "error") {
      this.refusal = message.message || "The lab refused the connection.";
      this.showNotice();
    } else if (message.type === "hello") {
      this.refusal = null;
      this.showNotice();
    }
  }

  showNotice() {
    const missed = Object.values(this.tables).reduce((sum, table) => sum + table.missed, 0);
    const words = [];
    if (this.refusal) words.push(this.refusal);
    if (this.connection === "reconnecting")
      words.push("The connection to the lab broke; trying again. Nothing is lost: the run goes on and is recorded.");
    if (missed)
      words.push(`${missed} rows were dropped on the way to this page to keep up; the recorded run has them all.`);
    write(this.notice, words.join(" "));
    this.notice.hidden = !words.length;
  }

  /** What a change of state does beside being shown: the page turns to it, and the time that is shown ends. */
  noteState() {
    const state = this.status ? this.status.state : null;
    if (state && state !== this.data.state && state !== this.told) this.turned((this.told = state));
    if (!FINAL.includes(state) || this.view.ended) return;
    this.view.ended = true;
    this.view.advance(this.view.now);
  }

  /** Write down what came since the last drawing. With the charts: each change by itself has the browser paint anew. */
  say() {
    for (const message of this.unsaid) for (const tile of this.tiles) tile.update(message);
    if (this.unsaid.length) this.limit.show(this.figures.limit || null, this.figures.final);
    this.unsaid = [];
    this.showStatus();
  }

  showStatus() {
    const state = this.status ? this.status.state : null;
    const shown = this.connection === "open" || FINAL.includes(state) ? state || "connecting" : this.connection;
    write(this.chip, CHIPS[shown] || shown);
    this.chip.dataset.state = shown;
    const progress = (this.status && this.status.progress) || {};
    const counts = (this.status && this.status.summary && this.status.summary.requests) || {};
    const total = progress.requests_total || 0;
    const done = known(counts.finished) ? counts.finished : progress.requests_done || 0;
    let share = total ? (progress.requests_ended || 0) / total : 0;
    if (this.data.expected_tokens > 0)
      share = Math.max(share, Math.min(1, (progress.output_tokens || 0) / this.data.expected_tokens));
    if (this.data.open_ended) share = 0; // clients may always ask for more
    if (state === "loading" && known(progress.phase_share)) share = progress.phase_share;
    if (state === "finished") share = 1;
    this.progressFill.style.width = (100 * share).toFixed(1) + "%";
    this.progress.setAttribute("aria-valuenow", String(Math.round(100 * share)));
    const words = [];
    if (state === "loading" && progress.phase) words.push(String(progress.phase));
    if (total) words.push(`${number(done)} of ${number(total)} requests`);
    if (progress.iterations) words.push(`${number(progress.iterations)} iterations`);
    if (state === "running" && share > 0.05 && share < 1 && this.view.now > 1) {
      words.push("about " + seconds((this.view.now * (1 - share)) / share) + " left");
    }
    write(this.progressText, words.join(" · "));
    this.showCost();
    this.showNotice();
  }

  viewChanged() {
    for (const [span, button] of this.spanButtons) {
      button.setAttribute("aria-pressed", String(this.view.following && this.view.span === span));
    }
    this.pauseButton.setAttribute("aria-pressed", String(this.view.paused));
    this.pauseButton.textContent = this.view.paused ? "Resume" : "Pause";
    this.shared.say(this.view.numbers());
    this.root.dataset.view = this.view.paused ? "paused" : this.view.following ? "following" : "zoomed";
    this.root.dataset.from = this.view.min.toFixed(3);
    this.root.dataset.to = this.view.max.toFixed(3);
    this.requestDraw();
  }

  setCursor(time) {
    if (this.cursorTime === time) return;
    this.cursorTime = time;
    for (const chart of this.charts) if (chart.u && chart.onScreen) chart.read();
  }

  /** Take colours and fonts from the page's theme. */
  restyle() {
    const style = getComputedStyle(this.root);
    const paper = style.getPropertyValue("--st-background-color").trim();
    const name = brightness(paper) < 0.5 ? "dark" : "light";
    this.palette = this.data.palettes[name];
    this.font = style.getPropertyValue("--st-font").trim() || "sans-serif";
    this.themeKey = name + paper + this.font;
    this.root.dataset.theme = name;
    for (const [key, value] of Object.entries(this.palette)) {
      this.root.style.setProperty("--" + key.replaceAll("_", "-"), value);
    }
  }

  requestDraw() {
    if (this.scheduled || this.gone) return;
    const wait = Math.max(0, (this.drawnAt || 0) + this.pace - performance.now());
    this.scheduled = setTimeout(() => requestAnimationFrame(() => this.draw()), wait);
  }

  draw() {
    this.scheduled = null;
    if (this.gone || document.hidden || !this.root.isConnected) return;
    const began = performance.now();
    this.width = this.root.clientWidth;
    if (!this.width) {
      this.say();
      return;
    }
    if (this.spanButtons && !this.root.dataset.view) this.viewChanged();
    this.root.classList.toggle("narrow", this.width < 640);
    const columns = this.width < 760 ? 1 : 2;
    this.grid.dataset.columns = columns;
    // Widths first: one that is read after a word was written has the browser lay out the page in between.
    const widths = this.charts.map((chart) => chart.plot.clientWidth);
    this.say();
    this.charts.forEach((chart, index) => widths[index] > 0 && chart.draw(widths[index]));
    this.drawnAt = began;
    this.draws += 1;
    this.beat(began);
    this.setPace(performance.now() - began);
    this.painted.port2.postMessage(began); // answered once the browser has laid out and painted what was drawn
    this.root.dataset.draws = this.draws;
    this.root.dataset.from = this.view.min.toFixed(3);
    this.root.dataset.to = this.view.max.toFixed(3);
    // What is drawn is also said, a little later and at most every few seconds, so that screen readers are not flooded.
    this.describing ??= setTimeout(() => {
      this.describing = null;
      for (const chart of this.charts) chart.describe();
    }, DESCRIBE_MS);
  }

  /** The mark beside the run's state changes as rows come. */
  beat(now) {
    if (now < (this.beatDue || 0)) return;
    this.beatDue = now + BEAT_MS;
    this.chip.dataset.beat = this.chip.dataset.beat === "on" && !this.calm ? "off" : "on";
  }

  /** Draw as often as this machine can spare; `spent`: milliseconds that this script took for a drawing. */
  setPace(spent) {
    this.drawCost = smooth(this.drawCost, spent);
    const wanted = Math.max(this.calm ? CALM_DRAW_MS : 0, this.drawCost / DRAWING_SHARE);
    const slower = PACES_MS.find((pace) => pace >= wanted) || PACES_MS[PACES_MS.length - 1];
    // faster again only with room to spare, or the pace would go to and fro
    if (slower > this.pace || wanted < 0.6 * slower) this.pace = slower;
    this.feed.ask(this.pace);
  }

  /** What watching costs, where a run is watched. */
  showCost() {
    const state = this.status ? this.status.state : null;
    const lab = this.figures && this.figures.watching_percent;
    const told = state === "running" && known(lab) && this.paintCost !== undefined;
    const page = (100 * this.paintCost) / this.pace;
    write(this.cost, told ? `drawn every ${seconds(this.pace / 1000)}: ${percent(page + lab)} of a core` : "");
  }

  destroy() {
    this.gone = true;
    clearTimeout(this.scheduled);
    clearTimeout(this.describing);
    this.shared.stop();
    this.feed.stop();
    this.observer.disconnect();
    this.painted.port1.close();
    document.removeEventListener("visibilitychange", this.woken);
    for (const chart of this.charts) chart.destroy();
    this.root.remove();
  }
}

/** A mean that follows what comes; `before` is undefined at first. */
function smooth(before, now) {
  return before === undefined ? now : 0.8 * before + 0.2 * now;
}

/** Relative brightness of a CSS colour in 0..1; 1 when it cannot be read. */
function brightness(colour) {
  const probe = document.createElement("canvas").getContext("2d");
  probe.fillStyle = "#ffffff";
  probe.fillStyle = colour;
  const [, hex] = /^#([0-9a-f]{6})$/i.exec(probe.fillStyle) || [];
  if (!hex) return 1;
  const [red, green, blue] = [0, 2, 4].map((at) => parseInt(hex.slice(at, at + 2), 16) / 255);
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
}

const boards = new WeakMap();

// Streamlit calls this again whenever the data or the theme changes and runs only the newest cleanup; a superseded
// call's cleanup may also run right after a newer call. So a cleanup ends the board only if no newer call follows.
export default function mount({ parentElement, data, setTriggerValue }) {
  let entry = boards.get(parentElement);
  if (entry && !entry.board.gone) entry.board.update(data);
  else {
    entry = { board: new Board(parentElement, data, (state) => setTriggerValue("turned", state)), calls: 0 };
    boards.set(parentElement, entry);
  }
  const call = ++entry.calls;
  return () =>
    setTimeout(() => {
      if (entry.calls === call) entry.board.destroy();
    }, 0);
}
