// What is selected stands in the address, where pictures write it as the reader moves. Streamlit keeps an address of
// its own, so it is told of this one when the reader turns to another tab or page.

const TABS = "[role=tab]";
const PAGES = "[data-testid*=NavLink], [data-testid=stPageLink] a";

export default function mount({ data, setTriggerValue }) {
  const turned = ({ target }) => {
    if (!(target instanceof Element)) return;
    const to = target.closest(TABS) ? "tab" : target.closest(PAGES) ? "page" : "";
    const now = selected();
    if (to && JSON.stringify(now) !== JSON.stringify(data.known)) setTriggerValue("turned", { to, selected: now });
  };
  document.addEventListener("click", turned, true); // on the way down, so that it is told before the turn
  document.addEventListener("keydown", turned, true);
  return () => {
    document.removeEventListener("click", turned, true);
    document.removeEventListener("keydown", turned, true);
  };
}
