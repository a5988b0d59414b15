// Two windows of one browser: the first tells what it shows, the second asks for it when it comes. Nothing leaves the
// browser.

const CHANNEL = "servescope-second-window";
const ASKED = "what is shown?";

/** The window in front of the room. */
function tell(one, data) {
  one.channel.onmessage = (event) => event.data === ASKED && one.channel.postMessage({ place: data.place });
  one.channel.postMessage({ place: data.place });
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = data.label;
  button.title = "In a window of its own, which follows this one";
  button.addEventListener("click", () => {
    const url = new URL(window.location.href);
    url.searchParams.set(data.parameter, "yes");
    window.open(url, "servescope-second-window", "popup,width=640,height=760");
  });
  one.host.replaceChildren(...one.host.querySelectorAll("style, link"), button);
}

function follow(one, setStateValue) {
  one.channel.onmessage = ({ data }) => {
    if (typeof data?.place !== "string" || data.place === one.shown) return;
    one.shown = data.place;
    setStateValue("place", data.place);
  };
  one.channel.postMessage(ASKED);
}

export default function mount({ parentElement, data, setStateValue }) {
  const one = (parentElement.secondWindow ??= { host: parentElement, calls: 0 });
  const call = ++one.calls;
  one.channel ??= new BroadcastChannel(CHANNEL);
  if (data.label) tell(one, data);
  else follow(one, setStateValue);
  return () => setTimeout(() => {
    if (one.calls !== call) return; // superseded by a newer call
    one.channel?.close();
    one.channel = null;
  }, 0);
}
