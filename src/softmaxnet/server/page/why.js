// Why: the logit of one class less that of another, split into what the inputs contributed.

import { labelText, make, signed } from "/page/words.js";

const MOST_ROWS = 12;
const MOST_CHOICES = 300;
const PREDICTED = "predicted", RUNNER_UP = "runner-up";

export class Why {
  #last = "";

  constructor(schema, onChange) {
    this.schema = schema;
    this.body = document.getElementById("why-body");
    this.sum = document.getElementById("why-sum");
    this.label = document.getElementById("why-label");
    this.versus = document.getElementById("why-versus");
    const listed = schema.classes.slice(0, MOST_CHOICES);
    const options = () => listed.map((label, index) => make("option", { value: String(index), text: labelText(label) }));
    this.label.append(make("option", { value: PREDICTED, text: "the answer" }), ...options());
    this.versus.append(make("option", { value: RUNNER_UP, text: "the next class" }),
      make("option", { value: "baseline", text: "none" }), ...options());
    for (const choice of [this.label, this.versus]) choice.addEventListener("change", onChange);
    this.body.append(make("p", { class: "note", text: "Once there is an answer, this shows which parts of the input speak for it." }));
  }

  /** Whether it is worth asking: with one class there is nothing to compare. */
  isWanted() {
    return this.schema.n_classes > 1;
  }

  /** The value of "explain" in a request. */
  wish() {
    const wish = { top: MOST_ROWS };
    if (this.label.value !== PREDICTED) wish.label = this.schema.classes[Number(this.label.value)];
    if (this.versus.value === "baseline") wish.versus = null;
    else if (this.versus.value !== RUNNER_UP) {
      const versus = this.schema.classes[Number(this.versus.value)];
      if (versus !== (wish.label ?? this.predicted)) wish.versus = versus;
    }
    return wish.label === undefined && wish.versus === undefined ? true : wish;
  }

  about(found) {
    this.predicted = found.label;
  }

  clear() {
    this.#last = "";
    this.sum.textContent = "";
    this.body.replaceChildren(make("p", { class: "note", text: "Once there is an answer, this shows which parts of the input speak for it." }));
  }

  show(found, seen) {
    if (!found) return this.clear();
    const against = found.versus === null || found.versus === undefined ? "" : ` rather than ${labelText(found.versus)}`;
    const title = `for ${labelText(found.label)}${against}`;
    const parts = [];
    if (found.picture) parts.push(this.#picture(found, seen, title));
    else {
      const words = found.words.filter(({ text }) => text !== "");
      if (words.length) parts.push(...this.#texts(words));
      if (!words.length || found.contributions.length > 1) parts.push(this.#columns(found, title));
    }
    const key = JSON.stringify(found);
    if (key === this.#last) return undefined;
    this.#last = key;
    this.body.replaceChildren(...parts, legend(found));
    const rest = found.logit - found.baseline_logit;
    const what = against ? `logit of ${labelText(found.label)} less that of ${labelText(found.versus)}` : `logit of ${labelText(found.label)}`;
    this.sum.textContent = `${signed(found.baseline_logit)} for a typical input, ${signed(rest)} from this one: `
      + `the ${what} is ${signed(found.logit)} nats. ${found.method === "exact" ? "Exact." : "By integrated gradients."}`;
    return undefined;
  }

  #columns(found, title) {
    const rows = found.contributions.slice(0, MOST_ROWS);
    const largest = Math.max(1e-9, ...rows.map(({ contribution }) => Math.abs(contribution)));
    const digits = largest < 0.1 ? 4 : 2;
    const body = make("tbody", {}, ...rows.map(({ name, value, contribution }) => {
      const bar = make("span", { class: contribution < 0 ? "part against" : "part" });
      bar.style.width = `${(50 * Math.abs(contribution)) / largest}%`;
      return make("tr", {}, make("th", { scope: "row", text: name }), make("td", { class: "cell", text: cellText(value), title: cellText(value) }),
        make("td", { class: "parts", "aria-hidden": "true" }, bar), make("td", { class: "number", text: signed(contribution, digits) }));
    }));
    const head = make("tr", {}, ...["column", "value", "", "contribution"].map((text) => make("th", { scope: "col", text })));
    return make("table", { class: "columns" }, make("caption", { class: "hidden-text", text: `Contributions ${title}` }), make("thead", {}, head), body);
  }

  #texts(words) {
    const columns = [...new Set(words.map(({ column }) => column))];
    const largest = Math.max(1e-9, ...words.map(({ contribution }) => Math.abs(contribution)));
    return columns.map((column) => {
      const line = make("p", { class: "marked" });
      if (columns.length > 1) line.append(make("span", { class: "note", text: `${column}: ` }));
      for (const { text, contribution } of words.filter((word) => word.column === column)) {
        const mark = make("span", { class: contribution < 0 ? "word against" : "word", text, title: `${signed(contribution)} nats`, tabIndex: 0 });
        mark.setAttribute("aria-label", `${text}: ${signed(contribution)}`);
        mark.setAttribute("role", "img");
        mark.style.setProperty("--strength", String(Math.min(1, Math.abs(contribution) / largest).toFixed(3)));
        line.append(mark, " ");
      }
      return line;
    });
  }

  #picture({ picture }, seen, title) {
    const [height, width] = [picture.length, picture[0].length];
    const canvas = make("canvas", { class: "heat", width, height, role: "img" });
    canvas.setAttribute("aria-label", `Which pixels speak ${title}: ${inWords(picture)}`);
    const context = canvas.getContext("2d");
    const data = context.createImageData(width, height);
    const largest = Math.max(1e-12, ...picture.flat().map(Math.abs));
    const style = getComputedStyle(document.documentElement);
    const [pro, contra, ground] = ["--for", "--against", "--paper"].map((name) => rgb(style.getPropertyValue(name)));
    picture.forEach((row, y) => row.forEach((value, x) => {
      const strength = Math.sqrt(Math.abs(value) / largest);
      const colour = (value < 0 ? contra : pro).map((part, k) => Math.round(ground[k] + strength * (part - ground[k])));
      data.data.set([...colour, 255], 4 * (y * width + x));
    }));
    context.putImageData(data, 0, 0);
    const figures = [make("figure", {}, canvas, make("figcaption", { text: `pixels that speak ${title}` }))];
    if (seen) figures.unshift(make("figure", {}, pictureOf(seen, this.schema.image), make("figcaption", { text: "the picture" })));
    return make("div", { class: "figures" }, ...figures);
  }
}

/** A few words on where in a picture the evidence is, for those who do not see it. */
function inWords(picture) {
  const half = [picture.length / 2, picture[0].length / 2];
  const sums = new Map();
  picture.forEach((row, y) => row.forEach((value, x) => {
    const place = `${y < half[0] ? "upper" : "lower"} ${x < half[1] ? "left" : "right"}`;
    sums.set(place, (sums.get(place) ?? 0) + value);
  }));
  return [...sums].map(([place, sum]) => `${place} ${signed(sum)}`).join(", ");
}

function pictureOf(seen, { height, width, channels, largest }) {
  const canvas = make("canvas", { class: "heat", width, height, role: "img", "aria-label": "The picture as the model sees it" });
  const context = canvas.getContext("2d");
  const data = context.createImageData(width, height);
  seen.flat().forEach((pixel, index) => {
    const shades = channels === 3 ? pixel : [pixel, pixel, pixel];
    data.data.set([...shades.map((shade) => (255 * shade) / largest), 255], 4 * index);
  });
  context.putImageData(data, 0, 0);
  return canvas;
}

function rgb(text) {
  const hex = text.trim().replace("#", "");
  return [0, 2, 4].map((start) => parseInt(hex.slice(start, start + 2), 16));
}

function cellText(value) {
  return value === null || value === undefined ? "missing" : String(value);
}

function legend(found) {
  const against = found.versus === null || found.versus === undefined ? "against it" : `for ${labelText(found.versus)}`;
  return make("p", { class: "legend note" }, 
    make("span", {}, make("span", { class: "swatch" }), ` speaks for ${labelText(found.label)}`),
    make("span", {}, make("span", { class: "swatch against" }), ` speaks ${against}`));
}
