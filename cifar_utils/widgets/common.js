// The part that all widgets' pages share. Everything is plain HTML, so keyboards and screen readers work.

// An element with attributes (on...: listeners) and children.
function element(tag, attributes = {}, ...children) {
  const e = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) e.addEventListener(name.slice(2), value);
    else if (value === true) e.setAttribute(name, "");
    else if (value !== false && value !== undefined) e.setAttribute(name, value);
  }
  e.append(...children);
  return e;
}

let counter = 0;
const unique = (name) => `cifar-${name}-${counter++}`;

// Messages to the kernel. `send` always sends; `sendLatest` holds a value back until the last message is handled, and
// then sends only the newest, so that a fast slider does not leave a queue behind. No message overtakes a value that is
// held back: it is sent first. `idle` tells whether all messages are handled: until then the kernel's view is older than
// the user's changes, and controls must not jump back to it. No control waits for `sendUnasked`, which none has caused.
function connect(model, whenIdle = () => {}) {
  let sent = 0, waiting = null;
  const handled = () => model.get("handled") >= sent;
  const emit = (name, ...args) => {
    sent = Math.max(sent + 1, 1000 * Date.now()); // also unlike the numbers of another view, or of an earlier one
    model.send({ do: name, arguments: args, number: sent });
  };
  const flush = () => {
    const next = waiting;
    waiting = null;
    if (next) emit(...next);
  };
  const send = (...call) => { flush(); emit(...call); };
  const sendUnasked = (name) => model.send({ do: name, arguments: [] });
  model.on("change:handled", () => {
    if (!handled()) return;
    if (!waiting) return whenIdle();
    flush();
  });
  const control = (call) => call.slice(0, -1).join(); // all but the value
  const sendLatest = (...call) => {
    if (waiting && control(waiting) !== control(call)) flush(); // another control's value is not lost
    if (handled()) send(...call); else waiting = call;
  };
  return { send, sendLatest, sendUnasked, idle: () => handled() && !waiting };
}

// Raw RGBA bytes onto a canvas.
function paint(canvas, bytes, width, height) {
  if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
  const data = new Uint8ClampedArray(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  canvas.getContext("2d").putImageData(new ImageData(data, width, height), 0, 0);
}

// The line in which errors appear; screen readers read it out.
function errors(model) {
  const line = element("p", { class: "error", role: "alert" });
  const show = () => { line.textContent = model.get("error"); };
  model.on("change:error", show);
  show();
  return line;
}

// The outermost element. Keys stay within it: JupyterLab would take arrows and Enter away from sliders and fields.
function root(name, ...children) {
  const inside = { "data-lm-suppress-shortcuts": "true", onkeydown: (event) => event.stopPropagation() };
  return element("div", { class: `cifar ${name}`, ...inside }, ...children);
}

// Disables two controls or not. One that is disabled loses the focus, and a keyboard its place: the other one takes it.
function disable(one, oneIsDisabled, other, otherIsDisabled) {
  const focused = document.activeElement;
  one.disabled = oneIsDisabled;
  other.disabled = otherIsDisabled;
  if (focused === one && oneIsDisabled && !otherIsDisabled) other.focus();
  if (focused === other && otherIsDisabled && !oneIsDisabled) one.focus();
}

const button = (text, cls, action) => element("button", { type: "button", class: cls, onclick: action }, text);

// A list of [value, text] to choose from: its label, and the list itself.
function choice(title, cls, options, action) {
  const select = element("select", { class: cls, onchange: () => action(select.value) });
  for (const [value, text] of options) select.append(element("option", { value }, text));
  return [element("label", {}, `${title} `, select), select];
}

// A field for a number, which is sent when it loses the focus, and at Enter.
function number(attributes, send) {
  let changed = false;
  const commit = () => {
    if (changed) send(input.valueAsNumber);
    changed = false;
  };
  const input = element("input", {
    type: "number", step: "any", ...attributes, oninput: () => { changed = true; }, onchange: commit,
    onkeydown: (event) => {
      if (event.key !== "Enter") return;
      commit();
      input.blur();
    },
  });
  return input;
}

// Sets a control's value unless the user is typing there.
function put(control, value) {
  if (document.activeElement !== control || control.type === "range") control.value = value;
}
