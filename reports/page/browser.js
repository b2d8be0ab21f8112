// The image browser: filters over the records in #browser-data. Text is only ever set as text, never as HTML.
"use strict";
(() => {
  const PAGE = 60;
  const data = JSON.parse(document.getElementById("browser-data").textContent);
  const [form, cards, count, more] = ["filters", "cards", "count", "more"].map((id) => document.getElementById(id));
  const VERDICTS = { 1: "correct", 0: "wrong", "-1": "not scored" };

  const entries = data.runs.flatMap((run) =>
    run.items.map(([task, prompt, reason, verdict, sample, place, boxes, kinds]) => ({
      variant: run.variant, seed: run.seed, task, prompt: data.texts[prompt], reason: data.texts[reason],
      verdict: VERDICTS[verdict], sample, place, boxes, kinds: kinds ?? [],
    })),
  );
  const order = entries.map((entry) => `${entry.prompt}\n${entry.reason}`.toLowerCase());

  function make(tag, className, text) {
    const element = document.createElement(tag);
    if (className) element.className = className;
    if (text !== undefined) element.textContent = text;
    return element;
  }

  function fill(name, options) {
    if (!form.elements[name]) return;
    for (const [value, label] of options) {
      const option = make("option", "", label);
      option.value = String(value);
      form.elements[name].append(option);
    }
  }

  // A place is [sheet, row, column] of a sprite in this page, or [address, width, height] of a file beside it.
  function ground(place) {
    if (typeof place[0] === "string") {
      const [address, width, height] = place;
      const frame = make("div", "picture file");
      const image = make("img");
      Object.assign(image, { loading: "lazy", alt: "", src: address });
      frame.style.aspectRatio = `${width} / ${height}`;
      frame.append(image);
      return frame;
    }
    const [sheet, row, column] = place;
    const frame = make("div", `picture sheet-${sheet}`);
    const rows = data.tasks.length;
    frame.style.backgroundSize = `${100 * data.columns}% ${100 * rows}%`;
    frame.style.backgroundPosition = `${(100 * column) / (data.columns - 1)}% ${(100 * row) / Math.max(1, rows - 1)}%`;
    return frame;
  }

  function picture({ place, boxes }) {
    if (place === null) return make("div", "picture empty", "no image");
    const frame = ground(place);
    for (const [name, left, top, width, height, score, mask] of boxes ?? []) {
      if (mask) {
        const shade = make("img", "mask");
        Object.assign(shade, { alt: "", src: `data:image/png;base64,${mask}` });
        frame.append(shade);
      }
      const box = make("div", "box");
      Object.assign(box.style, { left: `${100 * left}%`, top: `${100 * top}%`, width: `${100 * width}%`, height: `${100 * height}%` });
      box.title = `${name} ${score.toFixed(2)}`;
      box.append(make("span", "", name));
      frame.append(box);
    }
    return frame;
  }

  function card(entry) {
    const element = make("article", "card");
    const seen = (entry.boxes ?? []).map(([name, , , , , score]) => `${name} ${score.toFixed(2)}`).join(", ");
    const badge = make("span", `badge ${entry.verdict === "not scored" ? "" : entry.verdict}`, entry.verdict);
    element.append(picture(entry), badge, make("p", "prompt", entry.prompt));
    if (entry.reason) element.append(make("p", "reason", entry.reason));
    if (entry.place) element.append(make("p", "soft", entry.boxes === null ? "boxes not recorded" : `seen: ${seen || "nothing"}`));
    const origin = data.variants.length ? `${data.variants[entry.variant]}, seed ${entry.seed}, ` : "";
    element.append(make("p", "soft", `${origin}${data.tasks[entry.task]}, sample ${entry.sample}`));
    return element;
  }

  let matching = [];
  let drawn = 0;

  function draw() {
    const next = matching.slice(drawn, drawn + PAGE);
    cards.append(...next.map((index) => card(entries[index])));
    drawn += next.length;
    more.hidden = drawn >= matching.length;
    count.textContent = matching.length
      ? `${drawn.toLocaleString("en")} of ${matching.length.toLocaleString("en")} matching images drawn.`
      : "No image matches these filters.";
  }

  function update() {
    const wanted = (name) => form.elements[name]?.value ?? "";
    const [variant, seed, task, verdict, kind, text] = ["variant", "seed", "task", "verdict", "kind", "text"].map(wanted);
    const words = text.toLowerCase().split(/\s+/).filter(Boolean);
    matching = [...entries.keys()].filter((index) => {
      const entry = entries[index];
      return (variant === "" || entry.variant === Number(variant)) && (seed === "" || entry.seed === Number(seed)) &&
        (task === "" || entry.task === Number(task)) && (verdict === "" || entry.verdict === verdict) &&
        (kind === "" || entry.kinds.includes(kind)) &&
        words.every((word) => order[index].includes(word));
    });
    drawn = 0;
    cards.replaceChildren();
    draw();
  }

  const numbered = (labels) => labels.map((label, index) => [index, label]);
  fill("variant", numbered(data.variants));
  fill("seed", [...new Set(data.runs.map((run) => run.seed))].sort((a, b) => a - b).map((seed) => [seed, seed]));
  fill("task", numbered(data.tasks));
  form.addEventListener("input", (event) => {
    if (event.target.name === "boxes") cards.classList.toggle("plain", !event.target.checked);
    else if (event.target.name === "masks") cards.classList.toggle("unmasked", !event.target.checked);
    else update();
  });
  form.addEventListener("submit", (event) => event.preventDefault());
  more.addEventListener("click", draw);
  update();
})();
