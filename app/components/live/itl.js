// The gap between two tokens of one request: every one a dot, stalls marked, an earlier run behind as a ghost.

function itlSpec(board) {
  const tokens = board.tables.token;
  const log = () => board.itlLog;
  const stallMs = () => board.data.stall_ms;
  const told = (stalls, longest) =>
    (stalls === 1 ? "1 stall" : number(stalls) + " stalls") +
    (longest > 0 ? ", longest gap " + milliseconds(longest) : "");
  const itl = () => (board.figures && board.figures.itl_ms) || {};
  const toldNow = () => (board.figures && known(itl().max) ? told(board.figures.stalls, itl().max) : DASH);
  return {
    id: "itl",
    rows: () => board.tables.token.rows,
    waiting: "The first ITL appears here, once a request has two tokens.",
    wide: true,
    log,
    unit: milliseconds,
    legend: [
      { name: "ITL", colour: (c) => c.decode, mark: "dot" },
      { name: "stall", colour: (c) => c.stall, mark: "dot big" },
      {
        name: "before: " + (board.data.ghost ? board.data.ghost.name : ""), colour: (c) => c.ghost, mark: "dot",
        visible: () => Boolean(board.ghost),
      },
    ],
    values: () => {
      const median = known(itl().p50) ? "median " + milliseconds(itl().p50) : DASH;
      return [median, toldNow(), board.ghost ? told(board.ghost.stalls, board.ghost.longest_ms) : ""];
    },
    range: (view) => {
      let high = Math.max(board.longestGap, board.ghost ? board.ghost.longest_ms : 0, 1.2 * stallMs(), 10);
      let low = Infinity;
      const from = tokens.at(view.min);
      const values = tokens.get("itl_ms");
      for (let row = from; row < values.length; row++) if (values[row] > 0 && values[row] < low) low = values[row];
      if (board.ghost) low = Math.min(low, board.ghost.shortest);
      if (!Number.isFinite(low)) low = 1;
      if (!log()) return [0, roundUp(high * 1.05)];
      const least = 10 ** Math.floor(Math.log10(low));
      return [least, Math.max(10 ** Math.ceil(Math.log10(low) + 0.5), roundUp(high * 1.15))];
    },
    paint: (u, colours, view) => {
      const size = Math.max(2, (board.width < 640 ? 2.5 : 3) * (devicePixelRatio || 1));
      const limit = stallMs();
      if (board.ghost) {
        u.ctx.globalAlpha = 0.7;
        paintDots(u, board.ghost.t, board.ghost.itl_ms, 0, board.ghost.t.length, { ...view, limit: Infinity }, size,
          (value) => [
          colours.ghost,
          value > limit ? 1.7 : 1,
        ]);
        u.ctx.globalAlpha = 1;
      }
      const from = tokens.at(view.min);
      paintDots(u, tokens.get("t"), tokens.get("itl_ms"), from, tokens.at(view.max + 1e-9), view, size, (value) =>
        value > limit ? [colours.stall, 1.7] : [colours.decode, 1],
      );
      paintLevel(u, limit, colours.stall, "stall: over " + milliseconds(limit));
    },
    tip: (time, value, u) => nearestToken(board, time, u, stallMs()),
    summary: () =>
      tokens.rows ? `${tokens.next} gaps, median ${milliseconds(itl().p50)}, ${toldNow()}.` : "No token yet.",
  };
}

/** The words for the dot nearest the cursor, within 12 px; null if there is none. */
function nearestToken(board, time, u, limit) {
  const tokens = board.tables.token;
  const reach = (12 * (board.view.max - board.view.min)) / u.over.clientWidth;
  const t = tokens.get("t");
  const values = tokens.get("itl_ms");
  let best = 12;
  let nearest = -1;
  for (let row = tokens.at(time - reach); row < t.length && t[row] <= time + reach; row++) {
    if (!(values[row] > 0)) continue;
    const dx = u.valToPos(t[row], "x") - u.cursor.left;
    const dy = u.valToPos(values[row], "y") - u.cursor.top;
    const distance = Math.hypot(dx, dy);
    if (distance < best) [best, nearest] = [distance, row];
  }
  if (nearest < 0) return null;
  const request = tokens.get("request")[nearest];
  const lines = ["ITL " + milliseconds(values[nearest]), "request " + request, "at " + t[nearest].toFixed(2) + " s"];
  if (values[nearest] > limit) {
    const rows = board.tables.iteration;
    const row = Math.min(rows.rows - 1, rows.at(t[nearest]));
    const prefill = row >= 0 ? rows.get("prefill_tokens")[row] : NaN;
    const why = prefill > 0 ? `the iteration computed ${prefill} prompt tokens` : "it waited for other iterations";
    lines.push("stall: " + why);
  }
  return lines;
}
