// Saves a chart of this page as a file. Plotly draws it: its own toolbar button is pressed, told the format and the
// name. Nothing leaves the browser.

const FORMATS = ["png", "svg"];

function plotOf(chart) {
  return document.querySelector(`.st-key-${CSS.escape(chart)} .js-plotly-plot`);
}

function save(format, { chart, name, background }) {
  const plot = plotOf(chart);
  const button = plot && plot.querySelector(".modebar-btn[data-title^='Download plot']");
  if (!button) return;
  const { toImageButtonOptions: options } = plot._context;
  const { paper_bgcolor: paper } = plot._fullLayout;
  plot._context.toImageButtonOptions = { ...options, format, filename: name, scale: format === "png" ? 2 : 1 };
  plot.layout.paper_bgcolor = background; // a transparent picture cannot be read everywhere
  try {
    button.click(); // the toolbar reads the options and copies the figure at once
  } finally {
    plot._context.toImageButtonOptions = options;
    plot.layout.paper_bgcolor = paper;
  }
}

export default function mount({ parentElement, data }) {
  const row = document.createElement("div");
  row.className = "files";
  for (const format of FORMATS) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = format.toUpperCase();
    button.title = `This chart as a ${format.toUpperCase()} file`;
    button.addEventListener("click", () => save(format, data));
    row.append(button);
  }
  parentElement.replaceChildren(...[...parentElement.querySelectorAll("style, link")], row);
}
