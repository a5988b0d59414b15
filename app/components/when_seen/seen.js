// Keeps the place of something that is drawn once a reader comes near it.

const AHEAD = "50%"; // of the window's height, so that a reader who scrolls finds it drawn

export default function mount({ parentElement, data, setStateValue }) {
  const place = (parentElement.place ??= parentElement.appendChild(document.createElement("div")));
  place.style.height = `${data.seen ? 0 : data.height}px`;
  if (data.seen) return undefined;
  const watcher = new IntersectionObserver(
    (entries) => {
      if (!entries.some((entry) => entry.isIntersecting)) return;
      watcher.disconnect();
      setStateValue("seen", true);
    },
    { root: parentElement.ownerDocument.querySelector("[data-testid=stMain]"), rootMargin: `${AHEAD} 0px` },
  );
  watcher.observe(place);
  return () => watcher.disconnect();
}
