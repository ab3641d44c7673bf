export default {
  render({ model, el }) {
    const { send, idle } = connect(model, () => show());
    const view = () => model.get("view");
    const { classes } = model.get("table");
    const last = classes.length - 1;
    const few = classes.length <= 20; // else smaller cells, in which a zero is left blank

    const cells = [];
    const caption = element("caption");
    const table = element("table", { class: "matrix" }, caption);
    table.classList.toggle("dense", !few);
    const head = element("tr", {}, element("td"));
    for (const name of classes) head.append(element("th", { scope: "col", title: name }, element("span", {}, name)));
    table.append(element("thead", {}, head));
    const body = element("tbody");
    classes.forEach((name, t) => {
      const line = element("tr", {}, element("th", { scope: "row", title: name }, element("span", {}, name)));
      cells.push(classes.map((_, p) => {
        const cell = element("button", { type: "button", class: `cell-${t}-${p}`, "data-true": t, "data-predicted": p });
        line.append(element("td", {}, cell));
        return cell;
      }));
      body.append(line);
    });
    table.append(body);
    const position = (event) => {
      const cell = event.target.closest("button");
      return cell && [Number(cell.dataset.true), Number(cell.dataset.predicted)];
    };
    body.addEventListener("click", (event) => {
      const at = position(event);
      if (at) send("choose", ...at);
    });
    // Arrow keys move from cell to cell, so that the whole matrix is one stop for the Tab key.
    body.addEventListener("keydown", (event) => {
      const at = position(event);
      const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
      if (!step || !at) return;
      event.preventDefault();
      event.stopPropagation();
      const [t, p] = at.map((place, axis) => Math.min(Math.max(place + step[axis], 0), last));
      cells[t][p].focus();
    });

    const named = view().runs.map((r) => [r, r]);
    const [runLabel, run] = choice("Run", "run", named, (value) => send("run", value));
    const [otherLabel, other] = choice("Compared with", "other", [["", "nothing"], ...named], (value) => send("other", value));
    const [orderLabel, order] = choice("Order", "order", view().orders.map((o) => [o, o]), (value) => send("order", value));
    const back = button("Previous images", "previous", () => send("more", -1));
    const next = button("Next images", "next", () => send("more", 1));
    const heading = element("p", { class: "title heading", role: "status" });
    const summary = element("p", { class: "summary" });
    const comparison = element("p", { class: "comparison" });
    // In a narrow cell the images are one row above the matrix, along which the keyboard must be able to scroll.
    const found = element("div", { class: "found", tabindex: "0", role: "group", "aria-label": "images of the chosen cell" });
    const shown = element("div", { class: "shown" }, heading, element("div", { class: "bar" }, back, next), found);

    el.replaceChildren(root("confusions",
      element("div", { class: "bar" }, runLabel, otherLabel, orderLabel), errors(model),
      element("div", { class: "halves" }, element("div", { class: "scrolling" }, table),
        element("div", { class: "result" }, shown, comparison, summary))));

    // The whole matrix: at first, and when another run is chosen.
    const showTable = () => {
      const { matrix, fractions, changes, colors } = model.get("table");
      table.classList.toggle("compared", Boolean(changes));
      caption.textContent = "Rows: true class. Columns: predicted class."
        + (changes ? " In parentheses: how many more (+) or fewer (\u2212) images the compared run has there." : "");
      cells.forEach((line, t) => line.forEach((cell, p) => {
        const count = matrix[t][p], change = changes ? changes[t][p] : 0;
        const fraction = matrix[t].some(Boolean) ? `${(100 * fractions[t][p]).toFixed(1)}%` : "n/a";
        const text = !few && !count ? "" : String(count);
        cell.textContent = change ? `${count}${few ? "\n" : "\u00a0"}(${change > 0 ? "+" : "\u2212"}${Math.abs(change)})` : text;
        [cell.style.background, cell.style.color] = colors[Math.round(100 * fractions[t][p])];
        cell.setAttribute("aria-label", `${classes[t]} predicted as ${classes[p]}: ${count} images, `
          + fraction + (changes ? `, ${change >= 0 ? "+" : ""}${change} in the other run` : ""));
      }));
    };
    let chosen = null;
    const show = () => {
      const v = view();
      const cell = cells[v.cell[0]][v.cell[1]];
      if (chosen !== cell) {
        for (const c of chosen ? [chosen] : cells.flat()) {
          c.setAttribute("aria-pressed", "false");
          c.tabIndex = -1;
        }
        chosen = cell;
        chosen.setAttribute("aria-pressed", "true");
        chosen.tabIndex = 0;
      }
      if (idle()) { put(run, v.run); put(other, v.other); put(order, v.order); }
      heading.textContent = v.heading;
      summary.textContent = v.summary;
      comparison.textContent = v.comparison;
      disable(back, v.first === 0, next, v.first + v.page >= v.count);
      const bytes = model.get("pixels"), length = 4 * v.size * v.size;
      const width = Math.max(96, Math.min(v.size, 192)); // on the page: small images are enlarged
      found.replaceChildren(...v.found.map((image, i) => {
        const canvas = element("canvas", { role: "img", "aria-label": `image ${image.index}, ${image.true}` });
        Object.assign(canvas.style, { width: `${width}px`, height: `${width}px` });
        paint(canvas, new DataView(bytes.buffer, bytes.byteOffset + i * length, length), v.size, v.size);
        const caption = element("figcaption", {}, image.caption);
        if (image.other) caption.append(element("br"), element("em", {}, `other: ${image.other}`));
        const figure = element("figure", {}, canvas, caption);
        figure.style.width = `${width + 6}px`;
        return figure;
      }));
    };
    model.on("change:table", showTable);
    model.on("change:view", show);
    showTable();
    show();
  },
};
