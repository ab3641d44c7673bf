export default {
  render({ model, el }) {
    const { ask, idle } = talk(model, () => show());
    const view = () => model.get("view");
    const { classes } = view();

    const cells = [];
    const table = element("table", { class: "matrix" }, element("caption", {}, "Rows: true class. Columns: predicted class."));
    const head = element("tr", {}, element("td"));
    for (const name of classes) head.append(element("th", { scope: "col" }, name));
    table.append(element("thead", {}, head));
    const body = element("tbody");
    classes.forEach((name, t) => {
      const line = element("tr", {}, element("th", { scope: "row" }, name));
      cells.push(classes.map((_, p) => {
        const cell = element("button", { type: "button", class: `cell-${t}-${p}`, onclick: () => ask("choose", t, p), onkeydown: (event) => move(event, t, p) });
        line.append(element("td", {}, cell));
        return cell;
      }));
      body.append(line);
    });
    table.append(body);
    // Arrow keys go from cell to cell, so that 100 cells are one stop for the Tab key.
    const move = (event, t, p) => {
      const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
      if (!step) return;
      event.preventDefault();
      event.stopPropagation();
      cells[Math.min(Math.max(t + step[0], 0), 9)][Math.min(Math.max(p + step[1], 0), 9)].focus();
    };

    const named = view().runs.map((r) => [r, r]);
    const [runLabel, run] = choice("Run", "run", named, (value) => ask("run", value));
    const [otherLabel, other] = choice("Compared with", "other", [["", "nothing"], ...named], (value) => ask("other", value));
    const [orderLabel, order] = choice("Order", "order", view().orders.map((o) => [o, o]), (value) => ask("order", value));
    const back = button("Previous images", "previous", () => ask("more", -1));
    const next = button("Next images", "next", () => ask("more", 1));
    const heading = element("p", { class: "title heading", role: "status" });
    const summary = element("p", { class: "summary" });
    const comparison = element("p", { class: "comparison" });
    const found = element("div", { class: "found" });

    el.replaceChildren(root("confusions",
      element("div", { class: "bar" }, runLabel, otherLabel, orderLabel), errors(model),
      element("div", { class: "halves" }, element("div", {}, table),
        element("div", { class: "picture" }, heading, found, element("div", { class: "bar" }, back, next), comparison, summary))));

    const show = () => {
      const v = view();
      cells.forEach((line, t) => line.forEach((cell, p) => {
        const change = v.changes ? v.changes[t][p] : 0;
        const count = v.matrix[t][p];
        const chosen = v.cell[0] === t && v.cell[1] === p;
        cell.textContent = change ? `${count}\u00a0(${change > 0 ? "+" : "\u2212"}${Math.abs(change)})` : String(count);
        [cell.style.background, cell.style.color] = v.colours[t][p];
        cell.style.width = v.changes ? "5.6em" : "";
        cell.setAttribute("aria-pressed", String(chosen));
        cell.tabIndex = chosen ? 0 : -1;
        const share = `${(100 * v.shares[t][p]).toFixed(1)} %`;
        cell.setAttribute("aria-label", `${classes[t]} called ${classes[p]}: ${count} images, ${share}`
          + (v.changes ? `, ${change >= 0 ? "+" : ""}${change} in the other run` : ""));
      }));
      if (idle()) { put(run, v.run); put(other, v.other); put(order, v.order); }
      heading.textContent = v.heading;
      summary.textContent = v.summary;
      comparison.textContent = v.comparison;
      back.disabled = v.first === 0;
      next.disabled = v.first + v.page >= v.count;
      const bytes = model.get("pixels");
      found.replaceChildren(...v.found.map((image, i) => {
        const canvas = element("canvas", { role: "img", "aria-label": `test image ${image.index}, ${image.true}` });
        paint(canvas, new DataView(bytes.buffer, bytes.byteOffset + i * 4096, 4096), 32, 32);
        const said = element("figcaption", {}, image.said);
        if (image.other) said.append(element("br"), element("em", {}, `other: ${image.other}`));
        return element("figure", {}, canvas, said);
      }));
    };
    model.on("change:view", show);
    show();
  },
};
