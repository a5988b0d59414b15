// A card that goes from one thing of the page to the next. It lies over the page and not in it, so nothing moves; it
// stands where it does not cover what it explains. The browser keeps how far it came, and that it is done.

const KEY = "servescope-tour";
const DONE = "done";
const GAP = 14;
const LOOK_MS = 200; // what is explained moves when the page is scrolled or drawn again

function kept() {
  try {
    return localStorage.getItem(KEY);
  } catch {
    return Tour.forgotten ?? null;
  }
}

function keep(value) {
  try {
    localStorage.setItem(KEY, value);
  } catch {
    Tour.forgotten = value; // for as long as the page lives
  }
}

function deep(selector) {
  const [first, ...inner] = selector.split(" >>> ");
  let found = [...document.querySelectorAll(first)];
  for (const part of inner) {
    found = found.flatMap((host) => {
      const roots = [host, ...host.querySelectorAll("*")].map((one) => one.shadowRoot).filter(Boolean);
      return roots.flatMap((root) => [...root.querySelectorAll(part)]);
    });
  }
  return found;
}

function isVisible(one) {
  const { width, height, right, left } = one.getBoundingClientRect();
  return width > 0 && height > 0 && right > 0 && left < innerWidth;
}

function made(tag, name = "", text = "") {
  const one = document.createElement(tag);
  if (name) one.className = name;
  one.textContent = text;
  return one;
}

function overlap(one, other) {
  const wide = Math.min(one.right, other.right) - Math.max(one.left, other.left);
  const high = Math.min(one.bottom, other.bottom) - Math.max(one.top, other.top);
  return Math.max(0, wide) * Math.max(0, high);
}

class Tour {
  constructor(stops) {
    this.stops = stops;
    this.card = made("section", "lab-tour");
    this.card.setAttribute("role", "dialog");
    this.card.setAttribute("aria-label", "Tour of this page");
    this.ring = made("div", "lab-tour-ring");
    this.title = made("h2");
    this.text = made("p");
    const told = made("div");
    told.style.display = "block";
    told.setAttribute("aria-live", "polite");
    told.append(this.title, this.text);
    const row = made("div");
    this.count = made("span");
    this.skip = this.button("Skip the tour", () => this.end());
    this.back = this.button("Back", () => this.go(this.at - 1));
    this.next = this.button("Next", () => (this.at + 1 < this.stops.length ? this.go(this.at + 1) : this.end()));
    this.next.className = "next";
    row.append(this.count, this.skip, this.back, this.next);
    this.card.append(told, row);
    this.card.style.fontFamily = getComputedStyle(document.querySelector(".stApp") ?? document.body).fontFamily;
    this.onKey = (event) => event.key === "Escape" && !document.fullscreenElement && this.end();
    this.place = this.place.bind(this);
    document.body.append(this.ring, this.card);
    document.addEventListener("keydown", this.onKey);
    addEventListener("resize", this.place);
    document.addEventListener("scroll", this.place, true);
    this.timer = setInterval(this.place, LOOK_MS);
    const at = Number(kept());
    this.show(Number.isInteger(at) && at > 0 && at < stops.length ? at : 0);
    if (document.activeElement === document.body) this.next.focus({ preventScroll: true });
  }

  button(text, act) {
    const one = made("button", "", text);
    one.type = "button";
    one.addEventListener("click", act);
    return one;
  }

  target() {
    for (const selector of this.stops[this.at].targets) {
      const found = deep(selector).find(isVisible);
      if (found) return found;
    }
    return null;
  }

  show(at) {
    this.at = at;
    this.title.textContent = this.stops[at].title;
    this.text.textContent = this.stops[at].text;
    this.count.textContent = `${at + 1} of ${this.stops.length}`;
    this.skip.hidden = at + 1 === this.stops.length;
    this.back.hidden = at === 0;
    this.next.textContent = at + 1 < this.stops.length ? "Next" : "Done";
    this.place();
  }

  /** The reader asked for it: what is explained next is brought into sight. */
  go(at) {
    this.show(at);
    keep(String(at));
    const target = this.target();
    const { top, bottom } = target?.getBoundingClientRect() ?? { top: 0, bottom: 0 };
    if (target && (top < 0 || bottom > innerHeight)) {
      target.scrollIntoView({ block: bottom - top > innerHeight ? "start" : "center" });
    }
    this.place();
  }

  place() {
    const rect = this.target()?.getBoundingClientRect();
    this.ring.hidden = !rect;
    const [wide, high] = [this.card.offsetWidth, this.card.offsetHeight];
    const far = { left: innerWidth - wide - GAP, top: innerHeight - high - GAP };
    let best = far;
    if (rect) {
      Object.assign(this.ring.style, {
        left: `${rect.left - 4}px`, top: `${rect.top - 4}px`,
        width: `${rect.width + 8}px`, height: `${rect.height + 8}px`,
      });
      const middle = rect.left + rect.width / 2 - wide / 2;
      const spots = [
        { left: middle, top: rect.bottom + GAP },
        { left: middle, top: rect.top - high - GAP },
        { left: rect.right + GAP, top: Math.max(rect.top, 72) },
        { left: rect.left - wide - GAP, top: Math.max(rect.top, 72) },
        far,
        { left: GAP, top: far.top },
        { left: far.left, top: GAP },
      ].map(({ left, top }) => ({
        left: Math.max(GAP, Math.min(left, far.left)),
        top: Math.max(GAP, Math.min(top, far.top)),
      }));
      let least = Infinity;
      for (const spot of spots) {
        const covered = overlap({ ...spot, right: spot.left + wide, bottom: spot.top + high }, rect);
        if (covered < least) [least, best] = [covered, spot];
      }
    }
    this.card.style.left = `${best.left}px`;
    this.card.style.top = `${best.top}px`;
  }

  end() {
    keep(DONE);
    this.remove();
  }

  remove() {
    clearInterval(this.timer);
    document.removeEventListener("keydown", this.onKey);
    removeEventListener("resize", this.place);
    document.removeEventListener("scroll", this.place, true);
    this.card.remove();
    this.ring.remove();
    if (Tour.one === this) Tour.one = null;
  }
}

// Streamlit calls this again whenever the page is drawn; the cleanup of a superseded call must not end the tour.
export default function mount({ parentElement, data }) {
  const call = (parentElement.tourCalls = (parentElement.tourCalls ?? 0) + 1);
  if (!Tour.one && kept() !== DONE) Tour.one = new Tour(data.stops);
  return () => setTimeout(() => {
    if (parentElement.tourCalls === call || !parentElement.isConnected) Tour.one?.remove();
  }, 0);
}
