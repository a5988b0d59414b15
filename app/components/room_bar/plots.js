// Plotly charts of a page as shared views: told when the reader zooms one, and brought where the room asks.

const AXES = ["xaxis", "yaxis"];
const tiedPlots = new WeakMap();
const askedPlots = new WeakSet(); // a zoom that the room asked for is no reader's

/** A chart by its place in the page: the key of the container that it stands in, and which of its charts it is. */
function nameOf(plot) {
  const box = plot.closest("[class*='st-key-']");
  const key = box && [...box.classList].find((name) => name.startsWith("st-key-"));
  const beside = [...(box ?? document).querySelectorAll(".js-plotly-plot")];
  return `${(key ?? "page").slice(0, 100)} ${beside.indexOf(plot)}`;
}

/** Both ranges of a chart that is zoomed, one after the other; nothing of one that shows all. */
function rangesOf(plot) {
  const axes = AXES.map((name) => plot._fullLayout?.[name]);
  if (!axes.every((axis) => axis?.range?.every(Number.isFinite))) return [];
  const whole = axes.every(({ range, _rangeInitial0: least, _rangeInitial1: most }) =>
    least === undefined || same(range, [least, most]));
  return whole ? [] : axes.flatMap((axis) => axis.range);
}

function turnPlot(plot, view) {
  const ranges = { xaxis: view.slice(0, 2), yaxis: view.slice(2, 4) };
  const axes = AXES.map((name) => plot._fullLayout?.[name]);
  if (!axes.every(Boolean)) return;
  if (view.length < 4) {
    for (const [at, { _rangeInitial0: least, _rangeInitial1: most }] of axes.entries()) {
      ranges[AXES[at]] = least === undefined ? axes[at].range : [least, most];
    }
  }
  askedPlots.add(plot);
  if (!turnAxes(plot, ranges)) askedPlots.delete(plot);
}

/** Tie the charts that came since the last call, and let go of those that left. */
function tiePlots() {
  for (const plot of document.querySelectorAll(".js-plotly-plot")) {
    if (typeof plot.on !== "function" || !plot._fullLayout) continue;
    const name = nameOf(plot);
    const tied = tiedPlots.get(plot);
    if (tied?.name === name) continue;
    tied?.stop();
    const shared = new SharedView(name, (view) => plot.isConnected ? turnPlot(plot, view) : shared.stop());
    tiedPlots.set(plot, shared);
    if (!tied) plot.on("plotly_relayout", () => askedPlots.delete(plot) || tiedPlots.get(plot).say(rangesOf(plot)));
  }
}
