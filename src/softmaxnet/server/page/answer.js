// The answer: a sentence, the set at a coverage, and the classes as bars with numbers.

import { calmed } from "/page/api.js";
import { either, labelText, make, percent } from "/page/words.js";

const MOST_BARS = 10;
const ROW_HEIGHT = 2.5; // rem

export class Answer {
  #bars = new Map();
  #found = null;
  #places = [];

  constructor(schema, onCoverage) {
    this.schema = schema;
    this.list = document.getElementById("bars");
    this.headline = document.getElementById("headline");
    this.set = document.getElementById("set");
    this.say = calmed((text) => (document.getElementById("said").textContent = text), 700);
    this.order = calmed(() => this.#reorder(), 500);
    this.slider = document.getElementById("coverage-choice");
    this.#prepareCoverage(onCoverage);
  }

  #prepareCoverage(onCoverage) {
    const { sets } = this.schema;
    const highest = sets ? Math.floor(100 * sets.highest + 1e-9) : 99;
    this.slider.max = String(Math.max(50, highest));
    this.slider.value = String(Math.min(90, highest));
    document.getElementById("coverage").hidden = false;
    document.getElementById("coverage-note").textContent = sets
      ? "Of such sets, at least this share holds the true class: measured on examples that the model did not learn from."
      : "The fewest classes that together have this probability. The model was not prepared for sets with a guarantee.";
    this.slider.addEventListener("input", () => {
      this.#showCoverage();
      if (sets) onCoverage();
      else if (this.#found) this.show(this.#found);
    });
    this.#showCoverage();
  }

  #showCoverage() {
    const text = `${this.slider.value}\u00a0%`;
    document.getElementById("coverage-value").textContent = text;
    this.slider.setAttribute("aria-valuetext", text);
  }

  /** The coverage to ask the server for; null where the model has no sets. */
  coverage() {
    return this.schema.sets ? Math.min(Number(this.slider.value) / 100, this.schema.sets.highest) : null;
  }

  clear() {
    this.#found = null;
    this.headline.className = "headline waiting";
    this.headline.textContent = { image: "Nothing drawn yet.", text: "Nothing written yet." }[this.schema.kind] ?? "No row yet.";
    this.set.textContent = "";
    document.getElementById("rest").textContent = "";
    for (const bar of this.#bars.values()) bar.remove();
    this.#bars.clear();
    this.list.style.height = "0";
  }

  show(found) {
    this.#found = found;
    const ranked = this.#ranked(found);
    const members = found.set ?? smallest(ranked, Number(this.slider.value) / 100);
    const best = labelText(found.label);
    const sure = members.length <= 1;
    this.headline.className = sure ? "headline sure" : "headline unsure";
    this.headline.replaceChildren(
      make("span", { class: "verdict", text: sure ? "It is" : "Not sure:" }), " ",
      make("strong", { text: sure ? best : either(members, 4) }));
    const coverage = `${this.slider.value}\u00a0%`;
    this.set.textContent = sure
      ? `${percent(found.probability)} probable; the only class in the set at ${coverage}.`
      : `Most probable is ${best} (${percent(found.probability)}). The set at ${coverage} holds ${members.length.toLocaleString("en")} classes.`;
    this.say(`${this.headline.textContent}. ${this.set.textContent}`);
    this.#draw(ranked.slice(0, MOST_BARS), new Set(members));
    const rest = ranked.slice(MOST_BARS);
    const n = this.schema.n_classes - Math.min(MOST_BARS, ranked.length);
    const shown = ranked.slice(0, MOST_BARS).reduce((sum, one) => sum + one.probability, 0);
    document.getElementById("rest").textContent = n > 0 || rest.length
      ? `and ${n.toLocaleString("en")} more, together ${percent(Math.max(0, 1 - shown))}` : "";
  }

  #ranked(found) {
    if (found.probabilities && found.classes) {
      const pairs = found.classes.map((label, index) => ({ label, index, probability: found.probabilities[index] }));
      return pairs.sort((a, b) => b.probability - a.probability || a.index - b.index);
    }
    return found.top ?? [{ label: found.label, probability: found.probability }];
  }

  /** Place a bar for each class; those that stay move to their new places. */
  #draw(ranked, members) {
    const kept = new Set(ranked.map(({ label }) => label));
    for (const [label, bar] of this.#bars) {
      if (kept.has(label)) continue;
      bar.remove();
      this.#bars.delete(label);
    }
    ranked.forEach(({ label, probability }, place) => {
      if (!this.#bars.has(label)) this.#bars.set(label, newBar(label));
      const bar = this.#bars.get(label);
      bar.classList.toggle("member", members.has(label));
      bar.style.transform = `translateY(${place * ROW_HEIGHT}rem)`;
      bar.querySelector(".fill").style.transform = `scaleX(${probability})`;
      bar.querySelector(".number").textContent = percent(probability);
      bar.querySelector(".in-set").textContent = members.has(label) ? ", in the set" : "";
      if (!bar.isConnected) this.list.append(bar);
    });
    this.order();
    this.list.style.height = `${ranked.length * ROW_HEIGHT}rem`;
    const longest = Math.max(...ranked.map(({ label }) => labelText(label).length));
    this.list.style.setProperty("--label", `${Math.max(2, 1.15 * longest + 1)}ch`);
    this.#places = ranked.map(({ label }) => label);
  }

  /** Bring the list into the order that is seen, for those who hear it: at rest, for it would cut the movement short. */
  #reorder() {
    this.#places.forEach((label, place) => {
      const bar = this.#bars.get(label);
      if (bar && this.list.children[place] !== bar) this.list.insertBefore(bar, this.list.children[place] ?? null);
    });
  }
}

function newBar(label) {
  return make("li", { class: "bar" },
    make("span", { class: "label", text: labelText(label), title: labelText(label) }),
    make("span", { class: "track", "aria-hidden": "true" }, make("span", { class: "fill" })),
    make("span", { class: "number" }),
    make("span", { class: "in-set hidden-text" }));
}

/** The fewest most probable classes that together reach a share. */
function smallest(ranked, share) {
  let sum = 0;
  const members = [];
  for (const { label, probability } of ranked) {
    members.push(label);
    sum += probability;
    if (sum >= share) break;
  }
  return members;
}
