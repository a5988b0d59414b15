// Numbers as people read them. Every function takes NaN, null or undefined as "not known".

const DASH = "–";

function known(value) {
  return value !== null && value !== undefined && Number.isFinite(value);
}

function number(value) {
  if (!known(value)) return DASH;
  const size = Math.abs(value);
  if (size >= 10000) return Math.round(value / 100) / 10 + " k";
  if (size >= 100 || Number.isInteger(value)) return String(Math.round(value));
  return value.toFixed(size >= 10 ? 1 : 2);
}

/** A rate to one decimal, as a finished run's page writes it. */
function rate(value) {
  return known(value) ? value.toLocaleString("en-US", { minimumFractionDigits: 1, maximumFractionDigits: 1 }) : DASH;
}

/** A count to the last digit, thousands apart. */
function whole(value) {
  return known(value) ? Math.round(value).toLocaleString("en-US") : DASH;
}

/** A count in three digits: 1.23M. */
function compact(value) {
  return value.toLocaleString("en-US", { notation: "compact", maximumSignificantDigits: 3 });
}

function requests(value) {
  const shown = value.toLocaleString("en-US", { maximumFractionDigits: value < 100 ? 1 : 0 });
  return shown + (value === 1 ? " request" : " requests");
}

function bits(value) {
  return value.toLocaleString("en-US", { maximumFractionDigits: 2 }) + " bits";
}

/** A duration given in ms, as app/words/plain.py writes it: three digits and a fitting unit. */
function milliseconds(value) {
  if (!known(value)) return DASH;
  const three = (figure) => String(Number(figure.toPrecision(3)));
  const size = Math.abs(value);
  if (size >= 1000000) return Math.round(value / 1000).toLocaleString("en-US") + " s";
  if (size >= 1000) return three(value / 1000) + " s";
  return size >= 1 || size === 0 ? three(value) + " ms" : three(value * 1000) + " µs";
}

function bytes(value) {
  if (!known(value)) return DASH;
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let index = 0;
  let left = value;
  while (Math.abs(left) >= 1024 && index < units.length - 1) {
    left /= 1024;
    index += 1;
  }
  return left.toFixed(left >= 100 || index === 0 ? 0 : 1) + " " + units[index];
}

function percent(value) {
  return known(value) ? value.toFixed(value < 10 && value > 0 ? 1 : 0) + " %" : DASH;
}

function seconds(value) {
  if (!known(value)) return DASH;
  const whole = Math.round(value);
  if (whole >= 90) return Math.floor(whole / 60) + " min " + (whole % 60) + " s";
  return value.toFixed(value >= 10 ? 0 : 1) + " s";
}

/** An axis label: a value with its unit, without the zeros that only fill up. */
function axisLabel(words) {
  return (value) => (value === null ? "" : words(value).replace(/(\.\d*?)0+(?=\D|$)/, "$1").replace(/\.(?=\D|$)/, ""));
}

/** What an iteration did: "prefill", "mixed", "decode", or "idle". */
function kindOf(prefill, decode) {
  if (prefill > 0) return decode > 0 ? "mixed" : "prefill";
  return decode > 0 ? "decode" : "idle";
}

/** The least round number (1, 1.5, 2, 3, 4, 5, 8 x a power of ten) that is at least `value`. */
function roundUp(value) {
  if (!(value > 0)) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  for (const step of [1, 1.5, 2, 3, 4, 5, 8, 10]) if (step * power >= value * 0.999999) return step * power;
  return 10 * power;
}

/** Put a text into an element that has another: the same text anew would be laid out anew. */
function write(target, text) {
  if (target.textContent !== text) target.textContent = text;
}

/** A new element with a class, text (always as text, never as markup) and attributes. */
function element(tag, className = "", text = "", attributes = {}) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text) made.textContent = text;
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}
