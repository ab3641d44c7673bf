export default {
  render({ model, el }) {
    const { send, sendLatest, sendUnasked, idle } = connect(model, () => show());
    const view = () => model.get("view");
    let rest = 0;
    const judge = () => { // once the controls rest, the trained network measures the policy
      clearTimeout(rest);
      rest = setTimeout(() => { if (idle() && !view().judged) sendUnasked("judge"); }, 300);
    };

    const controls = {};
    const grid = element("div", { class: "fields" });
    for (const [key, title, unit, step, low, high] of view().fields) {
      const name = `${title} (${unit})`;
      const slider = element("input", {
        type: "range", min: low, max: high, step, "aria-label": name, class: `slider-${key.replace(".", "-")}`,
        oninput: () => sendLatest("set", key, Number(slider.value)),
      });
      const id = unique(key);
      const typed = number({ id, title: `${low} to ${high}`, class: `number-${key.replace(".", "-")}` },
        (value) => send("set", key, value));
      controls[key] = { slider, typed };
      grid.append(element("div", {}, element("label", { for: id }, title, element("small", {}, ` ${unit}`)), slider, typed));
    }
    const [presetLabel, preset] = choice(
      "Preset", "preset", [["", "(custom)"], ...view().presets.map((p) => [p, p])],
      (value) => { if (value) send("preset", value); else preset.value = view().preset; });
    const [interpolationLabel, interpolation] = choice(
      "Interpolation", "interpolation", [["bilinear", "bilinear"], ["nearest", "nearest"]],
      (value) => send("set", "interpolation", value));
    const [sweepLabel, swept] = choice(
      "Show", "sweep", [["", "random draws"], ...view().sweeps.map((s) => [s, `${s}, end to end`])],
      (value) => send("sweep", value));
    const strength = element("input", {
      type: "range", min: 0, max: 4, step: 0.1, class: "strength",
      oninput: () => sendLatest("strength", Number(strength.value)),
    });
    const strengthText = element("output");
    const seed = number({ min: 0, step: 1, class: "seed" }, (value) => send("seed", value));
    const undo = button("Undo", "undo", () => { unchecked = false; send("undo"); });
    let unchecked = false;
    const names = element("fieldset", { class: "classes" }, element("legend", {}, "Classes"));
    if (view().classes.length > 20) { // to see one of many classes, without a click on each of the others
      names.append(button("Uncheck all", "uncheck", () => {
        unchecked = true; // the kernel does not know of it until a class is chosen
        boxes.forEach((b) => { b.checked = false; });
      }));
    }
    for (const [name, on] of view().classes) {
      const box = element("input", { type: "checkbox", value: name, checked: on, onchange: () => {
        unchecked = false;
        send("classes", chosen());
      } });
      names.append(element("label", {}, box, ` ${name}`));
    }
    const boxes = [...names.querySelectorAll("input")];
    const chosen = () => boxes.filter((b) => b.checked).map((b) => b.value);

    const canvas = element("canvas", { role: "img", class: "sheet" });
    const rowNames = element("div", { class: "row-names", "aria-hidden": "true" }); // the image's text has them, too
    const captions = element("div", { class: "captions", "aria-hidden": "true" });
    const title = element("p", { class: "title" });
    const warning = element("p", { class: "warning", role: "status" });
    const note = element("p", { class: "note", role: "status" });
    const policy = element("code", { class: "policy" });
    const code = element("textarea", { class: "code", readonly: true, cols: 88, "aria-label": "The policy as torchvision code" });
    const copy = button("Copy the code", "copy", async () => {
      code.select(); // selected text can be copied by hand where the page has no permission
      try { await navigator.clipboard.writeText(code.value); note.textContent = "Copied."; }
      catch { note.textContent = "The browser does not allow the page to copy. The code is selected: press Ctrl-C."; }
    });

    el.replaceChildren(root("explorer", title,
      element("div", { class: "stage" }, element("div", { class: "framed" }, rowNames, canvas, captions), warning),
      element("div", { class: "bar" },
        presetLabel, element("label", {}, "Strength ", strength, " "), strengthText, sweepLabel, interpolationLabel,
        element("label", {}, "Seed ", seed),
        button("Draw again", "draw-again", () => send("draw_again")), undo,
        button("Reset", "reset", () => { unchecked = false; send("reset"); }),
        button("Load the saved policy", "load", () => send("load")),
        button("Train with this policy", "save primary", () => send("save"))),
      errors(model), note, grid, names, button("Other images", "other-images", () => send("other_images")),
      element("details", {}, element("summary", {}, "The policy, and its torchvision code"), policy, code, copy)));

    const show = () => {
      const v = view();
      judge();
      if (idle()) {
        for (const [key, , , , , , value] of v.fields) {
          put(controls[key].slider, value);
          put(controls[key].typed, Number(value.toPrecision(4)));
        }
        put(preset, v.preset); put(interpolation, v.interpolation); put(swept, v.swept);
        put(strength, v.strength); put(seed, v.seed);
        if (!unchecked) v.classes.forEach(([, on], i) => { boxes[i].checked = on; });
      }
      strengthText.textContent = `${v.strength.toFixed(1)} times`;
      strength.setAttribute("aria-valuetext", strengthText.textContent);
      disable(undo, !v.can_undo, preset, false);
      title.textContent = v.title;
      warning.textContent = v.warning;
      warning.classList.toggle("destroys", v.destroys);
      note.textContent = v.note;
      policy.textContent = v.policy;
      code.value = v.code;
      code.rows = v.code.split("\n").length;
      rowNames.replaceChildren(...v.names.map((name) => element("span", { title: name }, name)));
      captions.replaceChildren(...v.captions.map((caption) => element("span", {}, caption)));
      captions.style.gridTemplateColumns = v.columns.map((pixels) => `minmax(0, ${pixels}fr)`).join(" ");
      canvas.setAttribute("aria-label", v.alt);
      paint(canvas, model.get("pixels"), v.width, v.height);
      canvas.parentElement.style.setProperty("--aspect", v.width / v.height);
    };
    model.on("change:view", show);
    show();
  },
};
