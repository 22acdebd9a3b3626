// A browser of a sandbox, to look at and to click in: frames of its screencast are drawn, and what is done here is
// told to it. Orders and events are those of the Chrome DevTools Protocol, over the link that this page came by.

const at = (id) => document.getElementById(id);
const screen = at('screen');
const draw = screen.getContext('2d');
const WIDE = 1600;
const HIGH = 1200;

class Browser {
  constructor(url) {
    this.socket = new WebSocket(url);
    this.number = 0;
    this.waiting = new Map();
    this.on = {};
    this.socket.addEventListener('message', (event) => this.hear(JSON.parse(event.data)));
  }

  hear(told) {
    if (told.id === undefined) {
      this.on[told.method]?.(told.params, told.sessionId);
      return;
    }
    const { done, failed } = this.waiting.get(told.id) ?? {};
    this.waiting.delete(told.id);
    if (told.error) failed?.(new Error(told.error.message));
    else done?.(told.result);
  }

  call(method, params = {}, sessionId = undefined) {
    const id = ++this.number;
    this.socket.send(JSON.stringify({ id, method, params, sessionId }));
    return new Promise((done, failed) => this.waiting.set(id, { done, failed }));
  }
}

const pages = new Map();
let shown = null;
let session = null;
let frame = null;

const here = new URL('devtools/browser', location.href.replace(/\/live\/?$/, '/'));
here.protocol = location.protocol === 'https:' ? 'wss:' : 'ws:';
const browser = new Browser(here);

const tell = (words) => { at('state').textContent = words; };
const order = (method, params) => (session ? browser.call(method, params, session).catch(() => {}) : Promise.resolve());

function list() {
  at('tabs').replaceChildren(...[...pages.values()].map((page) => {
    const tab = document.createElement('button');
    tab.type = 'button';
    tab.textContent = page.title || page.url;
    tab.setAttribute('aria-current', String(page.targetId === shown));
    tab.addEventListener('click', () => show(page.targetId));
    return tab;
  }));
  const page = pages.get(shown);
  if (page && document.activeElement !== at('address')) at('address').value = page.url;
}

async function show(targetId) {
  if (session) {
    order('Page.stopScreencast');
    browser.call('Target.detachFromTarget', { sessionId: session }).catch(() => {});
  }
  shown = targetId;
  session = null;
  list();
  const attached = await browser.call('Target.attachToTarget', { targetId, flatten: true });
  if (shown !== targetId) return;
  session = attached.sessionId;
  await order('Page.enable');
  await order('Page.bringToFront');
  await order('Page.startScreencast', { format: 'jpeg', quality: 70, maxWidth: WIDE, maxHeight: HIGH });
  tell('live');
}

function learn({ targetInfo }) {
  if (targetInfo.type !== 'page') return;
  if (targetInfo.url === location.href) { // this very view, in a page of the browser that it shows: a mirror of itself
    forget(targetInfo);
    return;
  }
  pages.set(targetInfo.targetId, targetInfo);
  if (shown === null) show(targetInfo.targetId).catch((error) => tell(error.message));
  list();
}

function forget({ targetId }) {
  pages.delete(targetId);
  if (shown === targetId) {
    shown = session = null;
    const next = pages.keys().next().value;
    if (next) show(next).catch((error) => tell(error.message));
  }
  list();
}

async function see(params, from) {
  browser.call('Page.screencastFrameAck', { sessionId: params.sessionId }, from).catch(() => {});
  if (from !== session) return;
  const bytes = Uint8Array.from(atob(params.data), (letter) => letter.charCodeAt(0));
  const image = await createImageBitmap(new Blob([bytes], { type: 'image/jpeg' }));
  if (screen.width !== image.width || screen.height !== image.height) {
    screen.width = image.width;
    screen.height = image.height;
  }
  draw.drawImage(image, 0, 0);
  image.close();
  frame = params.metadata;
}

// -- what is done here

const BUTTONS = ['left', 'middle', 'right', 'back', 'forward'];
const modifiers = (event) => Number(event.altKey) + 2 * event.ctrlKey + 4 * event.metaKey + 8 * event.shiftKey;

function place(event) {
  const box = screen.getBoundingClientRect();
  const wide = frame?.deviceWidth ?? screen.width;
  const high = frame?.deviceHeight ?? screen.height;
  return {
    x: ((event.clientX - box.left) / box.width) * wide,
    y: ((event.clientY - box.top) / box.height) * high,
    modifiers: modifiers(event),
  };
}

function mouse(type, event) {
  event.preventDefault();
  const button = type === 'mouseMoved' && !event.buttons ? 'none' : BUTTONS[event.button] ?? 'none';
  order('Input.dispatchMouseEvent', {
    type, ...place(event), button, buttons: event.buttons, clickCount: type === 'mouseMoved' ? 0 : Math.max(1, event.detail),
  });
}

let moved = null;
screen.addEventListener('pointermove', (event) => {
  if (moved === null) requestAnimationFrame(() => { mouse('mouseMoved', moved); moved = null; });
  moved = event;
});
screen.addEventListener('mousedown', (event) => { screen.focus(); mouse('mousePressed', event); });
screen.addEventListener('mouseup', (event) => mouse('mouseReleased', event));
screen.addEventListener('contextmenu', (event) => event.preventDefault());
screen.addEventListener('wheel', (event) => {
  event.preventDefault();
  order('Input.dispatchMouseEvent', { type: 'mouseWheel', ...place(event), deltaX: event.deltaX, deltaY: event.deltaY });
}, { passive: false });

function key(type, event) {
  event.preventDefault();
  const text = event.key.length === 1 && !event.ctrlKey && !event.metaKey ? event.key : event.key === 'Enter' ? '\r' : '';
  order('Input.dispatchKeyEvent', {
    type: type === 'keyDown' && !text ? 'rawKeyDown' : type,
    key: event.key, code: event.code, windowsVirtualKeyCode: event.keyCode, modifiers: modifiers(event),
    autoRepeat: event.repeat, ...(type === 'keyDown' && text ? { text } : {}),
  });
}
screen.addEventListener('keydown', (event) => { if (!event.isComposing && !pasting(event)) key('keyDown', event); });
screen.addEventListener('keyup', (event) => { if (!pasting(event)) key('keyUp', event); });
const pasting = (event) => (event.ctrlKey || event.metaKey) && event.key === 'v';
document.addEventListener('paste', (event) => {
  if (document.activeElement !== screen) return;
  event.preventDefault();
  order('Input.insertText', { text: event.clipboardData.getData('text/plain') });
});

at('bar').addEventListener('submit', (event) => {
  event.preventDefault();
  const typed = at('address').value.trim();
  const url = /^[a-z][a-z0-9+.-]*:/i.test(typed) && !/^[^/]*:\d+/.test(typed) ? typed : `http://${typed}`;
  at('address').blur();
  order('Page.navigate', { url });
});
at('reload').addEventListener('click', () => order('Page.reload'));
const go = async (step) => {
  const history = await order('Page.getNavigationHistory');
  const entry = history?.entries[history.currentIndex + step];
  if (entry) order('Page.navigateToHistoryEntry', { entryId: entry.id });
};
at('back').addEventListener('click', () => go(-1));
at('forward').addEventListener('click', () => go(1));

browser.on = {
  'Target.targetCreated': learn,
  'Target.targetInfoChanged': learn,
  'Target.targetDestroyed': forget,
  'Page.screencastFrame': see,
};
browser.socket.addEventListener('close', () => tell('over: load this page again'));
browser.socket.addEventListener('open', async () => {
  tell('connected');
  await browser.call('Target.setDiscoverTargets', { discover: true });
  if (pages.size === 0) await browser.call('Target.createTarget', { url: 'about:blank' });
});
