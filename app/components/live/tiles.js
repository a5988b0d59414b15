// Key figures: one tile per figure, with its recent trend.

const TREND_POINTS = 120;

class Tile {
  constructor(spec) {
    this.spec = spec;
    this.trend = [];
    this.root = element("div", "tile");
    this.label = element("div", "tile-label");
    this.plain = element("div", "tile-plain");
    this.after = null; // whether it is named for a run that is over
    this.name(false);
    this.root.append(this.label, this.plain);
    this.value = element("div", "tile-value", DASH);
    this.minor = element("div", "tile-minor", "");
    this.spark = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    const about = { class: "spark", viewBox: "0 0 120 28", preserveAspectRatio: "none", "aria-hidden": "true" };
    for (const [name, value] of Object.entries(about)) {
      this.spark.setAttribute(name, value);
    }
    this.area = document.createElementNS("http://www.w3.org/2000/svg", "path");
    this.line = document.createElementNS("http://www.w3.org/2000/svg", "path");
    this.area.setAttribute("class", "spark-area");
    this.line.setAttribute("class", "spark-line");
    this.spark.append(this.area, this.line);
    // A figure that stays as it is has no trend: a second line of words takes its place.
    this.note = spec.note ? element("div", "tile-minor tile-note", "") : null;
    if (this.note) this.minor.classList.add("tile-note");
    this.root.append(this.value, this.minor, this.note || this.spark);
  }

  /** Its label and help: those of a run that goes on, or of one that is over. */
  name(after) {
    if (this.after === after) return;
    this.after = after;
    const words = (after && this.spec.after) || this.spec;
    this.label.replaceChildren(element("span", "", words.label), helpButton(words.label, words.help));
    this.plain.textContent = words.plain;
  }

  /** Take a `figures` message. A trend that comes with it replaces what was gathered here. */
  update(figures) {
    this.name(Boolean(figures.final));
    write(this.value, this.spec.value(figures));
    write(this.minor, this.spec.minor(figures));
    if (this.note) {
      write(this.note, this.spec.note(figures));
      return;
    }
    if (figures.final) return; // of the whole run: no point of a trend
    const given = figures.trend ? this.spec.trend(figures.trend) : null;
    if (Array.isArray(given) && given.length) this.trend = given.slice(-TREND_POINTS);
    else this.trend.push(this.spec.raw(figures));
    if (this.trend.length > TREND_POINTS) this.trend.shift();
    this.drawTrend();
  }

  drawTrend() {
    const points = this.trend.map((value, index) => [index, value]).filter(([, value]) => known(value));
    if (points.length < 2) return;
    const top = Math.max(...points.map(([, value]) => value), 1e-9);
    const last = this.trend.length - 1;
    const at = ([index, value]) => `${((120 * index) / last).toFixed(1)},${(27 - (25 * value) / top).toFixed(1)}`;
    const path = "M" + points.map(at).join("L");
    this.line.setAttribute("d", path);
    this.area.setAttribute("d", `${path}L120,28L${((120 * points[0][0]) / last).toFixed(1)},28Z`);
  }

  clear() {
    this.name(false);
    this.trend = [];
    this.value.textContent = DASH;
    this.minor.textContent = "";
    if (this.note) this.note.textContent = "";
    this.line.removeAttribute("d");
    this.area.removeAttribute("d");
  }
}

/** Tile specifications; `words` maps ids to {label, plain, help}, `after` those of a run that is over. */
function tileSpecs(words, after) {
  const p = (figure, name) => (figure ? figure[name] : null);
  const p99 = (figures, name) => {
    const few = known(p(figures[name], "p99")) && figures.too_few[name].includes("p99");
    return "p99 " + milliseconds(p(figures[name], "p99")) + (few ? " of " + whole(figures[name].count) : "");
  };
  const device = (figures) => figures.device || {};
  return [
    {
      id: "speed",
      value: (f) => rate(f.tokens_per_s),
      minor: (f) => (f.final ? "tok/s, whole run" : "tokens per second"),
      raw: (f) => f.tokens_per_s,
      trend: (t) => t.tokens_per_s,
    },
    {
      id: "ttft",
      value: (f) => milliseconds(p(f.ttft_ms, "p50")),
      minor: (f) => p99(f, "ttft_ms"),
      raw: (f) => p(f.ttft_ms, "p50"),
      trend: (t) => t.ttft_p50,
    },
    {
      id: "itl",
      value: (f) => milliseconds(p(f.itl_ms, "p50")),
      minor: (f) => p99(f, "itl_ms"),
      raw: (f) => p(f.itl_ms, "p99"),
      trend: (t) => t.itl_p99,
    },
    {
      id: "requests",
      value: (f) => (f.final ? whole(f.requests.finished) : number(f.running)),
      minor: (f) => (f.final ? "of " + requests(f.requests.total || 0) : number(f.waiting) + " waiting"),
      raw: (f) => f.running,
      trend: (t) => t.running,
    },
    {
      id: "kv",
      value: (f) => percent(known(f.kv_used_share) ? 100 * f.kv_used_share : null),
      minor: () => "of the KV pool",
      raw: (f) => f.kv_used_share,
      trend: (t) => t.kv_used_share,
    },
    {
      id: "capacity",
      value: (f) => whole(p(f.capacity, "tokens")),
      minor: (f) => {
        const couldHold = p(f.capacity, "could_hold_tokens");
        const room = known(couldHold) ? "of " + compact(couldHold) + ": " : "tokens, ";
        return known(p(f.capacity, "requests")) ? room + requests(f.capacity.requests) + " at once" : "tokens";
      },
      note: (f) => (f.capacity ? f.capacity.name + (known(f.capacity.bits) ? ", " + bits(f.capacity.bits) : "") : ""),
    },
    {
      id: "device",
      value: (f) => percent(device(f).utilization),
      minor: (f) =>
        [bytes(device(f).memory_used), known(device(f).power) ? number(device(f).power) + " W" : ""]
          .filter((text) => text && text !== DASH)
          .join(", "),
      raw: (f) => device(f).utilization,
      trend: (t) => t.utilization,
    },
  ].map((spec) => ({ ...spec, ...words[spec.id], after: after[spec.id] }));
}

/** One sentence on what limits the engine now, with the figures behind it on request. */
class LimitLine {
  /** `words`: {title, figures: {name: {label, unit, help}}}. */
  constructor(words) {
    this.words = words;
    this.root = element("div", "limit");
    const told = element("div");
    this.sentence = element("p", "limit-sentence", "");
    this.title = element("div", "limit-title", words.title);
    told.append(this.title, this.sentence);
    this.button = element("button", "quiet", "Why?", { type: "button", "aria-expanded": "false" });
    this.figures = element("dl", "limit-figures", "", { hidden: "" });
    this.button.addEventListener("click", () => {
      this.figures.hidden = !this.figures.hidden;
      this.button.setAttribute("aria-expanded", String(!this.figures.hidden));
    });
    this.root.append(told, this.button, this.figures);
    this.show(null);
  }

  /** `final`: the judgement is of a run that is over. */
  show(limit, final = false) {
    write(this.title, final ? this.words.title_after : this.words.title);
    this.root.dataset.kind = limit ? limit.kind : "none";
    const sentence = limit ? limit.sentence : "Known once the engine has run for a moment.";
    write(this.sentence, sentence);
    this.button.hidden = !limit;
    if (!limit) return;
    this.figures.replaceChildren(
      ...Object.entries(limit.figures || {}).flatMap(([name, value]) => {
        const { label, unit, help } = this.words.figures[name]
          || { label: name.replaceAll("_", " "), unit: "", help: "" };
        const written = unit === "ms" ? milliseconds : number;
        const shown = unit === "share" ? percent(known(value) ? 100 * value : null) : written(value);
        const entry = element("div");
        entry.append(element("dt", "", label), element("dd", "", shown), element("dd", "limit-help", help));
        return [entry];
      }),
    );
  }
}
