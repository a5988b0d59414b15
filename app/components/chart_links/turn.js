// Brings a Plotly chart to ranges of its axes. Plotly is out of reach here, so its "Reset axes" button is pressed, told
// what to reset to.

function same(one, other) {
  return Math.abs(one[0] - other[0]) + Math.abs(one[1] - other[1]) < 1e-9;
}

/** `ranges`: by the name of an axis; the others go back to where they began. Whether there was something to turn. */
function turnAxes(plot, ranges) {
  const layout = plot._fullLayout;
  const button = plot.querySelector(".modebar-btn[data-attr='zoom'][data-val='reset']");
  const wanted = Object.entries(ranges).filter(([name]) => layout?.[name]);
  if (!button || wanted.every(([name, range]) => same(layout[name].range, range))) return false;
  const first = wanted.map(([name]) => [name, layout[name]._rangeInitial0, layout[name]._rangeInitial1]);
  for (const [name, range] of wanted) [layout[name]._rangeInitial0, layout[name]._rangeInitial1] = range;
  try {
    button.click(); // the toolbar reads the ranges at once
  } finally {
    const now = plot._fullLayout;
    for (const [name, least, most] of first) [now[name]._rangeInitial0, now[name]._rangeInitial1] = [least, most];
  }
  return true;
}
