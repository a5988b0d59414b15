/** Change the page's address in place: no step of the browser's history. */
function rewrite(change) {
  const url = new URL(window.location.href);
  change(url.searchParams);
  if (url.href !== window.location.href) window.history.replaceState(window.history.state, "", url);
}

/** What of a run the address selects, in a fixed order. */
function selected() {
  const parameters = new URL(window.location.href).searchParams;
  const named = ["iteration", "request", "block", "from", "to"].filter((name) => parameters.has(name));
  return Object.fromEntries(named.map((name) => [name, parameters.get(name)]));
}

/** Writes a part of what is selected into the address once the reader has settled on it. */
class Kept {
  constructor(name) {
    this.name = name;
  }

  set(value) {
    clearTimeout(this.waits);
    if (String(value) === this.written) return;
    this.waits = setTimeout(() => {
      this.written = String(value);
      rewrite((parameters) => parameters.set(this.name, this.written));
    }, 250);
  }

  stop() {
    clearTimeout(this.waits);
  }
}
