// The live socket: asks for one run, hands frames on, and comes back by itself where it left off.

const FIRST_RETRY_MS = 300;
const LAST_RETRY_MS = 5000;
const REFUSED = 4403;
const LABS_PACE_MS = 100; // between two frames, for who asks for no other

class Feed {
  /** `on` has: frame(decoded), message(object), state(name); `positions()` says the next row wanted of each table. */
  constructor(address, token, run, positions, on) {
    Object.assign(this, { address, token, run, positions, on });
    this.retry = FIRST_RETRY_MS;
    this.stopped = false;
    this.every = LABS_PACE_MS;
    this.open();
  }

  open() {
    if (this.stopped) return;
    const socket = new WebSocket(this.address);
    socket.binaryType = "arraybuffer";
    this.socket = socket;
    socket.onopen = () => {
      const wish = { token: this.token, run: this.run, since: this.positions(), every_ms: this.every };
      socket.send(JSON.stringify(wish));
    };
    socket.onmessage = (event) => {
      if (this.stopped || socket !== this.socket) return;
      this.retry = FIRST_RETRY_MS;
      if (typeof event.data === "string") {
        const message = JSON.parse(event.data);
        if (message.type === "hello") this.on.state("open");
        this.on.message(message);
      } else {
        this.on.frame(decodeFrame(event.data));
      }
    };
    socket.onclose = (event) => {
      if (this.stopped || socket !== this.socket) return;
      if (event.code === REFUSED) {
        this.on.state("refused"); // asking again would give the same answer
        return;
      }
      this.on.state("reconnecting");
      this.timer = setTimeout(() => this.open(), this.retry * (0.8 + 0.4 * Math.random()));
      this.retry = Math.min(LAST_RETRY_MS, 2 * this.retry);
    };
  }

  /** Ask for news every so many milliseconds from now on. */
  ask(every) {
    if (every === this.every) return;
    this.every = every;
    if (this.socket.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify({ every_ms: every }));
  }

  /** Close for good; nothing is handed on afterwards. */
  stop() {
    this.stopped = true;
    clearTimeout(this.timer);
    if (this.socket) this.socket.close();
  }
}
