// One chart card: heading, legend with values under the cursor, uPlot frame, keyboard, text alternative.

const SYNC = "servescope-live";

class ChartCard {
  /**
   * `spec`: {id, title, help, unit(value), legend: [{name, colour(palette), mark}], values(row time) -> strings,
   * peak(view) -> y maximum,
   * log, paint(u, palette), tip(time, value) -> lines or null, summary() -> text, axes}
   */
  constructor(board, spec) {
    this.board = board;
    this.spec = spec;
    this.top = 0; // upper end of the y axis, kept until it must grow or may shrink a lot
    this.dirty = true;
    this.onScreen = true;
    this.build();
  }

  build() {
    const { spec } = this;
    this.root = element("section", "card " + (spec.wide ? "wide" : ""), "", { "aria-label": spec.title });
    const head = element("div", "card-head");
    const title = element("h3", "", spec.title);
    head.append(title, helpButton(spec.title, spec.help));
    this.actions = element("div", "card-actions");
    head.append(this.actions);
    this.legend = element("div", "legend");
    this.readings = spec.legend.map((entry) => {
      const item = element("span", "legend-item");
      const swatch = element("i", "swatch " + (entry.mark || "square"));
      const reading = element("b", "reading", "");
      item.append(swatch, element("span", "", entry.name), reading);
      this.legend.append(item);
      return { entry, swatch, reading, item };
    });
    this.plot = element("div", "plot", "", { tabindex: "0", role: "img", "aria-label": spec.title });
    this.tip = element("div", "tip", "", { hidden: "", "aria-hidden": "true" });
    this.root.append(head, this.legend, this.plot);
    this.plot.append(this.tip);
    this.plot.addEventListener("keydown", (event) => this.key(event));
    this.watcher = new IntersectionObserver((entries) => {
      this.onScreen = entries[entries.length - 1].isIntersecting;
      if (this.onScreen) this.board.requestDraw();
    });
    this.watcher.observe(this.root);
  }

  key(event) {
    const view = this.board.view;
    const acts = {
      ArrowLeft: () => view.shift(-0.2),
      ArrowRight: () => view.shift(0.2),
      "+": () => view.scale(0.5),
      "=": () => view.scale(0.5),
      "-": () => view.scale(2),
      " ": () => view.setPaused(!view.paused),
      f: () => view.toFollow(),
      Escape: () => view.toFollow(),
    };
    const act = acts[event.key];
    if (!act || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    event.stopPropagation();
    act();
  }

  height() {
    const narrow = this.board.width < 640;
    if (this.spec.wide && !this.spec.low) return narrow ? 210 : 250;
    return narrow ? 180 : 190;
  }

  yRange() {
    const { spec, board } = this;
    if (spec.range) return spec.range(board.view);
    const peak = spec.peak(board.view);
    const wanted = roundUp(peak * 1.04);
    if (wanted > this.top || wanted < this.top * 0.45 || !board.view.following) this.top = wanted;
    return [0, this.top];
  }

  make(width) {
    const { spec, board } = this;
    if (this.u) this.u.destroy();
    const colours = board.palette;
    const right = this.madeRight ? spec.rightAxis : null;
    const font = `12px ${board.font}`;
    const [grid, ticks] = [{ stroke: colours.grid, width: 1 }, { stroke: colours.grid, size: 4 }];
    const axis = { stroke: colours.muted, font, grid, ticks };
    const options = {
      width,
      height: this.height(),
      padding: [8, right ? 0 : 12, 0, 0],
      legend: { show: false },
      cursor: {
        sync: { key: SYNC, setSeries: false, scales: ["x", null] },
        drag: { x: true, y: false, setScale: false, dist: 4 },
        points: { show: false },
        y: Boolean(spec.tip),
      },
      select: { show: true },
      scales: {
        x: { time: false, range: () => [board.view.min, board.view.max] },
        y: { distr: spec.log && spec.log() ? 3 : 1, log: 10, range: () => this.yRange() },
        ...(spec.rightAxis ? { y2: { range: () => spec.rightAxis.range(board.view) } } : {}),
      },
      axes: [
        { ...axis, size: 30, space: 70, values: (u, marks) => marks.map(axisLabel((mark) => number(mark) + " s")) },
        {
          ...axis,
          size: 76,
          space: 34,
          values: (u, marks) => marks.map(axisLabel(spec.unit)),
          ...(spec.log && spec.log()
            ? { splits: (u, index, min, max) => logMarks(min, max), filter: (u, marks) => marks }
            : {}),
        },
        ...(right
          ? [{
              ...axis, side: 1, scale: "y2", size: 58, grid: { show: false },
              values: (u, marks) => marks.map(axisLabel(right.unit)),
            }]
          : []),
      ],
      series: spec.series
        ? spec.series(colours)
        : [{}, { scale: "y", paths: () => null, points: { show: false } }],
      hooks: {
        drawClear: [(u) => this.paintPaper(u)],
        draw: [
          ...(spec.paint ? [(u) => spec.paint(u, colours, board.view)] : []),
          ...(spec.rows ? [(u) => spec.rows() || this.paintWaiting(u)] : []),
        ],
        setSelect: [(u) => this.selected(u)],
        setCursor: [(u) => this.moved(u)],
      },
    };
    this.u = new uPlot(options, this.data(), this.plot);
    this.u.fontFamily = board.font;
    this.u.paperColour = colours.background;
    this.u.over.addEventListener("dblclick", () => board.view.toFollow());
    this.u.over.addEventListener("mouseleave", () => (this.tip.hidden = true));
    for (const { entry, swatch } of this.readings) swatch.style.setProperty("--mark", entry.colour(colours));
    this.dirty = false;
  }

  /**
   * Shade the time after the last known moment, so that an empty stretch reads as "not yet" and not as "nothing
   * happened".
   */
  paintPaper(u) {
    const { view, palette } = this.board;
    if (view.ended || view.now <= view.min || view.now >= view.max) return;
    const x = u.valToPos(view.now, "x", true);
    u.ctx.save();
    u.ctx.globalAlpha = 0.5;
    u.ctx.fillStyle = palette.surface;
    u.ctx.fillRect(x, u.bbox.top, u.bbox.left + u.bbox.width - x, u.bbox.height);
    u.ctx.restore();
  }

  /** Say on an empty chart what will come, or that nothing came; the grid does not run through the words. */
  paintWaiting(u) {
    const { view, palette, font } = this.board;
    const ratio = devicePixelRatio || 1;
    const words = view.ended ? "Nothing was recorded." : this.spec.waiting || "The first iteration appears here.";
    const [x, y] = [u.bbox.left + u.bbox.width / 2, u.bbox.top + u.bbox.height / 2];
    u.ctx.save();
    u.ctx.font = `${14 * ratio}px ${font}`;
    u.ctx.textAlign = "center";
    u.ctx.textBaseline = "middle";
    const half = u.ctx.measureText(words).width / 2 + 8 * ratio;
    u.ctx.fillStyle = palette.background;
    u.ctx.fillRect(x - half, y - 12 * ratio, 2 * half, 24 * ratio);
    u.ctx.fillStyle = palette.muted;
    u.ctx.fillText(words, x, y);
    u.ctx.restore();
  }

  data() {
    const { view } = this.board;
    return this.spec.data ? this.spec.data(view) : [[view.min, view.max], [0, 1]];
  }

  draw(width) {
    if (!this.onScreen && this.u) {
      this.dirty = true;
      return;
    }
    const log = this.spec.log ? this.spec.log() : false;
    const right = Boolean(this.spec.rightAxis && this.spec.rightAxis.shown());
    if (!this.u || this.madeLog !== log || this.madeRight !== right || this.madeTheme !== this.board.themeKey) {
      this.madeLog = log;
      this.madeRight = right;
      this.madeTheme = this.board.themeKey;
      this.make(width);
    } else if (this.u.width !== width || this.u.height !== this.height()) {
      this.u.setSize({ width, height: this.height() });
    }
    this.u.setData(this.data());
    this.read();
  }

  /** Write the values under the cursor (or the newest) into the legend. */
  read() {
    const time = this.board.cursorTime;
    const texts = this.spec.values(time);
    this.readings.forEach(({ reading, entry, item }, index) => {
      write(reading, texts[index]);
      if (entry.visible) item.hidden = !entry.visible();
    });
  }

  selected(u) {
    const { left, width } = u.select;
    if (width < 5) return;
    const from = u.posToVal(left, "x");
    const to = u.posToVal(left + width, "x");
    u.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
    this.board.view.zoom(from, to);
  }

  moved(u) {
    const inside = u.cursor.left !== undefined && u.cursor.left >= 0;
    const time = inside ? u.posToVal(u.cursor.left, "x") : null;
    this.board.setCursor(time);
    const own = inside && u.over.matches(":hover"); // the other charts only follow
    const lines = own && this.spec.tip ? this.spec.tip(time, u.posToVal(u.cursor.top, "y"), u) : null;
    this.tip.hidden = !lines;
    if (!lines) return;
    this.tip.replaceChildren(...lines.map((line, index) => element("div", index ? "" : "tip-head", line)));
    const x = u.cursor.left + u.over.offsetLeft;
    const right = x > this.plot.clientWidth / 2;
    this.tip.style.left = right ? "" : x + 14 + "px";
    this.tip.style.right = right ? this.plot.clientWidth - x + 14 + "px" : "";
    this.tip.style.top = Math.max(0, Math.min(u.cursor.top - 10, this.height() - 150)) + "px";
  }

  describe() {
    this.plot.setAttribute("aria-label", this.spec.title + ". " + this.spec.summary());
  }

  destroy() {
    this.watcher.disconnect();
    if (this.u) this.u.destroy();
    this.u = null;
  }
}

/** Marks of a logarithmic axis: 1, 2, 5 of every decade; only the decades where there are many. */
function logMarks(min, max) {
  const decades = Math.log10(max / min);
  const marks = [];
  for (let power = Math.floor(Math.log10(min)); power <= Math.ceil(Math.log10(max)); power++) {
    for (const step of decades > 2.6 ? [1] : [1, 2, 5]) {
      const mark = Number((step * 10 ** power).toPrecision(6));
      if (mark >= min * 0.999 && mark <= max * 1.001) marks.push(mark);
    }
  }
  return marks;
}

/** A small "?" that opens an explanation; reachable by keyboard, closed by Escape or a second press. */
function helpButton(about, text) {
  const wrap = element("span", "help");
  const button = element("button", "help-button", "?", {
    type: "button", "aria-label": "What is " + about + "?", "aria-expanded": "false",
  });
  const bubble = element("span", "help-text", text, { hidden: "", role: "note" });
  const show = (open) => {
    bubble.hidden = !open;
    button.setAttribute("aria-expanded", String(open));
  };
  button.addEventListener("click", () => show(bubble.hidden));
  button.addEventListener("keydown", (event) => event.key === "Escape" && show(false));
  button.addEventListener("blur", () => show(false));
  wrap.append(button, bubble);
  return wrap;
}
