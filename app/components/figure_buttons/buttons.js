// Saves a chart of this page as a file. Plotly draws it: its own toolbar button is pressed, told the format and the
// name. Nothing leaves the browser. A chart that is not drawn yet, as Plotly is still loading, is saved once it is.

const FORMATS = ["png", "svg"];
const LOOK_MS = 100; // between two looks for a chart that is not drawn yet

function plotOf(chart) {
  return document.querySelector(`.st-key-${CSS.escape(chart)} .js-plotly-plot`);
}

/** Save the chart; false where it is not drawn yet. */
function save(format, { chart, name, background }) {
  const plot = plotOf(chart);
  const button = plot && plot.querySelector(".modebar-btn[data-title^='Download plot']");
  if (!button || !plot._fullLayout) return false;
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
  return true;
}

function made(row, format) {
  const button = document.createElement("button");
  const name = format.toUpperCase();
  button.type = "button";
  button.textContent = name;
  button.title = `This chart as a ${name} file`;
  button.addEventListener("click", () => {
    if (button.looks || save(format, row.data)) return;
    button.textContent = `Preparing ${name}`;
    button.setAttribute("aria-busy", "true");
    button.looks = setInterval(() => {
      if (button.isConnected && !save(format, row.data)) return;
      clearInterval(button.looks);
      button.looks = null;
      button.textContent = name;
      button.removeAttribute("aria-busy");
    }, LOOK_MS);
  });
  return button;
}

// Streamlit calls this again as the page is drawn anew: a button that waits for its chart goes on.
export default function mount({ parentElement, data }) {
  let row = parentElement.querySelector(".files");
  if (!row) {
    row = document.createElement("div");
    row.className = "files";
    row.append(...FORMATS.map((format) => made(row, format)));
    parentElement.append(row);
  }
  row.data = data;
}
