const SVG = "http://www.w3.org/2000/svg";

function svg(tag, attributes, ...children) {
  const e = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) e.setAttribute(name, value);
  e.append(...children);
  return e;
}

// Four or five round numbers that cover a range.
function ticks(low, high) {
  const raw = (high - low) / 4 || 1;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= raw);
  const found = [];
  for (let t = Math.ceil(low / step) * step; t <= high + step / 1e6; t += step) found.push(Number(t.toPrecision(6)));
  return found;
}

// A chart of lines: {name, color, dash, marker, points: [[x, y], ...]}; `best` is a vertical line. The horizontal axis
// reaches at least to `least`, so that the first points do not make a scale of thousandths that changes all the time.
function chart(title, xTitle, lines, best, text, least) {
  const [W, H, L, R, T, B] = [440, 270, 52, 10, 30, 44];
  const all = lines.flatMap((l) => l.points);
  const xs = all.map((p) => p[0]), ys = all.map((p) => p[1]);
  const [x0, x1] = [0, Math.max(least, ...xs)];
  const pad = Math.max((Math.max(...ys) - Math.min(...ys)) * 0.06, 0.02);
  const [y0, y1] = all.length ? [Math.min(...ys) - pad, Math.max(...ys) + pad] : [0, 1];
  const X = (x) => L + ((x - x0) / (x1 - x0)) * (W - L - R);
  const Y = (y) => H - B - ((y - y0) / (y1 - y0)) * (H - T - B);
  const root = svg("svg", { viewBox: `0 0 ${W} ${H}`, width: W, height: H, role: "img" });
  root.append(svg("text", { x: L, y: 18, "font-weight": 600 }, title));
  if (all.length) { // an axis without data has no scale
    for (const t of ticks(y0, y1)) {
      root.append(svg("line", { x1: L, x2: W - R, y1: Y(t), y2: Y(t), stroke: "#8888", "stroke-width": 0.5 }),
        svg("text", { x: L - 6, y: Y(t) + 5, "text-anchor": "end" }, text(t)));
    }
    for (const t of ticks(x0, x1)) root.append(svg("text", { x: X(t), y: H - B + 18, "text-anchor": "middle" }, String(t)));
  } else {
    root.append(svg("line", { x1: L, x2: W - R, y1: H - B, y2: H - B, stroke: "#8888", "stroke-width": 0.5 }));
  }
  root.append(svg("text", { x: (L + W) / 2, y: H - 6, "text-anchor": "middle" }, xTitle));
  if (best !== null) {
    root.append(svg("line", { class: "best", x1: X(best), x2: X(best), y1: T, y2: H - B, stroke: "currentColor", "stroke-dasharray": "2 4" }));
  }
  const summary = [];
  lines.forEach((line, i) => {
    const points = line.points.map(([x, y]) => `${X(x).toFixed(1)},${Y(y).toFixed(1)}`).join(" ");
    root.append(svg("polyline", { points, fill: "none", stroke: line.color, "stroke-width": 2.5, "stroke-dasharray": line.dash }));
    if (line.marker) for (const [x, y] of line.points) root.append(svg("rect", { x: X(x) - 3.5, y: Y(y) - 3.5, width: 7, height: 7, fill: line.color }));
    root.append(svg("line", { x1: 190 + 125 * i, x2: 215 + 125 * i, y1: 13, y2: 13, stroke: line.color, "stroke-width": 3, "stroke-dasharray": line.dash }),
      svg("text", { x: 220 + 125 * i, y: 18 }, line.name));
    if (line.points.length) summary.push(`${line.name} now ${text(line.points.at(-1)[1])}`);
  });
  root.setAttribute("aria-label", `${title} against ${xTitle}: ${summary.join(", ") || "no data yet"}`);
  return root;
}

const GONE = "Training no longer runs here, since its kernel is gone: run the cell again to resume.";

export default {
  render({ model, el, signal }) {
    const { send, sendLatest, idle } = connect(model, () => show());
    const title = element("p", { class: "title" });
    const bar = element("progress", { max: 1, "aria-label": "Training progress" });
    const numbers = element("span", { class: "numbers" });
    const status = element("p", { class: "status", role: "status" });
    const stop = button("Stop and save", "stop primary", () => send("stop"));
    const resume = button("Continue", "resume", () => send("resume"));
    const slider = element("input", {
      type: "range", min: 0, max: 3, step: 0.05, class: "rate", "aria-label": "Factor on the learning rate",
      oninput: () => sendLatest("learning_rate", Number(slider.value)),
    });
    const id = unique("rate");
    const typed = number({ id, class: "rate-number", title: "0 to 10" }, (value) => send("learning_rate", value));
    const [axisLabel, axis] = choice("Horizontal axis", "axis", ["epochs", "minutes"].map((x) => [x, x]), () => show());
    const charts = element("div", { class: "charts" });
    const batchTitle = element("p", {}, "The current batch, after the transform");
    const canvas = element("canvas", { role: "img", class: "batch", "aria-label": "The first images of the current batch, after the transform" });

    el.replaceChildren(root("dashboard",
      title, element("div", { class: "bar" }, bar, numbers, stop, resume,
        element("span", {}, element("label", { for: id }, "Factor on the learning rate "), slider, " ", typed), axisLabel),
      status, errors(model), charts, batchTitle, canvas));

    let gone = el.classList.contains("jupyter-widgets-disconnected"); // restored from a file, without a kernel
    let running = false;
    const show = () => {
      const v = model.get("view");
      const place = axis.value === "minutes" ? (e, s) => s / 60 : (e) => e;
      const linesOf = (name, column) => [
        { name: "training", color: "#0072B2", dash: "7 4", points: v.trace.map((t) => [place(t[0], t[1]), t[column]]) },
        { name: "validation", color: "#D55E00", dash: "none", marker: true,
          points: v.history.map((r) => [place(r.epoch, r.seconds), r[`validation_${name}`]]).filter((p) => p[1] !== null) },
      ];
      const least = axis.value === "minutes" ? 0.1 : 1;
      const row = v.history.find((r) => r.epoch === v.best);
      const best = row ? place(row.epoch, row.seconds) : null;
      charts.replaceChildren(
        chart("Loss", axis.value, linesOf("loss", 2), best, (y) => y.toFixed(2), least),
        chart("Accuracy", axis.value, linesOf("accuracy", 3), best, (y) => `${Math.round(100 * y)}%`, least));
      title.textContent = v.title;
      bar.value = v.epochs ? v.done / v.epochs : 0;
      const rate = v.rate === null ? "" : `, learning rate ${v.rate.toPrecision(3)}`;
      const marked = v.best === null ? "" : `, best epoch ${v.best} (dotted)`;
      numbers.textContent = v.epochs ? `epoch ${v.done.toFixed(1)} of ${v.epochs}, ${Math.round(v.seconds)} s${rate}${marked}` : "";
      const now = gone && !v.complete ? GONE : v.status;
      if (status.textContent !== now) status.textContent = now;
      // A page that is reloaded finds the dashboard in the notebook's file, so it must be there from the start of
      // training on, and not only after the next automatic save.
      if (v.running && !running && context?.model.dirty && context.contentsModel?.writable) context.save();
      running = v.running;
      disable(stop, gone || !v.running, resume, gone || !v.stopped);
      slider.disabled = typed.disabled = gone;
      if (idle()) { put(slider, v.scale); put(typed, v.scale); }
      batchTitle.hidden = canvas.hidden = !v.width;
      if (v.width) paint(canvas, model.get("pixels"), v.width, v.height);
    };
    model.on("change:view", show);
    const lost = () => {
      gone = true;
      show();
    };
    model.on("comm_live_update", lost); // the kernel restarted, perhaps after a crash
    const context = model.widget_manager?.context; // of the notebook, in JupyterLab
    context?.sessionContext.kernelChanged.connect(lost); // it was shut down, or another one took its place
    signal?.addEventListener("abort", () => context?.sessionContext.kernelChanged.disconnect(lost));
    show();
  },
};
