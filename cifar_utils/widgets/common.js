// What all widgets' pages share. Everything is plain HTML, so that keyboards and screen readers work as everywhere.

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

// Asking the kernel. `ask` always sends; `latest` holds a value back until the last question is answered, and then sends
// only the newest, so that a slider that moves fast does not leave a queue behind. `idle` says whether all questions are
// answered: until then the kernel's view is older than what the user has done, and controls must not jump back to it.
function talk(model, whenIdle = () => {}) {
  let sent = 0, waiting = null;
  const answered = () => model.get("answered") >= sent;
  const ask = (name, ...args) => {
    sent = Math.max(sent + 1, 1000 * Date.now()); // also unlike the numbers of another view, or of an earlier one
    model.send({ do: name, arguments: args, number: sent });
  };
  model.on("change:answered", () => {
    if (!answered()) return;
    if (!waiting) return whenIdle();
    const next = waiting;
    waiting = null;
    ask(...next);
  });
  const latest = (...call) => { if (answered()) ask(...call); else waiting = call; };
  return { ask, latest, idle: () => answered() && !waiting };
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

const button = (text, cls, action) => element("button", { type: "button", class: cls, onclick: action }, text);

// A list of [value, text] to choose from: its label, and the list itself.
function choice(title, cls, options, action) {
  const select = element("select", { class: cls, onchange: () => action(select.value) });
  for (const [value, text] of options) select.append(element("option", { value }, text));
  return [element("label", {}, `${title} `, select), select];
}

// A field for a number, which is sent when it is left, and at Enter.
function number(attributes, send) {
  let fresh = false;
  const commit = () => {
    if (fresh) send(input.valueAsNumber);
    fresh = false;
  };
  const input = element("input", {
    type: "number", step: "any", ...attributes, oninput: () => { fresh = true; }, onchange: commit,
    onkeydown: (event) => {
      if (event.key !== "Enter") return;
      commit();
      input.blur();
    },
  });
  return input;
}

// Sets a control's value unless the user is in the middle of typing there.
function put(control, value) {
  if (document.activeElement !== control || control.type === "range") control.value = value;
}
