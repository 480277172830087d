// How it works: every number of the softmax output layer, to be moved by hand.

import { crossEntropy, gradient, logSumExp, softmax } from "/page/maths.js";
import { labelText, make, percent, plain, signed } from "/page/words.js";

const FIRST = [1.6, 3.1, 0.5];
const MOST_ROWS = 12;

export class How {
  #present = null;

  start() {
    this.body = document.getElementById("how-body");
    this.button = document.getElementById("how-present");
    this.button.disabled = true;
    this.button.addEventListener("click", () => this.#present && this.#take(this.#present));
    document.getElementById("how-reset").addEventListener("click", () => this.#begin());
    this.#begin();
  }

  #begin() {
    this.#take({ names: ["a", "b", "c"], logits: [...FIRST], temperature: 1, target: 1 });
  }

  /** Keep what the present prediction would put here. */
  offer(found, schema) {
    if (!found.logits || !found.classes) return;
    const order = found.classes.map((_, index) => index);
    const byTemperature = schema.calibration.method === "temperature" && found.raw_logits;
    const all = order.length <= MOST_ROWS;
    const temperature = all && byTemperature ? found.temperature : 1;
    const logits = all && byTemperature ? found.raw_logits : found.logits;
    const kept = all ? order : order.sort((a, b) => logits[b] - logits[a]).slice(0, MOST_ROWS - 1);
    const names = kept.map((index) => labelText(found.classes[index]));
    const values = kept.map((index) => logits[index]);
    if (!all) {
      const others = order.slice(MOST_ROWS - 1).map((index) => logits[index]);
      names.push(`${others.length.toLocaleString("en")} others together`);
      values.push(logSumExp(others));
    }
    const target = Math.max(0, kept.findIndex((index) => found.classes[index] === found.label));
    this.#present = { names, logits: values, temperature, target };
    this.button.disabled = false;
  }

  #take({ names, logits, temperature, target }) {
    this.names = names;
    this.logits = [...logits];
    this.temperature = temperature;
    this.target = target;
    const reach = Math.max(6, Math.ceil(Math.max(...logits.map(Math.abs)) + 1));
    this.rows = names.map((name, index) => this.#row(name, index, reach));
    this.#build();
    this.#update();
  }

  #row(name, index, reach) {
    const field = make("input", { type: "text", inputMode: "decimal", class: "logit", autocomplete: "off", "aria-label": `Logit of ${name}` });
    const slider = make("input", { type: "range", min: String(-reach), max: String(reach), step: "0.1", "aria-label": `Logit of ${name}, slider` });
    const set = (value, from) => {
      if (!Number.isFinite(value)) return;
      this.logits[index] = value;
      this.#update(from);
    };
    slider.addEventListener("input", () => set(Number(slider.value), slider));
    field.addEventListener("input", () => set(field.value.trim() === "" ? NaN : Number(field.value.replace("\u2212", "-")), field));
    field.addEventListener("blur", () => this.#update());
    const radio = make("input", { type: "radio", name: "target", checked: index === this.target, "aria-label": `${name} is the true class` });
    radio.addEventListener("change", () => {
      this.target = index;
      this.#update();
    });
    const numbers = { exp: "exp(z / T)", p: "p", gradient: "p \u2212 y" };
    const cells = { bar: make("span", { class: "fill" }) };
    for (const [key, text] of Object.entries(numbers)) {
      cells[key] = make("td", { class: key === "p" ? "number strong" : "number" });
      cells[key].dataset.name = text; // shown where there is no room for a head
    }
    const element = make("tr", {}, make("th", { scope: "row", text: name, title: name }),
      make("td", { class: "slide" }, field, slider), cells.exp, cells.p,
      make("td", { class: "track-cell", "aria-hidden": "true" }, make("span", { class: "track" }, cells.bar)),
      make("td", { class: "middle" }, radio), cells.gradient);
    radio.parentElement.dataset.name = "true y";
    return { field, slider, ...cells, element };
  }

  #build() {
    const names = ["class", "logit z", "exp(z / T)", "probability p", "", "true y", "gradient p \u2212 y"];
    const head = make("tr", {}, ...names.map((text) => make("th", { scope: "col", text })));
    this.total = make("td", { class: "number" });
    this.whole = make("td", { class: "number" });
    this.none = make("td", { class: "number" });
    const foot = make("tr", {}, make("th", { scope: "row", text: "sum" }), make("td"), this.total, this.whole, make("td"), make("td"), this.none);
    this.warmth = make("input", { type: "range", id: "how-temperature", min: "-1", max: "1", step: "0.01" });
    this.warmthText = make("output", { htmlFor: "how-temperature" });
    this.warmth.addEventListener("input", () => {
      this.temperature = 10 ** Number(this.warmth.value);
      this.#update(this.warmth);
    });
    this.loss = make("p", { class: "formula", id: "how-loss" });
    this.lesson = make("p", { class: "note" });
    this.body.replaceChildren(
      make("p", { class: "temperature" }, make("label", { htmlFor: "how-temperature", text: "Temperature T" }), this.warmth, this.warmthText),
      make("div", { class: "scroll", tabIndex: 0, role: "region", "aria-label": "Table of the softmax" }, make("table", { class: "softmax" },
        make("caption", { class: "hidden-text", text: "From logits to probabilities, loss and gradient" }),
        make("thead", {}, head), make("tbody", {}, ...this.rows.map(({ element }) => element)), make("tfoot", {}, foot))),
      this.loss, this.lesson);
  }

  #update(from = null) {
    const z = this.logits.map((one) => one / this.temperature);
    const p = softmax(z);
    const slope = gradient(z, this.target);
    this.rows.forEach((row, index) => {
      if (row.slider !== from) row.slider.value = String(this.logits[index]);
      row.slider.setAttribute("aria-valuetext", plain(this.logits[index], 2));
      if (row.field !== from) row.field.value = String(Number(this.logits[index].toFixed(4)));
      row.exp.textContent = plain(Math.exp(z[index]));
      row.p.textContent = plain(p[index], 8);
      row.p.title = percent(p[index]);
      row.bar.style.transform = `scaleX(${p[index]})`;
      row.gradient.textContent = signed(slope[index], 4);
      row.gradient.classList.toggle("against", slope[index] > 0);
    });
    this.total.textContent = plain(Math.exp(logSumExp(z)));
    this.whole.textContent = plain(p.reduce((a, b) => a + b, 0), 8);
    this.none.textContent = signed(slope.reduce((a, b) => a + b, 0), 4);
    if (from !== this.warmth) this.warmth.value = String(Math.log10(this.temperature));
    this.warmthText.textContent = this.temperature.toFixed(2);
    this.warmth.setAttribute("aria-valuetext", this.temperature.toFixed(2));
    const loss = crossEntropy(z, this.target);
    this.loss.textContent = `cross-entropy = \u2212ln p(${this.names[this.target]}) = \u2212ln ${plain(p[this.target], 4)} = ${plain(loss, 4)} nats`;
    this.lesson.textContent = "Training moves each logit against its gradient: down where p \u2212 y is positive, up where it is negative. "
      + (this.temperature > 1.005 ? "A temperature above 1 brings the probabilities closer together."
        : this.temperature < 0.995 ? "A temperature below 1 drives the probabilities apart."
          : "The temperature is fitted on held-out examples, so that what is called 77 % is right in 77 % of cases.");
  }
}
