// How numbers and labels are written, and how elements are made: text is always text, never markup.

/** Return an element with a class, text and children; `text` is never parsed. */
export function make(tag, options = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(options)) {
    if (name === "class") element.className = value;
    else if (name === "text") element.textContent = value;
    else if (name in element && name !== "list") element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

/** 0.7708 -> "77.1 %"; never "0.0 %" for what is not 0, nor "100.0 %" for what is not 1. */
export function percent(p) {
  if (p > 0 && p < 0.0005) return "<\u00a00.1\u00a0%";
  if (p < 1 && p > 0.9995) return ">\u00a099.9\u00a0%";
  return `${(100 * p).toFixed(1)}\u00a0%`;
}

/** -0.25 -> "\u22120.250" */
export function signed(value, digits = 2) {
  const text = Math.abs(value).toFixed(digits);
  return Number(text) === 0 ? text : (value < 0 ? "\u2212" : "+") + text;
}

/** A number for a table: a fixed number of digits where it is of ordinary size. */
export function plain(value, digits = 4) {
  if (!Number.isFinite(value)) return value > 0 ? "\u221e" : value < 0 ? "\u2212\u221e" : "none";
  const size = Math.abs(value);
  if (size !== 0 && (size >= 1e5 || size < 10 ** -digits)) {
    const [mantissa, exponent] = value.toExponential(2).replace("-", "\u2212").split("e");
    return `${mantissa} \u00d7 10${superscript(exponent)}`;
  }
  return value.toFixed(digits).replace("-", "\u2212");
}

function superscript(exponent) {
  const signs = { "-": "\u207b", "\u2212": "\u207b", "+": "" };
  const digits = "\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079";
  return [...exponent].map((c) => signs[c] ?? digits[Number(c)]).join("");
}

/** A label, which may be text, a number or a truth value, as a person reads it. */
export function labelText(label) {
  const text = String(label);
  return text.trim() === "" ? "(empty)" : text;
}

/** ["3", "8", "9"] -> "3, 8 or 9" */
export function either(labels, most = 6) {
  const texts = labels.slice(0, most).map(labelText);
  const more = labels.length - texts.length;
  if (more > 0) return `${texts.join(", ")} or one of ${more.toLocaleString("en")} more`;
  if (texts.length < 2) return texts.join("");
  return `${texts.slice(0, -1).join(", ")} or ${texts.at(-1)}`;
}
