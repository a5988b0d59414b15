// Keeps what the reader set in the page's address, in place: a reload finds it there, and Back goes to the page before,
// not to the setting before. Which of the known tabs is open is kept the same way. Streamlit scrolls to the top of
// another page, not of another view of this one.

function begin(view) {
  const shown = document.documentElement.dataset;
  if (shown.view !== undefined && shown.view !== view) document.querySelector(".stMain")?.scrollTo(0, 0);
  shown.view = view;
}

export default function mount({ data }) {
  const { owned, pairs, tabs, view } = data;
  begin(view);
  rewrite((parameters) => {
    for (const name of owned) parameters.delete(name);
    for (const [name, value] of pairs) parameters.append(name, value);
  });
  const chosen = ({ target }) => {
    const name = target instanceof Element ? target.closest("[role=tab]")?.textContent.trim() : undefined;
    if (tabs.includes(name)) rewrite((parameters) => parameters.set("tab", name));
  };
  document.addEventListener("click", chosen, true); // on the way down: tabs stop events that they have taken
  document.addEventListener("keyup", chosen, true);
  return () => {
    document.removeEventListener("click", chosen, true);
    document.removeEventListener("keyup", chosen, true);
  };
}
