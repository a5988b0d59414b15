// What a reader sees of a chart, such as a stretch of time, as numbers: charts tell it to the bar of a room, and the
// bar asks the charts of those who follow to show the same.

const VIEW_SAID = "servescope-view-said";
const VIEW_ASKED = "servescope-view-asked";

class SharedView {
  /** `take(numbers)` shows what is asked for, also where it was asked for before this chart was there. */
  constructor(name, take) {
    this.name = name;
    this.heard = ({ detail }) => detail.name === name && take(detail.view);
    document.addEventListener(VIEW_ASKED, this.heard);
    const asked = document.servescopeAsked?.[name];
    if (asked) queueMicrotask(() => take(asked)); // whoever makes this is still being made
  }

  say(view) {
    document.dispatchEvent(new CustomEvent(VIEW_SAID, { detail: { name: this.name, view } }));
  }

  stop() {
    document.removeEventListener(VIEW_ASKED, this.heard);
  }
}
