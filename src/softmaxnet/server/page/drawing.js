// A canvas to draw on with mouse, finger, pen or the arrow keys; or a picture dropped, pasted or chosen.

import { make } from "/page/words.js";

const SIDE = 280; // the canvas counts in these units, whatever its size on the screen
const LARGEST_UPLOAD = 1024; // a photograph is made this small before it is sent
const STEP = 14, SMALL_STEP = 4; // of the arrow keys
const PENS = [["thin", 8], ["medium", 18], ["thick", 30]];

// How one may write the ten digits: strokes of [x, y] on 100 x 100.
const DIGITS = [
  [[[50, 12], [30, 22], [24, 50], [31, 79], [50, 88], [69, 78], [76, 50], [69, 22], [50, 12]]],
  [[[36, 28], [54, 12], [54, 88]]],
  [[[27, 30], [36, 15], [55, 11], [71, 22], [71, 38], [56, 57], [27, 86], [76, 86]]],
  [[[28, 18], [48, 11], [69, 20], [68, 37], [46, 47], [70, 57], [74, 74], [55, 88], [27, 82]]],
  [[[58, 12], [24, 62], [80, 62]], [[64, 40], [62, 90]]],
  [[[72, 13], [35, 13], [31, 45], [55, 42], [73, 55], [72, 75], [54, 88], [28, 82]]],
  [[[66, 12], [42, 30], [29, 58], [34, 80], [52, 88], [70, 78], [70, 60], [52, 51], [33, 62]]],
  [[[25, 14], [75, 14], [56, 48], [44, 88]]],
  [[[66, 22], [48, 11], [31, 22], [36, 38], [62, 54], [72, 72], [52, 88], [30, 74], [37, 56], [62, 40], [66, 22]]],
  [[[70, 32], [54, 12], [34, 20], [30, 38], [46, 50], [66, 42], [70, 30], [68, 60], [60, 88]]],
];

export class DrawingInput {
  #strokes = []; // { width, points } or { picture }
  #current = null;
  #cursor = { x: SIDE / 2, y: SIDE / 2, seen: false };

  constructor(place, schema, onChange) {
    this.onChange = onChange;
    this.image = schema.image;
    this.drawn = schema.image.drawn ?? schema.image.channels === 1;
    const sides = Math.max(this.image.height, this.image.width);
    this.width = Math.round((SIDE * this.image.width) / sides);
    this.height = Math.round((SIDE * this.image.height) / sides);
    this.pen = PENS[1][1];
    this.canvas = this.#newCanvas();
    this.seen = make("canvas", { class: "seen", width: this.image.width, height: this.image.height, role: "img" });
    const tools = make("div", { class: "tools" }, ...this.#tools(schema));
    const size = `${this.image.height} \u00d7 ${this.image.width}`;
    place.append(
      make("div", { class: "drawing" },
        make("div", { class: "pad" }, this.canvas, make("p", { class: "pad-hint", "aria-hidden": "true",
          text: this.drawn ? "Draw here" : "Drop a picture here" })),
        make("figure", { class: "seen-figure" }, this.seen, make("figcaption", { text: `as the model sees it, ${size}` }))),
      tools, this.#help());
    this.context = this.canvas.getContext("2d");
    this.#listen(place);
    this.saw(null);
    new ResizeObserver(() => this.#paint()).observe(this.canvas);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.#paint());
  }

  isEmpty() {
    return this.#strokes.length === 0;
  }

  /** What to ask the server: the drawing in black on white, as a PNG. */
  question() {
    return { images: [this.#rendered()], drawing: true, seen: true };
  }

  /** Show the pixels that the model was given. */
  saw(pixels) {
    const { height, width, channels, largest } = this.image;
    const context = this.seen.getContext("2d");
    this.seen.setAttribute("aria-label", pixels ? "The picture as the model sees it" : "The model has seen nothing yet");
    this.seen.classList.toggle("blank", pixels === null);
    if (pixels === null) return context.clearRect(0, 0, width, height);
    const data = context.createImageData(width, height);
    for (let row = 0; row < height; row++) {
      for (let column = 0; column < width; column++) {
        const pixel = pixels[row][column];
        const shades = channels === 3 ? pixel : [pixel, pixel, pixel];
        data.data.set([...shades.map((shade) => (255 * shade) / largest), 255], 4 * (row * width + column));
      }
    }
    return context.putImageData(data, 0, 0);
  }

  // --- what there is to see ---------------------------------------------------------------------------------

  #newCanvas() {
    const canvas = make("canvas", { class: "canvas", tabIndex: 0, role: "application", "aria-describedby": "draw-help",
      "aria-label": this.drawn ? "Drawing area" : "Picture" });
    canvas.setAttribute("aria-roledescription", "drawing area");
    canvas.style.aspectRatio = `${this.width} / ${this.height}`;
    return canvas;
  }

  #tools(schema) {
    const button = (text, action, more = {}) => make("button", { type: "button", text, onclick: action, ...more });
    const file = make("input", { type: "file", accept: "image/png,image/jpeg", class: "hidden-text", id: "picture-file" });
    file.addEventListener("change", () => this.#take(file.files[0]).then(() => (file.value = "")));
    const choose = make("label", { class: "button", text: "Choose a picture", htmlFor: "picture-file" });
    const parts = [button("Clear", () => this.#clear(), { id: "clear" })];
    if (this.drawn) {
      const pens = make("select", { id: "pen" },
        ...PENS.map(([name, width]) => make("option", { value: String(width), text: name, selected: width === this.pen })));
      pens.addEventListener("change", () => (this.pen = Number(pens.value)));
      parts.push(button("Undo", () => this.#undo(), { id: "undo" }),
        make("span", { class: "pair-of" }, make("label", { text: "Pen", htmlFor: "pen" }), pens));
      const digits = schema.classes.filter((label) => /^[0-9]$/.test(String(label))).map(String);
      if (digits.length === schema.classes.length && digits.length > 1) {
        const choice = make("select", { id: "written" }, make("option", { value: "", text: "\u2026" }),
          ...digits.map((digit) => make("option", { value: digit, text: digit })));
        choice.addEventListener("change", () => this.#write(choice.value));
        parts.push(make("span", { class: "pair-of" }, make("label", { text: "Draw me a", htmlFor: "written" }), choice));
      }
    }
    return [...parts, make("span", { class: "file" }, file, choose)];
  }

  #help() {
    const keys = [["arrow keys", "move the pen"], ["Shift", "in small steps"], ["Space", "puts it down or lifts it"],
      ["Backspace", "takes a stroke back"], ["Delete", "clears"]];
    const list = make("span");
    keys.forEach(([key, what], index) => list.append(make("kbd", { text: key }), ` ${what}${index < keys.length - 1 ? ", " : "."}`));
    return make("p", { class: "note", id: "draw-help" },
      this.drawn ? "Draw with mouse, finger or pen; or drop or paste a PNG or JPEG. With the keyboard: " : "Drop, paste or choose a PNG or JPEG.",
      this.drawn ? list : "");
  }

  #paint() {
    const scale = devicePixelRatio || 1;
    const width = Math.max(1, Math.round(this.canvas.clientWidth * scale));
    const height = Math.max(1, Math.round(this.canvas.clientHeight * scale));
    if (this.canvas.width !== width || this.canvas.height !== height) Object.assign(this.canvas, { width, height });
    const style = getComputedStyle(this.canvas);
    const { context } = this;
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, width, height);
    context.setTransform(width / this.width, 0, 0, height / this.height, 0, 0);
    this.#strokesOnto(context, style.color);
    if (this.#cursor.seen && document.activeElement === this.canvas) this.#paintCursor(context, style.accentColor);
    this.canvas.parentElement.classList.toggle("empty", this.isEmpty() && !this.#current);
  }

  #strokesOnto(context, colour) {
    context.lineCap = context.lineJoin = "round";
    context.strokeStyle = context.fillStyle = colour;
    for (const stroke of this.#strokes) {
      if (stroke.picture) {
        const scale = Math.min(this.width / stroke.picture.width, this.height / stroke.picture.height);
        const [w, h] = [stroke.picture.width * scale, stroke.picture.height * scale];
        context.drawImage(stroke.picture, (this.width - w) / 2, (this.height - h) / 2, w, h);
        continue;
      }
      context.lineWidth = stroke.width;
      context.beginPath();
      const [first, ...others] = stroke.points;
      context.moveTo(first.x, first.y);
      if (others.length === 0) context.lineTo(first.x, first.y + 0.01);
      for (let k = 0; k < others.length; k++) {
        const [a, b] = [others[k], others[k + 1]];
        // Through the middles between points, so that a quick hand draws curves.
        if (b) context.quadraticCurveTo(a.x, a.y, (a.x + b.x) / 2, (a.y + b.y) / 2);
        else context.lineTo(a.x, a.y);
      }
      context.stroke();
    }
  }

  #paintCursor(context, colour) {
    const { x, y } = this.#cursor;
    context.strokeStyle = colour === "auto" ? "royalblue" : colour;
    context.lineWidth = 2;
    context.beginPath();
    context.arc(x, y, this.pen / 2 + 3, 0, 2 * Math.PI);
    if (this.#current) context.fill();
    context.stroke();
  }

  /** The drawing in black on white, or the picture itself where there is one. */
  #rendered() {
    const picture = this.#strokes.find((stroke) => stroke.picture)?.picture;
    const alone = picture && this.#strokes.length === 1;
    const canvas = document.createElement("canvas");
    canvas.width = alone ? picture.width : this.width;
    canvas.height = alone ? picture.height : this.height;
    const context = canvas.getContext("2d");
    if (alone) {
      context.drawImage(picture, 0, 0);
    } else {
      context.fillStyle = "#fff";
      context.fillRect(0, 0, canvas.width, canvas.height);
      this.#strokesOnto(context, "#000");
    }
    return canvas.toDataURL("image/png");
  }

  // --- what one does ----------------------------------------------------------------------------------------

  #changed() {
    this.#paint();
    this.onChange(true);
  }

  #clear() {
    this.#strokes = [];
    this.#current = null;
    this.#changed();
  }

  #undo() {
    this.#current = null;
    this.#strokes.pop();
    this.#changed();
  }

  #write(digit) {
    if (digit === "") return;
    const [left, top, size] = [(this.width - SIDE * 0.8) / 2, (this.height - SIDE * 0.8) / 2, (SIDE * 0.8) / 100];
    this.#current = null;
    this.#strokes = DIGITS[Number(digit)].map((points) => (
      { width: this.pen, points: points.map(([x, y]) => ({ x: left + x * size, y: top + y * size })) }));
    this.#changed();
  }

  async #take(file) {
    if (!file) return;
    let bitmap;
    try {
      bitmap = await createImageBitmap(file);
    } catch {
      bitmap = null;
    }
    if (!bitmap) return this.#say("That file is not a picture that the browser can read. PNG and JPEG will do.");
    const scale = Math.min(1, LARGEST_UPLOAD / Math.max(bitmap.width, bitmap.height));
    const small = document.createElement("canvas");
    small.width = Math.max(1, Math.round(bitmap.width * scale));
    small.height = Math.max(1, Math.round(bitmap.height * scale));
    const context = small.getContext("2d");
    context.imageSmoothingQuality = "high";
    context.drawImage(bitmap, 0, 0, small.width, small.height);
    bitmap.close();
    this.#strokes = [{ picture: small }];
    this.#changed();
  }

  #say(text) {
    const problem = document.getElementById("problem");
    problem.textContent = text;
    problem.hidden = false;
  }

  #listen(place) {
    const { canvas } = this;
    if (this.drawn) {
      canvas.addEventListener("pointerdown", (event) => this.#down(event));
      canvas.addEventListener("pointermove", (event) => this.#move(event));
      for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, () => this.#up());
      canvas.addEventListener("keydown", (event) => this.#key(event));
      for (const name of ["focus", "blur"]) canvas.addEventListener(name, () => {
        this.#cursor.seen = name === "focus" && canvas.matches(":focus-visible");
        if (name === "blur") this.#current = null;
        this.#paint();
      });
    }
    const over = (isOver) => canvas.parentElement.classList.toggle("over", isOver);
    place.addEventListener("dragover", (event) => { event.preventDefault(); over(true); });
    place.addEventListener("dragleave", () => over(false));
    place.addEventListener("drop", (event) => { event.preventDefault(); over(false); this.#take(event.dataTransfer.files[0]); });
    document.addEventListener("paste", (event) => {
      const file = [...(event.clipboardData?.files ?? [])].find(({ type }) => type.startsWith("image/"));
      if (file) this.#take(file);
    });
  }

  #point(event) {
    const box = this.canvas.getBoundingClientRect();
    return { x: ((event.clientX - box.left) * this.width) / box.width, y: ((event.clientY - box.top) * this.height) / box.height };
  }

  #begin(point) {
    if (this.#strokes.some((stroke) => stroke.picture)) this.#strokes = [];
    this.#current = { width: this.pen, points: [point] };
    this.#strokes.push(this.#current);
  }

  #down(event) {
    if (event.button !== 0) return;
    this.#cursor.seen = false;
    this.canvas.setPointerCapture(event.pointerId);
    this.#begin(this.#point(event));
    this.#changed();
  }

  #move(event) {
    if (!this.#current || event.buttons === 0) return;
    const moves = event.getCoalescedEvents?.() ?? [];
    for (const one of moves.length ? moves : [event]) this.#current.points.push(this.#point(one));
    this.#changed();
  }

  #up() {
    if (!this.#current) return;
    this.#current = null;
    this.#changed();
  }

  #key(event) {
    const step = event.shiftKey ? SMALL_STEP : STEP;
    const way = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] }[event.key];
    const cursor = this.#cursor;
    if (way) {
      cursor.x = Math.min(this.width, Math.max(0, cursor.x + way[0]));
      cursor.y = Math.min(this.height, Math.max(0, cursor.y + way[1]));
      cursor.seen = true;
      if (this.#current) this.#current.points.push({ x: cursor.x, y: cursor.y });
    } else if (event.key === " ") {
      if (this.#current) this.#current = null;
      else this.#begin({ x: cursor.x, y: cursor.y });
      cursor.seen = true;
    } else if (event.key === "Backspace") this.#undo();
    else if (event.key === "Delete") this.#clear();
    else return;
    event.preventDefault();
    if (this.#current) this.#changed();
    else this.#paint();
  }
}
