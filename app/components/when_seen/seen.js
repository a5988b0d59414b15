// Keeps the place of something that is drawn once a reader comes near it. One is asked for at a time: of several asked
// for at once Streamlit would draw the last.

const AHEAD = "50%"; // of the window's height, so that a reader who scrolls finds it drawn
const PATIENCE_MS = 3000; // then it is asked for again, after those that wait

const waiting = [];
let asked = null;

function askNext() {
  if (asked || !waiting.length) return;
  asked = waiting.shift();
  asked.timer = setTimeout(() => {
    waiting.push(asked);
    asked = null;
    askNext();
  }, PATIENCE_MS);
  asked.ask();
}

/** It was drawn, or is gone. */
function settle(place) {
  const index = waiting.findIndex((one) => one.place === place);
  if (index >= 0) waiting.splice(index, 1);
  if (asked?.place !== place) return;
  clearTimeout(asked.timer);
  asked = null;
  askNext();
}

export default function mount({ parentElement, data, setStateValue }) {
  const place = (parentElement.place ??= parentElement.appendChild(document.createElement("div")));
  place.style.height = `${data.seen ? 0 : data.height}px`;
  if (data.seen) {
    settle(place);
    return undefined;
  }
  const watcher = new IntersectionObserver(
    (entries) => {
      if (!entries.some((entry) => entry.isIntersecting)) return;
      watcher.disconnect();
      waiting.push({ place, ask: () => setStateValue("seen", performance.now()) }); // a value of its own each time
      askNext();
    },
    { root: parentElement.ownerDocument.querySelector("[data-testid=stMain]"), rootMargin: `${AHEAD} 0px` },
  );
  watcher.observe(place);
  return () => {
    watcher.disconnect();
    settle(place);
  };
}
