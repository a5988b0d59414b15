// What each chart of the board shows, as specifications for ChartCard. Titles and help come with the data
// (app/words/charts.py).

function iterationAt(board, time) {
  const rows = board.tables.iteration;
  if (!rows.rows) return -1;
  if (time === null) return rows.rows - 1;
  return Math.min(rows.rows - 1, rows.at(time));
}

function readingAt(board, time, name, words) {
  const row = iterationAt(board, time);
  return row < 0 ? DASH : words(board.tables.iteration.get(name)[row]);
}

/** How the time in view was spent: percent by what iterations did, then by the steps around the forward pass. */
function timeShares(rows, view) {
  const { from, to } = visibleRows(rows, view);
  const sums = { prefill: 0, mixed: 0, decode: 0, idle: 0, schedule: 0, prepare: 0, sample: 0, finish: 0 };
  const [duration, prefill, decode] = ["duration_ms", "prefill_tokens", "decode_tokens"].map((name) => rows.get(name));
  const caps = STEPS.slice(1).map((step) => [step, rows.get(step + "_ms")]);
  let total = 0;
  for (let row = from; row < to; row++) {
    total += duration[row];
    sums[kindOf(prefill[row], decode[row])] += duration[row];
    for (const [step, spent] of caps) if (spent[row] > 0) sums[step] += spent[row];
  }
  const share = (name) => (total > 0 ? percent((100 * sums[name]) / total) : DASH);
  return ["prefill", "mixed", "decode", ...STEPS.slice(1)].map(share);
}

function timelineSpec(board) {
  const rows = board.tables.iteration;
  const column = (name) => rows.get(name);
  return {
    id: "timeline",
    rows: () => board.tables.iteration.rows,
    wide: true,
    unit: milliseconds,
    legend: [
      { name: "prefill only", colour: (c) => c.prefill },
      { name: "mixed", colour: (c) => c.mixed },
      { name: "decode only", colour: (c) => c.decode },
      { name: "schedule", colour: (c) => c.schedule, mark: "slim" },
      { name: "prepare", colour: (c) => c.prepare, mark: "slim" },
      { name: "sample", colour: (c) => c.sample, mark: "slim" },
      { name: "finish", colour: (c) => c.finish, mark: "slim" },
    ],
    values: () => timeShares(rows, board.view),
    peak: (view) => peakInView(rows, view, ["duration_ms"]) || 10,
    paint: (u, colours, view) => {
      const prefill = column("prefill_tokens");
      const decode = column("decode_tokens");
      const steps = STEPS.map((step) => column(step + "_ms"));
      const duration = column("duration_ms");
      paintBars(u, rows, view, (row) => duration[row], (row) => {
        const kind = kindOf(prefill[row], decode[row]);
        return STEPS.map((step, index) => [steps[index][row], index ? colours[step] : colours[kind] || colours.muted]);
      });
    },
    tip: (time) => {
      const row = iterationAt(board, time);
      if (row < 0 || time < column("t")[row] - column("duration_ms")[row] / 1000 || time > column("t")[row])
        return null;
      const kind = kindOf(column("prefill_tokens")[row], column("decode_tokens")[row]);
      return [
        `iteration ${column("iteration")[row]}, ${kind === "mixed" ? "mixed" : kind + " only"}, ` +
          milliseconds(column("duration_ms")[row]),
        `forward ${milliseconds(column("forward_ms")[row])}`,
        ...["schedule", "prepare", "sample", "finish"].map((step) =>
          `${step} ${milliseconds(column(step + "_ms")[row])}`),
        `${number(column("prefill_tokens")[row])} prompt + ${number(column("decode_tokens")[row])} decode tokens`,
        `${number(column("running")[row])} running, ${number(column("waiting")[row])} waiting`,
      ];
    },
    summary: () =>
      rows.rows
        ? `${rows.next} iterations, last ${milliseconds(rows.last("duration_ms"))}, ` +
          `longest in view ${milliseconds(peakInView(rows, board.view, ["duration_ms"]))}.`
        : "No iteration yet.",
  };
}

function makeupSpec(board) {
  const rows = board.tables.iteration;
  return {
    id: "makeup",
    rows: () => board.tables.iteration.rows,
    wide: true,
    low: true,
    unit: (value) => number(value) + " tok",
    legend: [
      { name: "prompt tokens", colour: (c) => c.prefill },
      { name: "decode tokens", colour: (c) => c.decode },
      {
        name: "token budget", colour: (c) => c.text, mark: "line dashed",
        visible: () => Number.isFinite(rows.last("token_budget")),
      },
    ],
    values: (time) =>
      ["prefill_tokens", "decode_tokens", "token_budget"].map((name) => readingAt(board, time, name, number)),
    peak: (view) =>
      Math.max(4, peakInView(rows, view, ["prefill_tokens", "decode_tokens"]), rows.last("token_budget") * 1.15 || 0),
    paint: (u, colours, view) => {
      const prefill = rows.get("prefill_tokens");
      const decode = rows.get("decode_tokens");
      paintBars(u, rows, view, (row) => prefill[row] + decode[row], (row) => [
        [decode[row], colours.decode],
        [prefill[row], colours.prefill],
      ]);
      const budget = rows.last("token_budget");
      if (Number.isFinite(budget)) paintLevel(u, budget, colours.text, "budget " + number(budget));
    },
    tip: null,
    summary: () =>
      `Last iteration: ${number(rows.last("prefill_tokens"))} prompt and ` +
      `${number(rows.last("decode_tokens"))} decode tokens, ` +
      `at most ${number(peakInView(rows, board.view, ["prefill_tokens", "decode_tokens"]))} in view.`,
  };
}

function queueSpec(board) {
  const rows = board.tables.iteration;
  return {
    id: "queue",
    rows: () => board.tables.iteration.rows,
    unit: (value) => (Number.isInteger(value) ? number(value) + " req" : ""),
    legend: [
      { name: "running", colour: (c) => c.running },
      { name: "waiting", colour: (c) => c.waiting, mark: "line" },
    ],
    values: (time) => ["running", "waiting"].map((name) => readingAt(board, time, name, number)),
    peak: (view) => Math.max(3, peakInView(rows, view, ["running"]), peakInView(rows, view, ["waiting"])),
    paint: (u, colours, view) => {
      paintSteps(u, rows, view, "running", { stroke: colours.running, fill: colours.running + "33" });
      paintSteps(u, rows, view, "waiting", { stroke: colours.waiting, width: 2.25 });
    },
    tip: null,
    summary: () =>
      `${number(rows.last("running"))} running, ${number(rows.last("waiting"))} waiting; ` +
      `at most ${number(peakInView(rows, board.view, ["waiting"]))} waiting in view.`,
  };
}

/** Requests thrown out of the pool up to a time; null: all. */
function preemptionsUntil(rows, time) {
  const preempted = rows.get("preempted");
  const end = time === null ? rows.rows : Math.min(rows.rows, rows.at(time) + 1);
  let sum = 0;
  for (let row = 0; row < end; row++) if (preempted[row] > 0) sum += preempted[row];
  return sum;
}

function kvSpec(board) {
  const rows = board.tables.iteration;
  const share = (name) => (value) =>
    number(value) +
    (rows.last("blocks_total") > 0 ? " (" + percent((100 * value) / rows.last("blocks_total")) + ")" : "");
  return {
    id: "kv",
    rows: () => board.tables.iteration.rows,
    unit: (value) => number(value) + " blocks",
    legend: [
      { name: "used", colour: (c) => c.kv_used },
      { name: "cached", colour: (c) => c.kv_cached },
      { name: "pool", colour: (c) => c.text, mark: "line dashed" },
      { name: "preemption", colour: (c) => c.stall, mark: "cross", visible: () => preemptionsUntil(rows, null) > 0 },
    ],
    values: (time) => [
      readingAt(board, time, "blocks_used", share()),
      readingAt(board, time, "blocks_cached", number),
      readingAt(board, time, "blocks_total", number),
      number(preemptionsUntil(rows, time)) + " so far",
    ],
    peak: (view) => {
      const peak = peakInView(rows, view, ["blocks_used", "blocks_cached"]);
      const total = rows.last("blocks_total");
      return peak > 0.4 * total || !(total > 0) ? Math.max(4, total * 1.1 || 0) : Math.max(4, peak * 1.3);
    },
    paint: (u, colours, view) => {
      paintSteps(u, rows, view, "blocks_cached", { base: "blocks_used", fill: colours.kv_cached, stroke: null });
      paintSteps(u, rows, view, "blocks_used", { stroke: colours.kv_used, fill: colours.kv_used + "99" });
      const total = rows.last("blocks_total");
      if (Number.isFinite(total))
        paintLevel(u, total, colours.text, "pool: " + number(total) + " blocks", { above: false });
      paintCrosses(u, rows, view, "preempted", "blocks_used", colours.stall);
    },
    tip: (time, value, u) => {
      const row = markedRowNear(u, rows, "preempted", time);
      if (row < 0) return null;
      const thrown = rows.get("preempted")[row];
      return [
        `${number(thrown)} ${thrown === 1 ? "request" : "requests"} preempted at ${seconds(rows.get("t")[row])}`,
        `iteration ${rows.get("iteration")[row]}: the pool was full`,
        "What they had computed is computed again later.",
      ];
    },
    summary: () => {
      const thrown = preemptionsUntil(rows, null);
      return (
        `${number(rows.last("blocks_used"))} of ${number(rows.last("blocks_total"))} blocks used, ` +
        `at most ${number(peakInView(rows, board.view, ["blocks_used"]))} in view` +
        (thrown > 0 ? `; ${number(thrown)} ${thrown === 1 ? "preemption" : "preemptions"} so far.` : ".")
      );
    },
  };
}

/** Device columns as uPlot wants them: [t, ...columns], null where a counter was not there. */
function deviceData(board, names, factors) {
  const rows = board.tables.device;
  const limit = board.view.limit;
  const t = Array.from(rows.get("t")).filter((time) => time <= limit);
  const scaled = (name, index) =>
    Array.from(rows.get(name).subarray(0, t.length), (v) => (Number.isFinite(v) ? v * factors[index] : null));
  return [t, ...names.map(scaled)];
}

function deviceReading(board, time, name, words) {
  const rows = board.tables.device;
  if (!rows.rows) return DASH;
  const row = time === null ? rows.rows - 1 : Math.min(rows.rows - 1, rows.at(time));
  return words(rows.get(name)[row]);
}

const hasColumn = (board, name) => board.tables.device.get(name).some(Number.isFinite);

function deviceSpec(board) {
  const rows = board.tables.device;
  const stroke = (colour, dash) =>
    ({ scale: "y", stroke: colour, width: 1.75, dash, spanGaps: true, points: { show: false } });
  return {
    id: "device",
    rows: () => board.tables.device.rows,
    waiting: "The first sample appears here.",
    unit: (value) => number(value) + " %",
    legend: [
      { name: "device busy", colour: (c) => c.accent, mark: "line", visible: () => hasColumn(board, "utilization") },
      {
        name: "this process, of one core", colour: (c) => c.draft, mark: "line dashed",
        visible: () => hasColumn(board, "cpu_percent"),
      },
      {
        name: "whole machine", colour: (c) => c.ghost, mark: "line dotted",
        visible: () => hasColumn(board, "host_cpu_percent"),
      },
    ],
    values: (time) =>
      ["utilization", "cpu_percent", "host_cpu_percent"].map((name) => deviceReading(board, time, name, percent)),
    peak: (view) => Math.max(100, peakInView(rows, view, ["utilization"]), peakInView(rows, view, ["cpu_percent"]),
      peakInView(rows, view, ["host_cpu_percent"])),
    series: (c) => [{}, stroke(c.accent), stroke(c.draft, [6, 4]), stroke(c.ghost, [2, 3])],
    data: () => deviceData(board, ["utilization", "cpu_percent", "host_cpu_percent"], [1, 1, 1]),
    tip: null,
    summary: () =>
      `Device ${percent(rows.last("utilization"))} busy, ` +
      `this process ${percent(rows.last("cpu_percent"))} of one core.`,
  };
}

function memorySpec(board) {
  const rows = board.tables.device;
  const gib = 2 ** -30;
  const peakOf = (view, name, least) => Math.max(least, peakInView(rows, view, [name]));
  return {
    id: "memory",
    rows: () => board.tables.device.rows,
    waiting: "The first sample appears here.",
    unit: (value) => number(value) + " GiB",
    rightAxis: {
      shown: () => hasColumn(board, "power"),
      unit: (value) => number(value) + " W",
      range: (view) => [0, roundUp(peakOf(view, "power", 1) * 1.1)],
    },
    legend: [
      { name: "memory in use", colour: (c) => c.kv_used, mark: "line", visible: () => hasColumn(board, "memory_used") },
      {
        name: "this process", colour: (c) => c.draft, mark: "line dashed",
        visible: () => hasColumn(board, "process_memory"),
      },
      { name: "power", colour: (c) => c.prefill, mark: "line dotted", visible: () => hasColumn(board, "power") },
    ],
    values: (time) => [
      deviceReading(board, time, "memory_used", bytes),
      deviceReading(board, time, "process_memory", bytes),
      deviceReading(board, time, "power", (value) => (known(value) ? number(value) + " W" : DASH)),
    ],
    peak: (view) => Math.max(peakOf(view, "memory_used", 0), peakOf(view, "process_memory", 0)) * gib || 1,
    series: (c) => [
      {},
      { scale: "y", stroke: c.kv_used, fill: c.kv_used + "22", width: 1.75, spanGaps: true, points: { show: false } },
      { scale: "y", stroke: c.draft, width: 1.75, dash: [6, 4], spanGaps: true, points: { show: false } },
      { scale: "y2", stroke: c.prefill, width: 1.75, dash: [2, 3], spanGaps: true, points: { show: false } },
    ],
    data: () => deviceData(board, ["memory_used", "process_memory", "power"], [gib, gib, 1]),
    tip: null,
    summary: () => `${bytes(rows.last("memory_used"))} of memory in use.`,
  };
}

const CHART_SPECS = [timelineSpec, itlSpec, makeupSpec, queueSpec, kvSpec, deviceSpec, memorySpec];
