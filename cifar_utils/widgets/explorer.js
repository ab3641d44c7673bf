export default {
  render({ model, el }) {
    const { ask, latest, idle } = talk(model, () => show());
    const view = () => model.get("view");
    let rest = 0;
    const settled = () => { // once the sliders rest, the trained network is asked
      clearTimeout(rest);
      rest = setTimeout(() => ask("judge"), 300);
    };

    const controls = {};
    const grid = element("div", { class: "fields" });
    for (const [key, title, unit, step, low, high] of view().fields) {
      const name = `${title} (${unit})`;
      const slider = element("input", {
        type: "range", min: low, max: high, step, "aria-label": name, class: `slider-${key.replace(".", "-")}`,
        oninput: () => { latest("set", key, Number(slider.value)); settled(); },
      });
      const id = unique(key);
      const typed = number({ id, title: `${low} to ${high}`, class: `number-${key.replace(".", "-")}` }, (value) => {
        ask("set", key, value);
        settled();
      });
      controls[key] = { slider, typed };
      grid.append(element("label", { for: id }, title, element("small", {}, ` ${unit}`)), slider, typed);
    }
    const [presetLabel, preset] = choice(
      "Preset", "preset", [["", "(own)"], ...view().presets.map((p) => [p, p])],
      (value) => { if (value) ask("preset", value); settled(); });
    const [interpolationLabel, interpolation] = choice(
      "Interpolation", "interpolation", [["bilinear", "bilinear"], ["nearest", "nearest"]],
      (value) => { ask("set", "interpolation", value); settled(); });
    const [sweepLabel, swept] = choice(
      "Show", "sweep", [["", "random draws"], ...view().sweeps.map((s) => [s, `${s}, end to end`])],
      (value) => ask("sweep", value));
    const strength = element("input", {
      type: "range", min: 0, max: 4, step: 0.1, class: "strength",
      oninput: () => { latest("strength", Number(strength.value)); settled(); },
    });
    const strengthSaid = element("output");
    const seed = number({ min: 0, step: 1, class: "seed" }, (value) => { ask("seed", value); settled(); });
    const undo = button("Undo", "undo", () => { ask("undo"); settled(); });
    const names = element("fieldset", { class: "classes" }, element("legend", {}, "Classes"));
    for (const [name, on] of view().classes) {
      const box = element("input", { type: "checkbox", value: name, checked: on, onchange: () => ask("classes", chosen()) });
      names.append(element("label", {}, box, ` ${name}`));
    }
    const boxes = [...names.querySelectorAll("input")];
    const chosen = () => boxes.filter((b) => b.checked).map((b) => b.value);

    const canvas = element("canvas", { role: "img", class: "sheet" });
    const title = element("p", { class: "title" });
    const verdict = element("p", { class: "verdict", role: "status" });
    const note = element("p", { class: "note", role: "status" });
    const policy = element("code", { class: "policy" });
    const code = element("textarea", { class: "code", readonly: true, rows: 8, "aria-label": "The same policy as torchvision code" });
    const copy = button("Copy the code", "copy", async () => {
      code.select(); // what is selected can be copied by hand where the page may not
      try { await navigator.clipboard.writeText(code.value); note.textContent = "Copied."; }
      catch { note.textContent = "The browser does not let the page copy: press Ctrl-C, the code is selected."; }
    });

    el.replaceChildren(root("explorer",
      element("div", { class: "bar" },
        presetLabel, element("label", {}, "Strength ", strength, " "), strengthSaid, sweepLabel, interpolationLabel,
        element("label", {}, "Seed ", seed),
        button("Draw again", "draw-again", () => { ask("draw_again"); settled(); }), undo,
        button("Reset", "reset", () => { ask("reset"); settled(); }),
        button("Load the saved policy", "load", () => { ask("load"); settled(); }),
        button("Train with this policy", "save primary", () => ask("save"))),
      errors(model), note,
      element("div", { class: "halves" }, grid,
        element("div", { class: "picture" }, title, canvas, verdict, names,
          button("Other images", "other-images", () => ask("other_images")))),
      element("details", {}, element("summary", {}, "The policy, and the same as torchvision code"), policy, code, copy)));

    const show = () => {
      const v = view();
      if (idle()) {
        for (const [key, , , , , , value] of v.fields) {
          put(controls[key].slider, value);
          put(controls[key].typed, Number(value.toPrecision(4)));
        }
        put(preset, v.preset); put(interpolation, v.interpolation); put(swept, v.swept);
        put(strength, v.strength); put(seed, v.seed);
        v.classes.forEach(([, on], i) => { boxes[i].checked = on; });
      }
      strengthSaid.textContent = `${v.strength.toFixed(1)} times`;
      strength.setAttribute("aria-valuetext", strengthSaid.textContent);
      undo.disabled = !v.can_undo;
      title.textContent = v.title;
      verdict.textContent = v.verdict;
      verdict.classList.toggle("warning", v.destroys);
      note.textContent = v.note;
      policy.textContent = v.policy;
      code.value = v.code;
      canvas.setAttribute("aria-label", v.alt);
      paint(canvas, model.get("pixels"), v.width, v.height);
    };
    model.on("change:view", show);
    show();
  },
};
