// What is selected stands in the address, where pictures write it as the reader moves. Streamlit keeps an address of
// its own, so it is told of this one when the reader turns to another tab or page: when the pointer goes down, for a
// page that was left is not listened to.

const TABS = "[role=tab]";
const PAGES = "[data-testid*=NavLink], [data-testid=stPageLink] a";

export default function mount({ data, setTriggerValue }) {
  let told = JSON.stringify(data.known);
  const turned = ({ target }) => {
    if (!(target instanceof Element)) return;
    const to = target.closest(TABS) ? "tab" : target.closest(PAGES) ? "page" : "";
    const now = selected();
    if (!to || JSON.stringify(now) === told) return;
    told = JSON.stringify(now);
    setTriggerValue("turned", { to, selected: now });
  };
  const turns = ["pointerdown", "click", "keydown"];
  for (const turn of turns) document.addEventListener(turn, turned, true); // on the way down: told before the turn
  return () => {
    for (const turn of turns) document.removeEventListener(turn, turned, true);
  };
}
