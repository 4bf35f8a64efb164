"use strict";
// Runs in a worker, so that the page never stands still: starts the network, and makes embeddings of recordings.
// Takes {id, work, ...} and answers {id, found} or {id, refused} (one line).

const LEAST_AGREEMENT = 0.999;   // cosine of the check's embedding to that of the machine which made the page
const held = {};                 // session, ort, rules

function bytesOf(base64) {
  const text = atob(base64), bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  return bytes;
}

async function unzipped(base64) {
  if (typeof DecompressionStream === "undefined") {
    throw new Refusal("this browser is too old (it has no DecompressionStream); update it");
  }
  const stream = new Blob([bytesOf(base64)]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

/** ONNX Runtime Web from its text; with the bytes of its wasm at hand it asks no server for any. */
async function startRuntime(runtime) {
  const url = URL.createObjectURL(new Blob([runtime.code], { type: "text/javascript" }));
  try {
    held.ort = await import(url);
  } finally {
    URL.revokeObjectURL(url);
  }
  held.ort.env.wasm.numThreads = 1;
  held.ort.env.wasm.proxy = false;
  held.ort.env.wasm.wasmBinary = await unzipped(runtime.wasm);
  held.ort.env.logLevel = "error";
}

async function run(samples) {
  const input = new held.ort.Tensor("float32", samples, [1, samples.length]);
  const found = await held.session.run({ [held.session.inputNames[0]]: input });
  const output = found[held.session.outputNames[0]];
  if (output.dims.length !== 2 || output.dims[1] !== held.rules.dim) {
    throw new Refusal(`the model gives [${output.dims}] in place of an embedding of ${held.rules.dim}; make the page again`);
  }
  return Float32Array.from(output.data);
}

function cosine(a, b) {
  let ab = 0, aa = 0, bb = 0;
  for (let i = 0; i < a.length; i++) {
    ab += a[i] * b[i];
    aa += a[i] * a[i];
    bb += b[i] * b[i];
  }
  return ab / Math.sqrt(aa * bb);
}

/** Starts the network, and compares an embedding with the one that was computed when the page was made. */
async function load({ runtime, model, rules }) {
  held.rules = rules;
  await startRuntime(runtime);
  held.session = await held.ort.InferenceSession.create(bytesOf(model.onnx), { executionProviders: ["wasm"] });
  const samples = Float32Array.from(new Int16Array(bytesOf(model.check.samples).buffer), (x) => x / 32768);
  const expected = new Float32Array(bytesOf(model.check.embedding).buffer);
  const agreement = cosine(await run(samples), expected);
  if (!(agreement >= LEAST_AGREEMENT)) {
    throw new Refusal(`this browser computes other embeddings (cosine ${agreement.toFixed(4)}) than the machine that made ` +
      "the page; update it, or take another one");
  }
  return { agreement };
}

/** The embedding of a recording: channels [Float32Array] at `rate` Hz, as svq.Verifier.embed makes it. */
async function embed({ channels, rate }) {
  const start = performance.now(), rules = held.rules;
  const own = Sound.mono(channels, rate, rules);
  const samples = Resample.resample(own, rate, rules.rate);
  const vectors = [], weights = [];
  let heard = 0;
  for (const window of Sound.windows(samples, rules)) {
    const sound = Sound.sounding(window, rules);
    heard += sound;
    if (sound > 0 && window.length >= rules.shortest) {
      vectors.push(await run(window));
      weights.push(sound);
    }
  }
  const seconds = samples.length / rules.rate;
  const warning = Sound.judge(seconds, heard, rules);
  return { vector: average(vectors, weights), warning, seconds, heard, mono: own, milliseconds: performance.now() - start };
}

function average(vectors, weights) {
  const all = weights.reduce((sum, weight) => sum + weight, 0);
  const out = Float32Array.from(vectors[0], (_, d) =>
    vectors.length === 1 ? vectors[0][d] : vectors.reduce((sum, vector, i) => sum + vector[d] * weights[i], 0) / all);
  if (!out.every(Number.isFinite)) {
    throw new Refusal("its embedding is not finite; the model is damaged, or the recording is");
  }
  return out;
}

async function answer({ id, work, ...asked }) {
  try {
    const found = await { load, embed }[work](asked);
    self.postMessage({ id, found }, found.mono ? [found.mono.buffer] : []);
  } catch (error) {
    const reason = String((error && error.message) || error).split("\n")[0];
    const refused = error instanceof Refusal ? reason
      : `this browser could not compute it (${reason}); update it, or take another one`;
    self.postMessage({ id, refused });
  }
}

let last = Promise.resolve();     // one at a time: the network has one memory

self.onmessage = ({ data }) => {
  last = last.then(() => answer(data));
};
