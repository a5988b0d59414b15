// A name that this browser keeps for itself, drawn at random the first time: letters and digits, nothing of the reader.
// Where the browser keeps nothing, the address does.

const KEY = "servescope-learner";
const SOUND = /^[a-z0-9]{12,40}$/;

function drawn() {
  const bytes = crypto.getRandomValues(new Uint8Array(12));
  return Array.from(bytes, (byte) => byte.toString(36).padStart(2, "0")).join("");
}

function kept() {
  const name = window.localStorage.getItem(KEY);
  if (SOUND.test(name ?? "")) return name;
  const fresh = drawn();
  window.localStorage.setItem(KEY, fresh);
  return fresh;
}

function inAddress() {
  const url = new URL(window.location.href);
  const name = drawn();
  url.searchParams.set("learner", name);
  window.history.replaceState(window.history.state, "", url);
  return name;
}

export default function mount({ data, setStateValue }) {
  if (data.known) return;
  let name;
  try {
    name = kept();
  } catch {
    name = inAddress();
  }
  setStateValue("name", name);
}
