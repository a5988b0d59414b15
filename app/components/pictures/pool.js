// The KV pool as a map: every block a cell. Plays by itself, or follows the picture of an iteration on the same page.

const STATES = ["used by one request", "shared", "cached", "free"];
const MODES = [
  ["owner", "Owner"],
  ["state", "State"],
  ["sharing", "Sharing"],
  ["codec", "Codec"],
  ["age", "Age"],
];
const HIGHEST = 420; // pixels

/** [red, green, blue] as a pixel of ImageData, read as a whole number. */
function packed([red, green, blue]) {
  return ((255 << 24) | (blue << 16) | (green << 8) | red) >>> 0;
}

class PoolPicture {
  constructor(host, data) {
    this.mode = "owner";
    this.root = element("section", "picture", "", { "aria-label": "KV map" });
    this.root.addEventListener("keydown", (event) => this.player?.key(event));
    host.append(this.root);
    if (!data.follows) {
      this.player = new Player({
        label: "Which iteration",
        show: (index) => this.turn(this.player.at(index)),
        beyond: (iteration) => this.tell?.("asked", { ...selected(), iteration: String(iteration) }),
      });
      this.root.append(this.player.root, this.player.slider);
    }
    const bar = element("div", "filters", "", { role: "group", "aria-label": "Colour by" });
    this.modes = MODES.map(([mode, title]) => {
      const button = element("button", "quiet", title, { type: "button" });
      button.addEventListener("click", () => this.colour(mode));
      bar.append(button);
      return [mode, button];
    });
    this.told = element("p", "told");
    this.legend = element("div", "legend");
    const place = element("div");
    place.style.position = "relative";
    this.root.append(bar, this.told, this.legend, place);
    this.surface = new Surface(place, 120, "KV map", (ctx, width) => this.paint(ctx, width));
    this.tip = new Tip(place);
    this.surface.canvas.addEventListener("pointermove", (event) => this.point(event));
    this.surface.canvas.addEventListener("pointerleave", () => this.tip.hide());
    this.cells = document.createElement("canvas");
    this.own = {};
    this.address = new Kept("iteration");
    this.chosen = null;
    this.said = element("p", "told", "", { "aria-live": "polite" });
    this.root.append(this.said);
    this.surface.canvas.addEventListener("click", (event) => this.choose(this.blockAt(event)));
    this.following = ({ detail }) => detail.run === this.data.run && this.turn(detail.iteration);
    if (data.follows) document.addEventListener(FOLLOW, this.following);
    this.update(data);
    this.colour(this.mode);
  }

  update(data) {
    const same = sameWindow(this.data, data);
    if (data.block !== this.data?.block) this.chosen = data.block;
    this.data = data;
    dress(this.root, data.palette);
    const [start, holders, events] = [data.start, data.holders, data.events].map(columnsOf);
    this.replay = new PoolReplay({ blocks: data.blocks, first: data.from, start, holders, events });
    this.restyle();
    const led = data.follows && document[FOLLOW]?.run === data.run ? document[FOLLOW].iteration : data.iteration;
    const iteration = same ? this.iteration : led; // a reader may have gone on before this picture came
    if (this.player) this.player.load(columnsOf(data.steps), data.first, data.last, iteration);
    else this.turn(iteration);
  }

  restyle() {
    const { palette } = this.data;
    this.dark = channels(palette.background)[0] < 128;
    this.paper = channels(palette.background);
    this.colours = Object.fromEntries(Object.entries(palette).map(([name, colour]) => [name, channels(colour)]));
  }

  colour(mode) {
    this.mode = mode;
    for (const [of, button] of this.modes) button.setAttribute("aria-pressed", String(of === mode));
    this.surface.draw();
  }

  turn(iteration) {
    this.iteration = Math.max(this.data.from - 1, Math.min(this.data.until, iteration));
    if (this.player) this.address.set(iteration);
    this.surface.draw();
  }

  mixed(colour, share) {
    return colour.map((part, at) => Math.round(part * share + this.paper[at] * (1 - share)));
  }

  /** A colour of each share from 0 to 1 in 64 steps, packed as the pixels of a picture. */
  ramp(colour) {
    return Uint32Array.from({ length: 65 }, (_, step) => packed(this.mixed(colour, step / 64)));
  }

  /** A function that gives the packed colour of a block that is not free. A block that is not full yet is paler. */
  painter() {
    const { replay: pool, colours, dark } = this;
    const used = (block) => pool.refs[block] > 0;
    const whole = (block) => (pool.full[block] ? 64 : 38);
    const [mixed, memory, draft, decode, accent] = ["mixed", "kv_used", "draft", "decode", "accent"].map((name) =>
      this.ramp(colours[name]));
    const [cached, ghost] = [packed(colours.kv_cached), packed(colours.ghost)];
    const own = (this.own[dark] ??= new Map()); // request -> its colour, and the paler one of a cached block
    const now = this.iteration;
    return {
      owner: (block) => {
        const request = pool.owner[block];
        let pair = own.get(request);
        if (!pair) {
          pair = [0.35, 1].map((share) => packed(this.mixed(ownColour(request, dark), share)));
          own.set(request, pair);
        }
        return pair[used(block) ? 1 : 0];
      },
      state: (block) => (pool.refs[block] > 1 ? mixed[64] : used(block) ? memory[whole(block)] : cached),
      sharing: (block) =>
        used(block) ? mixed[Math.min(64, 16 + Math.round(16 * Math.log2(pool.refs[block])))] : ghost,
      codec: (block) => (pool.packed[block] ? draft : decode)[used(block) ? whole(block) : 26],
      age: (block) => accent[Math.round(64 / (1 + 0.35 * Math.log2(1 + Math.max(0, now - pool.changed[block]))))],
    }[this.mode];
  }

  /** Cells in a row, rows, and pixels of a cell: as large as fits the width and HIGHEST. */
  layout(width) {
    const { blocks } = this.data;
    let edge = Math.min(22, Math.floor(Math.sqrt((width * HIGHEST) / blocks)));
    edge = Math.max(2, edge);
    const across = Math.max(1, Math.min(blocks, Math.floor(width / edge)));
    return { edge, across, down: Math.ceil(blocks / across) };
  }

  paint(ctx, width) {
    this.replay.seek(this.iteration);
    const { edge, across, down } = (this.shape = this.layout(width));
    const high = down * edge;
    if (this.surface.height !== high) {
      this.surface.height = high;
      this.surface.draw();
      return;
    }
    const { blocks } = this.data;
    this.cells.width = across;
    this.cells.height = down;
    const drawn = new ImageData(across, down);
    const pixels = new Uint32Array(drawn.data.buffer); // little endian: alpha, blue, green, red
    const counts = [0, 0, 0, 0];
    const seen = [0, 0]; // packed, not full
    const { replay } = this;
    const colourOf = this.painter();
    const free = packed(this.colours.grid);
    for (let block = 0; block < blocks; block++) {
      const state = replay.state(block);
      counts[state]++;
      if (state === EMPTY) {
        pixels[block] = free;
        continue;
      }
      pixels[block] = colourOf(block);
      if (replay.packed[block]) seen[0]++;
      if (state !== CACHED && !replay.full[block]) seen[1]++;
    }
    const cells = this.cells.getContext("2d");
    cells.putImageData(drawn, 0, 0);
    ctx.imageSmoothingEnabled = false;
    ctx.drawImage(this.cells, 0, 0, across * edge, down * edge);
    if (edge >= 6) this.paintGrid(ctx, across, down, edge);
    this.paintSelected(ctx, across, edge);
    this.say(counts, seen);
  }

  /** A frame around the selected block, and around every block that the selected request holds. */
  paintSelected(ctx, across, edge) {
    const { blocks, palette, request } = this.data;
    ctx.strokeStyle = palette.text;
    const frame = (block, wide) => {
      ctx.lineWidth = wide;
      const [x, y] = [(block % across) * edge, Math.floor(block / across) * edge];
      ctx.strokeRect(x + wide / 2, y + wide / 2, edge - wide, edge - wide);
    };
    if (Number.isInteger(request) && edge >= 4) for (const block of this.replay.blocksOf(request)) frame(block, 1);
    const there = Number.isInteger(this.chosen) && this.chosen < blocks;
    if (there) frame(this.chosen, Math.max(2, edge / 5));
    const said = there ? this.about(this.chosen).join("; ") + "." : "";
    if (this.said.textContent !== said) this.said.textContent = said;
  }

  /** Select a block, or take the selection back; in the address, where a link finds it. */
  choose(block) {
    this.chosen = block === this.chosen || block < 0 ? null : block;
    rewrite((parameters) => {
      if (this.chosen === null) parameters.delete("block");
      else parameters.set("block", String(this.chosen));
    });
    this.surface.draw();
  }

  paintGrid(ctx, across, down, edge) {
    ctx.strokeStyle = this.data.palette.background;
    ctx.lineWidth = edge >= 12 ? 2 : 1;
    ctx.beginPath();
    for (let column = 1; column < across; column++) {
      ctx.moveTo(column * edge, 0);
      ctx.lineTo(column * edge, down * edge);
    }
    for (let row = 1; row < down; row++) {
      ctx.moveTo(0, row * edge);
      ctx.lineTo(across * edge, row * edge);
    }
    ctx.stroke();
  }

  say(counts, [packed, open]) {
    const { blocks, from, until } = this.data;
    const shown = Math.max(from - 1, this.iteration);
    const parts = STATES.map((name, state) => `${whole(counts[state])} ${name}`);
    const text = `After iteration ${whole(shown)}, of ${whole(blocks)} blocks: ${parts.join(", ")}; ` +
      `${whole(open)} in use are not full` + (packed ? `, ${whole(packed)} are packed` : "") + ".";
    const late = this.data.follows && (shown >= until && until < this.data.last) ?
      " What comes later is loaded when the page is drawn again." : "";
    this.told.textContent = text + late;
    this.surface.canvas.setAttribute("aria-label", "KV map. " + text);
    this.fillLegend();
  }

  fillLegend() {
    if (this.explained === this.mode + this.dark) return;
    this.explained = this.mode + this.dark;
    const { colours } = this;
    const marks = {
      owner: [
        [ownColour(0, this.dark), "a colour for each request that wrote the block; paler: cached"],
        [colours.grid, "free"],
      ],
      state: [
        [colours.kv_used, "used (paler: not full)"],
        [colours.mixed, "shared"],
        [colours.kv_cached, "cached"],
        [colours.grid, "free"],
      ],
      sharing: [
        [this.mixed(colours.mixed, 0.25), "held by one"],
        [colours.mixed, "by eight and more"],
        [colours.ghost, "cached"],
        [colours.grid, "free"],
      ],
      codec: [
        [colours.decode, "full precision"],
        [colours.draft, "packed"],
        [this.mixed(colours.decode, 0.4), "paler: cached, or not full"],
        [colours.grid, "free"],
      ],
      age: [
        [colours.accent, "changed in this iteration"],
        [this.mixed(colours.accent, 0.25), "long ago"],
        [colours.grid, "free"],
      ],
    }[this.mode];
    this.legend.replaceChildren(...marks.map(([colour, text]) => {
      const swatch = element("i", "swatch");
      swatch.style.setProperty("--mark", css(colour));
      const item = element("span");
      item.append(swatch, text);
      return item;
    }));
  }

  /** The block under the pointer, -1 beside all. */
  blockAt(event) {
    const { edge, across } = this.shape || this.layout(this.surface.canvas.clientWidth);
    const [x, y] = this.surface.place(event);
    const block = Math.floor(y / edge) * across + Math.floor(x / edge);
    const beside = x < 0 || Math.floor(x / edge) >= across || block < 0 || block >= this.data.blocks;
    return beside ? -1 : block;
  }

  point(event) {
    const block = this.blockAt(event);
    if (block < 0) return this.tip.hide();
    this.tip.show(event, [...this.about(block), "Click: keep it in sight"]);
    return undefined;
  }

  /** A block in words: who holds it, which of their tokens lie in it, what became of it. */
  about(block) {
    const { replay: pool } = this;
    const size = this.data.block_size;
    const state = pool.state(block);
    const lines = [`Block ${block}: ${STATES[state]}`];
    const holders = pool.holdersOf(block);
    let said = "";
    for (const [request, position] of holders.slice(0, 6)) {
      lines.push(`${this.named(request)}: tokens ${position * size} to ${(position + 1) * size - 1}`);
      const says = this.data.texts?.[request]?.[position];
      if (says && says !== said) lines.push(`“${(said = says)}”`); // those who share a block share its text
    }
    if (holders.length > 6) lines.push(`and ${holders.length - 6} more`);
    if (state === CACHED) lines.push(`written by ${this.named(pool.owner[block])}; found when its text comes again`);
    if (state !== EMPTY) {
      lines.push([pool.full[block] ? "full" : "not full", pool.packed[block] ? "packed" : "full precision"].join(", "));
      lines.push(`changed in iteration ${pool.changed[block]}`);
    }
    return lines;
  }

  named(request) {
    const name = this.data.names[request];
    return name ? `request ${request} (${name})` : `request ${request}`;
  }

  destroy() {
    this.player?.stop();
    this.address.stop();
    document.removeEventListener(FOLLOW, this.following);
    this.surface.destroy();
    this.root.remove();
  }
}

export default mounting(PoolPicture);
