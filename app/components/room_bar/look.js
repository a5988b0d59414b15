// How far a page is scrolled, between which two marks of it, so that a telephone and a wide screen show the same; and
// what its charts show. The window that presents tells it; a window that follows is brought there.

const MARKS = "[class*='st-key-'], h1, h2, h3, [role=tablist]";
const LINE = 0.3; // of the window's height: what stands there is what is looked at
const NEAR_PX = 24; // a page that stands so near is not moved
const REST_MS = 10_000; // whoever scrolls or types is left alone for so long
const SETTLE_MS = 2500; // a page that is still being drawn is scrolled again
const MOST_VIEWS = 16;
const PART_OF_A_PAGE = ["from", "to", "iteration", "request", "block", "tab"];

function scroller() {
  return document.querySelector(".stMain");
}

function isStill() {
  return document.querySelector("[data-testid=stApp]")?.dataset.testScriptState === "notRunning";
}

/** The page's marks with their places in it, from top to bottom; the same name stands for the first of them. */
function marksOf(main) {
  const top = main.getBoundingClientRect().top - main.scrollTop;
  const found = new Map([["top", 0]]);
  for (const one of main.querySelectorAll(MARKS)) {
    const box = one.getBoundingClientRect();
    if (!box.height) continue;
    const key = [...one.classList].find((name) => name.startsWith("st-key-"));
    const name = (key ?? `${one.tagName} ${one.textContent}`).slice(0, 80);
    if (!found.has(name)) found.set(name, box.top - top);
  }
  found.set("end", main.scrollHeight);
  return [...found].sort((one, other) => one[1] - other[1]);
}

function shareOf(number) {
  return Number(Math.min(1, Math.max(0, number)).toFixed(3));
}

/** Between which marks the page is looked at, and how far it is scrolled in all. */
function lookOf(main) {
  const most = main.scrollHeight - main.clientHeight;
  const of = most > 0 ? main.scrollTop / most : 0;
  const line = main.scrollTop + LINE * main.clientHeight;
  const marks = marksOf(main);
  const after = marks.findIndex(([, place]) => place > line);
  const [from, to] = after < 0 ? marks.slice(-2) : [marks[after - 1], marks[after]];
  const share = (line - from[1]) / Math.max(1, to[1] - from[1]);
  return { from: from[0], to: to[0], share: shareOf(share), of: shareOf(of) };
}

/** How far a page has to be scrolled to be looked at in the same place. */
function placeOf(main, { from, to, share, of }) {
  const most = main.scrollHeight - main.clientHeight;
  if (of === 0 || of === 1) return of * most;
  const marks = new Map(marksOf(main));
  const [above, below] = [marks.get(from), marks.get(to)];
  if (above === undefined || below === undefined || below < above) return of * most;
  return Math.min(most, Math.max(0, above + share * (below - above) - LINE * main.clientHeight));
}

function isTyping() {
  let active = document.activeElement;
  while (active?.shadowRoot?.activeElement) active = active.shadowRoot.activeElement;
  return Boolean(active?.matches("input:not([type=radio], [type=checkbox]), textarea, select, [contenteditable=true]"));
}

class Look {
  constructor() {
    this.views = {}; // of charts, by name, as the reader of this window has set them
    this.page = "";
    this.told = "";
    this.taken = ""; // the look that this window was brought to
    this.due = 0; // until then it is brought there again, should the page change
    this.own = -REST_MS; // when the reader scrolled
    document.addEventListener(VIEW_SAID, ({ detail: { name, view } }) => {
      delete this.views[name];
      this.views = Object.fromEntries([...Object.entries(this.views), [name, view]].slice(-MOST_VIEWS));
    });
    const moved = () => (this.own = performance.now());
    for (const kind of ["wheel", "touchmove", "keydown"]) {
      addEventListener(kind, moved, { passive: true, capture: true });
    }
    addEventListener("pointerdown", ({ target }) => target === scroller() && moved(), { capture: true }); // its bar
  }

  /** What this window looks at, where that is new; `here`: its page and parameters. */
  news(here) {
    const main = scroller();
    if (!main) return null;
    const query = new URLSearchParams(here.query);
    for (const name of PART_OF_A_PAGE) query.delete(name);
    const page = `${here.page}?${query}`;
    if (page !== this.page) this.views = {};
    this.page = page;
    const stamp = JSON.stringify([page, main.scrollTop, main.clientHeight, this.views]);
    if (stamp === this.told) return null;
    this.told = stamp;
    return { page: here.page, ...lookOf(main), views: this.views };
  }

  /** Tell everything anew. */
  forget() {
    this.told = "";
  }

  /** Follow no longer, or begin to. */
  leave() {
    this.taken = "";
    this.due = 0;
    this.own = -REST_MS;
    document.servescopeAsked = {};
  }

  /** Bring this window where the presenter looks, once it shows that page. */
  take(look, here) {
    if (!look || look.page !== here.page) return;
    const stamp = JSON.stringify(look);
    if (stamp !== this.taken) {
      if (!isStill()) return;
      this.taken = stamp;
      this.due = performance.now() + SETTLE_MS;
      this.show(look.views);
    }
    if (performance.now() < this.due) this.scroll(look);
  }

  show(views) {
    const before = document.servescopeAsked ?? {};
    document.servescopeAsked = views;
    for (const [name, view] of Object.entries(views)) {
      if (JSON.stringify(view) === JSON.stringify(before[name])) continue;
      document.dispatchEvent(new CustomEvent(VIEW_ASKED, { detail: { name, view } }));
    }
  }

  scroll(look) {
    const main = scroller();
    if (!main || isTyping() || performance.now() - this.own < REST_MS) return;
    const place = placeOf(main, look);
    if (Math.abs(place - main.scrollTop) < NEAR_PX) return;
    const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
    if (this.aim === undefined || Math.abs(place - this.aim) >= NEAR_PX || calm || !this.moving) {
      main.scrollTo({ top: place, behavior: calm ? "auto" : "smooth" });
    }
    this.aim = place;
    this.moving = true;
    clearTimeout(this.waits);
    this.waits = setTimeout(() => (this.moving = false), 800);
  }
}
