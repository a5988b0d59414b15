// Ties the charts of a page together: those over the run's time zoom as one, and a click on a mark opens what its hover
// names. Figures say which they are in layout.meta ("time"), traces what a mark stands for in meta ({opens, run}); its
// number comes first in customdata.

function linked(plot) {
  return plot._fullLayout?.meta === "time" && plot._fullLayout.xaxis;
}

const turned = new WeakSet(); // charts that another chart's zoom, or the address, has turned

/** Bring a chart to a stretch of time. */
function turnTo(plot, range) {
  if (same(plot._fullLayout.xaxis.range, range)) return;
  turned.add(plot);
  if (!turnAxes(plot, { xaxis: range })) turned.delete(plot);
}

/** Whether the pointer is on the mark: of a bar (meta.bar) not above it, where a double click resets the zoom. */
function hit(plot, { data, yaxis, y }, { clientY }) {
  return !data.meta.bar || yaxis.p2d(clientY - plot.getBoundingClientRect().top - yaxis._offset) <= y;
}

/** The stretch of time in sight is a part of the address; the whole run is none. */
function keepStretch(plot, range) {
  const whole = plot._fullLayout.xaxis._rangeInitial0;
  const until = plot._fullLayout.xaxis._rangeInitial1;
  const all = whole === undefined || same(range, [whole, until]);
  rewrite((parameters) => {
    ["from", "to"].forEach((name, end) => {
      if (all) parameters.delete(name);
      else parameters.set(name, Math.max(0, range[end]).toFixed(3));
    });
  });
}

/** The stretch of time that the address names, in s. */
function stretch() {
  const { from, to } = selected();
  const range = [Number.parseFloat(from), Number.parseFloat(to)];
  return range[0] >= 0 && range[1] > range[0] ? range : null;
}

function tie(plot, open) {
  const first = linked(plot) && stretch();
  if (first && first[0] < plot._fullLayout.xaxis.range[1]) turnTo(plot, first);
  plot.on("plotly_relayout", () => {
    if (turned.delete(plot) || !linked(plot)) return;
    const range = plot._fullLayout.xaxis.range.slice();
    keepStretch(plot, range);
    for (const other of document.querySelectorAll(".js-plotly-plot")) {
      if (other !== plot && linked(other)) turnTo(other, range);
    }
  });
  plot.on("plotly_click", ({ points, event }) => {
    const point = points.find((candidate) => candidate.data.meta?.opens && hit(plot, candidate, event));
    if (!point) return;
    const custom = point.customdata;
    const number = Number(typeof custom === "object" ? custom[0] : custom);
    const { opens, run } = point.data.meta;
    if (Number.isInteger(number)) open({ opens, run, number, selected: selected() });
  });
}

export default function mount({ parentElement, setTriggerValue }) {
  const known = (parentElement.known ??= new WeakSet());
  const open = (what) => {
    setTriggerValue("opened", what);
    document.querySelector("[data-testid=stTabs]")?.scrollIntoView({ block: "start" });
  };
  let waits = false;
  const look = () => {
    waits = false;
    for (const plot of document.querySelectorAll(".js-plotly-plot"))
      if (typeof plot.on === "function" && !known.has(plot)) {
        known.add(plot);
        tie(plot, open);
      }
  };
  const watcher = new MutationObserver(() => {
    if (waits) return;
    waits = true;
    requestAnimationFrame(look);
  });
  watcher.observe(document.querySelector("[data-testid=stMain]") ?? document.body, { childList: true, subtree: true });
  look();
  return () => watcher.disconnect();
}
