// What a reader with weak sight, a keyboard or a screen reader would stumble over on this page, as sentences; an empty
// list is good. Looks through shadow roots. Text in canvases cannot be seen from here.
() => {
  const LEAST = 4.5, LEAST_ICON = 3;
  const found = new Set();

  function* everything(root) {
    for (const node of root.querySelectorAll("*")) {
      yield node;
      if (node.shadowRoot) yield* everything(node.shadowRoot);
    }
  }

  const parent = (node) => node.parentElement || (node.getRootNode().host ?? null);

  function colour(text) {
    const paint = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
    paint.fillStyle = text;
    paint.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = paint.getImageData(0, 0, 1, 1).data;
    return [r, g, b, a / 255];
  }
  const kept = new Map();
  const read = (text) => kept.get(text) ?? kept.set(text, colour(text)).get(text);

  const over = (top, below) => {
    const a = top[3] + below[3] * (1 - top[3]);
    if (a === 0) return [0, 0, 0, 0];
    return [0, 1, 2].map((n) => (top[n] * top[3] + below[n] * below[3] * (1 - top[3])) / a).concat(a);
  };

  function background(node) {
    const shape = node.closest(".slice")?.querySelector("path.surface"); // a label on a coloured field of a chart
    if (shape) return over(read(getComputedStyle(shape).fill), [255, 255, 255, 1]);
    let seen = [0, 0, 0, 0];
    for (let here = node; here && seen[3] < 0.999; here = parent(here)) {
      seen = over(seen, read(getComputedStyle(here).backgroundColor));
    }
    return over(seen, [255, 255, 255, 1]);
  }

  function opacity(node) {
    let product = 1;
    for (let here = node; here; here = parent(here)) product *= Number(getComputedStyle(here).opacity);
    return product;
  }

  const light = ([r, g, b]) =>
    [r, g, b]
      .map((v) => v / 255)
      .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
      .reduce((sum, v, n) => sum + v * [0.2126, 0.7152, 0.0722][n], 0);
  const contrast = (one, other) => {
    const [low, high] = [light(one), light(other)].sort((a, b) => a - b);
    return (high + 0.05) / (low + 0.05);
  };

  const said = (node) =>
    [...node.childNodes].filter((n) => n.nodeType === 3).map((n) => n.textContent.trim()).join(" ").trim();
  const isSeen = (node) => {
    const box = node.getBoundingClientRect();
    return box.width > 1 && box.height > 1 && node.checkVisibility({ opacityProperty: true, visibilityProperty: true });
  };
  const isOff = (node) => {
    for (let here = node; here; here = parent(here))
      if (here.matches(":disabled, [aria-disabled=true], [data-disabled=true]")) return true;
    return false;
  };

  for (const node of everything(document.body)) {
    if (["SCRIPT", "STYLE", "NOSCRIPT", "TITLE"].includes(node.tagName) || !isSeen(node)) continue;
    const text = said(node), style = getComputedStyle(node);
    const onPicture = node.closest(".heatmap-label"); // its background is in a picture
    if (text && !isOff(node) && !onPicture) {
      const icon = node.matches("[data-testid=stIconMaterial], .material-icons");
      const paper = background(node);
      const ink = [...read(node instanceof SVGElement ? style.fill : style.color)];
      ink[3] *= opacity(node);
      const ratio = contrast(over(ink, paper), paper);
      const isHidden = ratio < 1.01 && node.closest("[data-testid=stSlider]"); // its end marks, until it is touched
      if (!isHidden && ratio < (icon ? LEAST_ICON : LEAST) - 0.005)
        found.add(`contrast ${ratio.toFixed(2)}: ${text.slice(0, 60)}`);
    }
    if (text && style.textOverflow === "ellipsis" && node.scrollWidth > node.clientWidth + 1)
      found.add(`cut: ${text.slice(0, 60)}`);
    const scrolls = (way, room, size) => /auto|scroll/.test(style[way]) && node[size] > node[room] + 1;
    if (scrolls("overflowY", "clientHeight", "scrollHeight") || scrolls("overflowX", "clientWidth", "scrollWidth")) {
      const inside = [...everything(node)].some((other) => other.tabIndex >= 0 && isSeen(other));
      if (node.tabIndex < 0 && !inside)
        found.add(`no keyboard reaches: ${node.tagName} ${node.className} ${node.textContent.slice(0, 60)}`);
    }
    for (const name of ["aria-label", "title", "alt"]) {
      const words = node.getAttribute(name) || "";
      if (/\*\*|\\[.*_()|<>-]/.test(words)) found.add(`markup read aloud: ${words.slice(0, 80)}`);
    }
  }
  return [...found].sort();
}
