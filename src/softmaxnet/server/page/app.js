// The page, built from what the model says of itself.

import { Gate, Line, ask, calmed } from "/page/api.js";
import { Answer } from "/page/answer.js";
import { DrawingInput } from "/page/drawing.js";
import { FormInput, TextInput } from "/page/form.js";
import { How } from "/page/how.js";
import { Why } from "/page/why.js";

const TYPING = 60; // milliseconds of rest after which a typed row is sent
const RESTING = 250; // and after which it is explained

const how = new How();
how.start();
begin();

async function begin() {
  let schema;
  try {
    schema = await ask("/schema");
  } catch (error) {
    showProblem(error);
    return;
  }
  introduce(schema);
  const answer = new Answer(schema, () => predict());
  const why = new Why(schema, () => explain());
  const gate = new Gate();
  const predictions = new Line(gate, (reply) => {
    hideProblem();
    const row = reply.predictions[0];
    const found = { ...row, classes: reply.classes ?? null, temperature: reply.temperature ?? 1 };
    answer.show(found);
    how.offer(found, schema);
    why.about(found);
    input.saw(row.seen ?? null);
    document.dispatchEvent(new Event("softmaxnet:shown"));
    explainSoon();
  }, failed);
  const explanations = new Line(gate, (reply) => why.show(reply.predictions[0].explanation, reply.predictions[0].seen), failed);
  const explainSoon = calmed(() => explain(), RESTING);
  const question = (more) => ({ ...input.question(), ...more });

  function predict() {
    if (input.isEmpty()) return nothing();
    const coverage = answer.coverage();
    predictions.send(() => question({ logits: true, top: 20, ...(coverage === null ? {} : { coverage }) }));
  }
  function explain() {
    if (input.isEmpty() || !why.isWanted()) return;
    explanations.send(() => question({ explain: why.wish(), probabilities: false }));
  }
  function nothing() {
    predictions.drop();
    explanations.drop();
    hideProblem();
    answer.clear();
    why.clear();
    input.saw(null);
  }
  function failed(error) {
    answer.clear();
    why.clear();
    showProblem(error);
  }

  const typed = calmed(predict, TYPING);
  const Input = { image: DrawingInput, text: TextInput }[schema.kind] ?? FormInput;
  const input = new Input(document.getElementById("input-body"), schema, (atOnce) => (atOnce ? predict() : typed()));
  answer.clear();
  why.clear();
  predict();
}

function introduce(schema) {
  const { kind, image, columns, n_classes } = schema;
  const what = {
    image: image ? `pictures of ${image.height} \u00d7 ${image.width}${image.channels === 3 ? " in colour" : ""}` : "pictures",
    text: "texts",
  }[kind] ?? `rows of ${columns.length.toLocaleString("en")} ${columns.length === 1 ? "column" : "columns"}`;
  document.title = `${schema.name} \u00b7 softmaxnet`;
  document.getElementById("name").textContent = schema.name;
  document.getElementById("about").textContent = `Reads ${what}, and says which of ${n_classes.toLocaleString("en")} classes each is.`;
  document.getElementById("version").textContent = schema.version;
  const digest = document.getElementById("digest");
  digest.textContent = `model ${schema.sha256.slice(0, 12)}`;
  digest.title = `SHA-256 ${schema.sha256}`;
}

function showProblem(error) {
  const place = document.getElementById("problem");
  place.textContent = error.message;
  place.hidden = false;
  if (!(error.status >= 0)) throw error; // a fault of this page: let the console have it
}

function hideProblem() {
  document.getElementById("problem").hidden = true;
}
