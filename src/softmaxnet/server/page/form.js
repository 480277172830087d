// A form for a row of a table, with a control for each kind of column; or a box for a text.

import { labelText, make } from "/page/words.js";

const FILTER_FROM = 13; // columns from which on there is a field to find one

/** One text. */
export class TextInput {
  constructor(place, schema, onChange) {
    this.schema = schema;
    const example = schema.example && Object.values(schema.example)[0];
    this.box = make("textarea", { id: "text", rows: 7, spellcheck: false, value: typeof example === "string" ? example : "" });
    place.append(make("label", { htmlFor: "text", class: "block-label", text: "Text" }), this.box,
      make("div", { class: "tools" }, make("button", { type: "button", text: "Clear", id: "clear", onclick: () => {
        this.box.value = "";
        this.box.focus();
        onChange(true);
      } })));
    this.box.addEventListener("input", () => onChange(false));
  }

  isEmpty() {
    return this.box.value.trim() === "";
  }

  question() {
    return { texts: [this.box.value] };
  }

  saw() {}
}

/** One row of a table, or of a matrix without names. */
export class FormInput {
  constructor(place, schema, onChange) {
    this.schema = schema;
    this.onChange = onChange;
    this.controls = schema.columns.map((column, index) => newControl(column, index, onChange));
    const fields = make("div", { class: "fields" }, ...this.controls.map(({ element }) => element));
    if (this.controls.length >= FILTER_FROM) place.append(this.#filter());
    place.append(fields, make("div", { class: "tools" },
      make("button", { type: "button", text: "Example row", id: "example", onclick: () => this.#fill(schema.example) }),
      make("button", { type: "button", text: "Clear", id: "clear", onclick: () => this.#fill(null) }),
      make("span", { class: "note", text: "An empty field is a missing value." })));
    this.#fill(schema.example, false);
  }

  #filter() {
    const field = make("input", { type: "search", id: "find-column", autocomplete: "off" });
    const count = make("span", { class: "note", text: `${this.controls.length.toLocaleString("en")} columns` });
    field.addEventListener("input", () => {
      const wanted = field.value.trim().toLowerCase();
      for (const { element, column } of this.controls) element.hidden = !column.name.toLowerCase().includes(wanted);
    });
    return make("p", { class: "find" }, make("label", { htmlFor: "find-column", text: "Find a column" }), field, count);
  }

  #fill(row, tell = true) {
    this.controls.forEach((control, index) => {
      const value = row === null || row === undefined ? null : Array.isArray(row) ? row[index] : row[control.column.name];
      control.write(value ?? null);
    });
    if (tell) this.onChange(true);
  }

  isEmpty() {
    return false;
  }

  question() {
    const cells = this.controls.map((control) => control.read());
    if (!this.schema.named) return { rows: [cells] };
    return { rows: [Object.fromEntries(this.controls.map(({ column }, index) => [column.name, cells[index]]))] };
  }

  saw() {}
}

function newControl(column, index, onChange) {
  const id = `field-${index}`;
  const build = { number: numberControl, boolean: booleanControl, category: categoryControl, date: dateControl }[column.kind] ?? textControl;
  const { parts, hint, read, write } = build(column, id, onChange);
  const element = make("div", { class: `field of-${column.kind}` },
    make("label", { htmlFor: id, text: column.name }), ...parts,
    ...(hint ? [make("p", { class: "hint", id: `${id}-hint`, text: hint })] : []));
  if (hint) parts[0].setAttribute("aria-describedby", `${id}-hint`);
  return { element, column, read, write };
}

function numberControl(column, id, onChange) {
  const { low, high } = column;
  const field = make("input", { id, type: "text", inputMode: "decimal", autocomplete: "off", placeholder: "missing" });
  const parts = [field];
  const ranged = Number.isFinite(low) && Number.isFinite(high) && low < high;
  let slider = null;
  if (ranged) {
    const whole = Number.isInteger(low) && Number.isInteger(high) && high - low >= 5;
    slider = make("input", { type: "range", min: String(low), max: String(high), step: whole ? "1" : "any",
      "aria-label": `${column.name}, slider` });
    slider.addEventListener("input", () => {
      field.value = short(Number(slider.value), high - low);
      check();
      onChange(true);
    });
    parts.push(slider);
  }
  const check = () => {
    const wrong = field.value.trim() !== "" && !Number.isFinite(asNumber(field.value));
    field.setAttribute("aria-invalid", String(wrong));
    field.title = wrong ? "not a number" : "";
  };
  field.addEventListener("input", () => {
    check();
    const value = asNumber(field.value);
    if (slider && Number.isFinite(value)) slider.value = String(value);
    onChange(false);
  });
  return {
    parts,
    hint: ranged ? `typically ${rounded(low)} to ${rounded(high)}` : "",
    read: () => (field.value.trim() === "" ? null : Number.isFinite(asNumber(field.value)) ? asNumber(field.value) : field.value),
    write: (value) => {
      field.value = value === null ? "" : String(value);
      if (slider && Number.isFinite(Number(value))) slider.value = String(value ?? (low + high) / 2);
      check();
    },
  };
}

function asNumber(text) {
  return text.trim() === "" ? NaN : Number(text.trim().replace("\u2212", "-"));
}

/** A number with as many decimals as its range asks for. */
function short(value, range) {
  const digits = Math.min(6, Math.max(0, 2 - Math.floor(Math.log10(range || 1))));
  return String(Number(value.toFixed(digits)));
}

function rounded(value) {
  return value.toLocaleString("en", { maximumSignificantDigits: 4 }).replace("-", "\u2212");
}

function booleanControl(column, id, onChange) {
  if (column.share_missing > 0) return choices(id, [["true", "yes"], ["false", "no"]], onChange, (text) => text === "true");
  const field = make("input", { id, type: "checkbox" });
  field.addEventListener("change", () => onChange(true));
  return { parts: [field], hint: "", read: () => field.checked, write: (value) => (field.checked = value === true) };
}

function categoryControl(column, id, onChange) {
  if (column.n_levels > column.levels.length) return openCategory(column, id, onChange);
  return choices(id, column.levels.map((level) => [String(level), labelText(level)]), onChange, (text) => text);
}

/** A list to choose from; the first entry is a missing value. */
function choices(id, pairs, onChange, meaning) {
  const field = make("select", { id }, make("option", { value: "-1", text: "missing" }),
    ...pairs.map(([, text], index) => make("option", { value: String(index), text })));
  field.addEventListener("change", () => onChange(true));
  return {
    parts: [field],
    hint: "",
    read: () => (field.value === "-1" ? null : meaning(pairs[Number(field.value)][0])),
    write: (value) => (field.value = String(value === null ? -1 : pairs.findIndex(([text]) => text === String(value)))),
  };
}

/** Too many levels to list: a field that suggests the first of them. */
function openCategory(column, id, onChange) {
  const control = textControl(column, id, onChange, "input");
  control.parts[0].setAttribute("list", `${id}-levels`);
  control.parts.push(make("datalist", { id: `${id}-levels` }, ...column.levels.map((level) => make("option", { value: String(level) }))));
  control.hint = `one of ${column.n_levels.toLocaleString("en")}`;
  return control;
}

function dateControl(column, id, onChange) {
  const field = make("input", { id, type: "date" });
  field.addEventListener("change", () => onChange(true));
  return {
    parts: [field],
    hint: "",
    read: () => field.value || null,
    write: (value) => (field.value = value === null ? "" : String(value).slice(0, 10)),
  };
}

function textControl(column, id, onChange, tag = "textarea") {
  const field = make(tag, { id, spellcheck: false, ...(tag === "textarea" ? { rows: 2 } : { type: "text", autocomplete: "off" }) });
  field.addEventListener("input", () => onChange(false));
  return { parts: [field], hint: "", read: () => field.value || null, write: (value) => (field.value = value === null ? "" : String(value)) };
}
