// Keeps the place of something that is drawn once a reader comes near it. One is asked for at a time, and only while
// the browser is idle: of changes that come in one turn of its event loop Streamlit answers those of one fragment, and
// a reader's click must not be the one that is lost.

const AHEAD = "50%"; // of the window's height, so that a reader who scrolls finds it drawn
const PATIENCE_MS = 3000; // then it is asked for again, after those that wait

const whenIdle = window.requestIdleCallback ?? ((act) => setTimeout(act, 50));
const waiting = [];
let asked = null;

let planned = false;

function askNext() {
  if (asked || planned || !waiting.length) return;
  planned = true;
  whenIdle(() => {
    planned = false;
    if (asked || !waiting.length) return;
    const first = waiting.reduce((best, one) => (one.rank < best.rank ? one : best));
    waiting.splice(waiting.indexOf(first), 1);
    asked = first;
    first.timer = setTimeout(() => {
      waiting.push(first);
      asked = null;
      askNext();
    }, PATIENCE_MS);
    first.ask();
  });
}

function wait(one) {
  if (one !== asked && !waiting.includes(one)) waiting.push(one);
  askNext();
}

/** It was drawn, or is gone. */
function settle(one) {
  const index = waiting.indexOf(one);
  if (index >= 0) waiting.splice(index, 1);
  if (asked !== one) return;
  clearTimeout(one.timer);
  asked = null;
  askNext();
}

// Streamlit calls this again whenever the data or the theme changes; the cleanup of a superseded call may run after a
// newer one, so it settles nothing then.
export default function mount({ parentElement, data, setStateValue }) {
  const one = (parentElement.seenOnce ??= {
    place: parentElement.appendChild(document.createElement("div")),
    calls: 0,
  });
  const call = ++one.calls;
  one.ask = () => setStateValue("seen", performance.now()); // a value of its own each time
  one.rank = data.rank;
  one.place.style.height = `${data.seen ? 0 : data.height}px`;
  if (data.seen) {
    settle(one);
    return undefined;
  }
  const leave = () => setTimeout(() => one.calls === call && settle(one), 0);
  if (data.idle) {
    requestAnimationFrame(() => setTimeout(() => wait(one), 0)); // painted by then
    return leave;
  }
  const watcher = new IntersectionObserver(
    (entries) => {
      if (!entries.some((entry) => entry.isIntersecting)) return;
      watcher.disconnect();
      wait(one);
    },
    { root: parentElement.ownerDocument.querySelector("[data-testid=stMain]"), rootMargin: `${AHEAD} 0px` },
  );
  watcher.observe(one.place);
  return () => {
    watcher.disconnect();
    leave();
  };
}
