// A chart on the whole screen: its container goes full screen, and the chart is scaled as it is drawn, text included.

const NARROWEST = 640; // pixels before scaling: what the text of a chart needs

function fit(container) {
  const chart = container.querySelector(".stPlotlyChart");
  if (!chart) return;
  if (document.fullscreenElement !== container) {
    chart.style.cssText = "";
    return;
  }
  const high = chart.offsetHeight;
  const wide = Math.max(NARROWEST, (high * innerWidth) / innerHeight);
  const scale = Math.min(innerWidth / wide, innerHeight / high);
  chart.style.cssText = `position: fixed; left: 0; top: 50%; width: ${wide}px; transform-origin: 0 50%; ` +
    `transform: translateY(-50%) scale(${scale}); margin-left: ${(innerWidth - wide * scale) / 2}px`;
}

function inText(target) {
  const texts = "input, textarea, select, [contenteditable=true], [role=combobox]";
  return target instanceof Element && target.closest(texts);
}

export default function mount({ parentElement, data }) {
  const container = () => document.querySelector(`.st-key-${CSS.escape(data.container)}`);
  const turn = () => {
    if (document.fullscreenElement) document.exitFullscreen();
    else container()?.requestFullscreen().catch(() => {});
  };
  const changed = () => {
    const one = container();
    awaited.disconnect();
    if (!one) return;
    requestAnimationFrame(() => fit(one));
    if (document.fullscreenElement === one) awaited.observe(one, { childList: true, subtree: true });
  };
  const awaited = new MutationObserver(() => {
    const one = container();
    if (!one?.querySelector(".stPlotlyChart")) return; // it is still being drawn
    awaited.disconnect();
    fit(one);
  });
  const pressed = (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || inText(event.composedPath()[0])) return;
    if (event.key.toLowerCase() === data.key) turn();
  };
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = data.key ? `Full screen (${data.key.toUpperCase()})` : "Full screen";
  button.title = "The chart alone on the whole screen; Escape leaves it";
  button.addEventListener("click", turn);
  parentElement.replaceChildren(...parentElement.querySelectorAll("style, link"), button);
  document.addEventListener("fullscreenchange", changed);
  addEventListener("resize", changed);
  if (data.key) document.addEventListener("keydown", pressed);
  return () => {
    awaited.disconnect();
    document.removeEventListener("fullscreenchange", changed);
    removeEventListener("resize", changed);
    document.removeEventListener("keydown", pressed);
  };
}
