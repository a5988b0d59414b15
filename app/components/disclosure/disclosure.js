// A line that opens and closes what is drawn below it. Its text may change, as a count in it does, and the keyboard
// stays on it and on what it has opened.

function made(parentElement) {
  const button = document.createElement("button");
  const mark = document.createElement("span");
  button.type = "button";
  mark.className = "mark";
  mark.setAttribute("aria-hidden", "true");
  button.append(mark, document.createElement("span"));
  parentElement.append(button);
  return button;
}

export default function mount({ parentElement, data, setTriggerValue }) {
  const button = parentElement.querySelector("button") ?? made(parentElement);
  button.lastChild.textContent = data.label;
  button.setAttribute("aria-expanded", String(data.open));
  button.onclick = () => {
    const open = button.getAttribute("aria-expanded") !== "true";
    button.setAttribute("aria-expanded", String(open)); // at once; the server draws what is below
    setTriggerValue("turned", { open });
  };
}
