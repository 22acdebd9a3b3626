// A terminal of a sandbox in this page: xterm.js over the WebSocket that the element #terminal names.
"use strict";

(() => {
  const place = document.getElementById("terminal");
  const status = document.getElementById("terminal-status");
  const nonce = document.currentScript.nonce;

  // The page's policy takes no style that is not the server's. xterm.js makes sheets, which are given the nonce of
  // this answer, and style attributes, which are set one by one instead: that is no markup, and allowed.
  const create = document.createElement.bind(document);
  document.createElement = (name, options) => {
    const made = create(name, options);
    if (String(name).toLowerCase() === "style") made.nonce = nonce;
    return made;
  };
  const setAttribute = Element.prototype.setAttribute;
  Element.prototype.setAttribute = function (name, value) {
    if (name === "style") this.style.cssText = value;
    else setAttribute.call(this, name, value);
  };

  const RETRIES_MOST = 8;
  const readOnly = place.dataset.looks === "true";
  const mono = getComputedStyle(place).fontFamily;
  const terminal = new Terminal({
    cursorBlink: !readOnly,
    disableStdin: readOnly,
    fontFamily: mono,
    fontSize: 14,
    scrollback: 10000,
    theme: { background: "#11141a", foreground: "#e7eaf0", cursor: readOnly ? "#11141a" : "#e7eaf0" },
  });
  const fit = new FitAddon.FitAddon();
  terminal.loadAddon(fit);
  terminal.open(place);

  let socket = null;
  let live = false; // what comes is new: to old output the terminal must not answer
  let over = false;
  let adopting = false; // another viewer's size, which is not to be sent back
  let retries = 0;

  const say = (text, kind) => {
    status.textContent = text;
    status.className = `hint ${kind || ""}`;
  };
  const isOpen = () => socket !== null && socket.readyState === WebSocket.OPEN;
  const send = (data) => {
    if (isOpen() && live && !readOnly) socket.send(data);
  };
  const sendSize = () => {
    if (isOpen() && !readOnly) socket.send(JSON.stringify({ resize: { rows: terminal.rows, cols: terminal.cols } }));
  };
  const adopt = (size) => {
    if (!size) return;
    adopting = true;
    terminal.resize(size.cols, size.rows);
    adopting = false;
  };

  terminal.onData((text) => send(new TextEncoder().encode(text)));
  terminal.onBinary((text) => send(Uint8Array.from(text, (letter) => letter.charCodeAt(0))));
  terminal.onResize(() => {
    if (!adopting) sendSize();
  });

  const told = {
    attached(found) {
      retries = 0;
      terminal.reset();
      if (readOnly) adopt(found.size);
      say(readOnly ? "You only look." : "", "");
    },
    live() {
      // Behind all that is old, which may still be under way to the screen.
      terminal.write("", () => {
        live = true;
      });
    },
    lagged(gap) {
      live = false;
      terminal.reset();
      if (readOnly) adopt(gap.size);
      say(`This browser was too slow: ${gap.skipped_bytes} bytes were left out.`, "");
    },
    resize: adopt,
    exit(code) {
      over = true;
      terminal.options.disableStdin = true;
      terminal.options.cursorBlink = false;
      say(`The program has ended with exit code ${code}.`, "ended");
    },
    error(sentence) {
      // Coming back by itself would wake what somebody has just put to sleep.
      over = true;
      say(`${sentence.replace(/[^.!?]$/, "$&.")} Load this page again to come back.`, "bad");
    },
  };

  const hear = (message) => {
    if (typeof message.data !== "string") {
      terminal.write(new Uint8Array(message.data));
      return;
    }
    for (const [kind, value] of Object.entries(JSON.parse(message.data))) {
      if (Object.hasOwn(told, kind)) told[kind](value);
    }
  };

  const connect = () => {
    fit.fit();
    const address = new URL(place.dataset.socket, location.href);
    address.protocol = location.protocol === "https:" ? "wss:" : "ws:";
    if (!readOnly) {
      address.searchParams.set("rows", terminal.rows);
      address.searchParams.set("cols", terminal.cols);
    }
    live = false;
    socket = new WebSocket(address);
    socket.binaryType = "arraybuffer";
    socket.onmessage = hear;
    socket.onclose = lost;
  };

  const lost = () => {
    live = false;
    if (over) return;
    if (retries >= RETRIES_MOST) {
      say("The connection is lost. The terminal goes on: load this page again to come back.", "bad");
      return;
    }
    const seconds = Math.min(2 ** retries, 15);
    retries += 1;
    if (!status.textContent) say("The connection broke; coming back to the terminal, which goes on.", "bad");
    setTimeout(connect, seconds * 1000);
  };

  let fitting = 0;
  new ResizeObserver(() => {
    if (readOnly) return;
    cancelAnimationFrame(fitting);
    fitting = requestAnimationFrame(() => fit.fit());
  }).observe(place);

  connect();
  terminal.focus();
})();
