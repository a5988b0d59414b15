// The bar of a room's page, and the channel behind it: one socket for each window, which outlives the drawing of the
// page. The state that comes is whole every time, so what was missed while the connection was gone is made up for.

const LOOK_MS = 250;
const FIRST_RETRY_MS = 300;
const LAST_RETRY_MS = 3000;
const NEWS_AFTER_MS = 300;
const REFUSED = 4403;
const OWN = ["learner", "large", "token", "present"]; // parameters that are a window's own
const LOOKED_AT = ["from", "to"]; // those that the channel tells as what charts show

function kept(name, fresh) {
  try {
    if (sessionStorage.getItem(name) === null) sessionStorage.setItem(name, fresh());
    return sessionStorage.getItem(name);
  } catch {
    return fresh();
  }
}

function keep(name, value) {
  try {
    sessionStorage.setItem(name, value);
  } catch {
    // a browser that keeps nothing begins to follow again after a reload
  }
}

function drawn() {
  const bytes = crypto.getRandomValues(new Uint8Array(10));
  return Array.from(bytes, (byte) => byte.toString(36).padStart(2, "0")).join("");
}

function place() {
  const base = new URL(window.__streamlit.BACKEND_BASE_URL).pathname;
  const query = new URLSearchParams(location.search);
  for (const name of [...OWN, ...LOOKED_AT]) query.delete(name);
  return { page: location.pathname.slice(base.length).replace(/\/$/, ""), query: query.toString() };
}

class Channel {
  constructor() {
    this.tab = kept("servescope-tab", drawn);
    this.following = kept("servescope-following", () => "yes") === "yes";
    this.state = null;
    this.applied = -1; // which of the presenter's places this window has gone to
    this.revision = null;
    this.told = "";
    this.retry = FIRST_RETRY_MS;
    this.connection = "connecting";
    this.looks = new Look();
    this.draw = () => {};
    this.open();
    setInterval(() => this.look(), LOOK_MS);
  }

  open() {
    const address = `${window.__streamlit.BACKEND_BASE_URL}room-channel`.replace(/^http/, "ws");
    const socket = new WebSocket(address);
    this.socket = socket;
    socket.onopen = () => {
      this.told = "";
      this.looks.forget();
      socket.send(JSON.stringify({ tab: this.tab }));
    };
    socket.onmessage = (event) => {
      const message = JSON.parse(event.data);
      if (message.type !== "room") return;
      this.retry = FIRST_RETRY_MS;
      this.connection = "open";
      this.state = message;
      this.changed();
    };
    socket.onclose = (event) => {
      this.connection = event.code === REFUSED ? "over" : "lost";
      this.draw();
      if (event.code === REFUSED) return;
      setTimeout(() => this.open(), this.retry * (0.8 + 0.4 * Math.random()));
      this.retry = Math.min(LAST_RETRY_MS, 2 * this.retry);
    };
  }

  /** What came says where the presenter is and whether pages are to be drawn anew. */
  changed() {
    const { shown, revision } = this.state;
    this.draw();
    if (this.viewer && this.following && shown.n > 0 && shown.n !== this.applied) this.go();
    else if (this.revision !== null && revision !== this.revision) this.drawAnew();
    this.revision = revision;
  }

  /** A little later: news that come with the answer to a reader's own click must not take its place. */
  drawAnew() {
    clearTimeout(this.news);
    this.news = setTimeout(() => this.trigger?.("news", this.revision), NEWS_AFTER_MS);
  }

  go() {
    const { shown } = this.state;
    this.applied = shown.n;
    const here = place();
    if (here.page !== shown.page || here.query !== shown.query) this.trigger?.("go", shown);
  }

  follow(wanted) {
    this.following = wanted;
    keep("servescope-following", wanted ? "yes" : "no");
    this.looks.leave();
    if (wanted && this.state) this.go();
    this.draw();
  }

  say(message) {
    if (this.socket.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify(message));
  }

  /** The window that presents tells where it is and what it looks at there; one that follows is brought there. */
  look() {
    if (this.viewer === undefined || !this.state) return;
    tiePlots();
    const here = place();
    if (this.viewer) {
      if (this.following) this.looks.take(this.state.look, here);
      return;
    }
    if (!this.state.presenting || this.socket.readyState !== WebSocket.OPEN) return;
    const now = `${here.page}?${here.query}`;
    const settled = now === this.seen; // an address that is still being completed is not told
    this.seen = now;
    if (!settled || this.unshared.includes(here.page)) return;
    if (now !== this.told) {
      this.told = now;
      this.say({ show: here });
      return;
    }
    const look = this.looks.news(here);
    if (look) this.say({ look });
  }
}

function count(state) {
  return state.asked ? `${state.answered} of ${state.expected} have answered` : "";
}

function words(channel) {
  const { state, viewer, connection } = channel;
  if (connection === "over") return ["The room is over", null];
  if (connection === "lost") return ["Connection lost, trying again; nothing is lost", null];
  if (!state) return ["Connecting", null];
  if (!viewer) {
    if (state.presenting) return [`You present to ${state.here}`, null];
    return ["Another window presents", ["Present from here", () => channel.say({ take_over: true })]];
  }
  if (!channel.following) return ["You look around alone", ["Back to the presenter", () => channel.follow(true)]];
  const who = state.presenter ? "You follow the presenter" : "The presenter is away; what was shown stays";
  return [who, ["Look around alone", () => channel.follow(false)]];
}

function paint(row, channel) {
  const [told, act] = words(channel);
  const text = [told, channel.state ? count(channel.state) : ""].filter(Boolean).join(" · ");
  const button = act ? act[0] : "";
  if (row.dataset.text === text && row.dataset.button === button) return;
  Object.assign(row.dataset, { text, button });
  const said = document.createElement("span");
  said.setAttribute("role", "status");
  said.textContent = text;
  row.replaceChildren(said);
  if (!act) return;
  const control = document.createElement("button");
  control.type = "button";
  control.textContent = act[0];
  control.addEventListener("click", act[1]);
  row.append(control);
}

export default function mount({ parentElement, data, setTriggerValue }) {
  const channel = (window.servescopeRoom ??= new Channel());
  channel.viewer = data.viewer;
  channel.unshared = data.unshared;
  channel.trigger = setTriggerValue;
  let row = parentElement.querySelector(".room");
  if (!row) {
    row = document.createElement("div");
    row.className = "room";
    parentElement.append(row);
  }
  channel.draw = () => paint(row, channel);
  channel.draw();
  if (channel.state) channel.changed();
}
