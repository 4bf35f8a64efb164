"use strict";
// The page: starts the network, compares the recordings of the two panels, and shows the result.

const PRIORS = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99];
const PARTS = ["svqSources", "svqModel", "svqRuntime"];     // what the files of data/ bring
const byId = (id) => document.getElementById(id);

const Page = {
  start() {
    this.watchTheme();
    const missing = PARTS.filter((name) => window[name] === undefined);
    if (missing.length > 0) {
      return tell(byId("trouble"), `data/${missing[0].slice(3).toLowerCase()}.js is missing or cut short: copy the whole folder ` +
        "again, or make it again (steps/make_demo.sh)");
    }
    this.mean = svqModel.mean && floats(svqModel.mean);
    this.showFacts();
    this.prepareSettings();
    this.engine = new Engine();
    this.enrol = new Panel(byId("enrol"), this.engine, true, () => this.refresh());
    this.check = new Panel(byId("check"), this.engine, false, () => this.refresh());
    window.addEventListener("resize", () => this.redraw());
    this.refresh();
    this.load();
  },

  async load() {
    const begun = performance.now(), state = chip("starting the network …", "starting");
    byId("facts").append(state);
    try {
      await this.engine.load();
    } catch (error) {
      state.remove();
      return tell(byId("trouble"), `The network does not start: ${line(error)}`);
    }
    state.replaceWith(chip(`ready in ${((performance.now() - begun) / 1000).toFixed(1)} s`, "ready"));
    this.enrol.enable();
    this.check.enable();
  },

  showFacts() {
    document.title = svqModel.title;
    document.querySelector("h1").textContent = svqModel.title;
    const size = chip(sizeOf(svqModel.bytes), "size");
    size.title = `${svqModel.bytes} bytes`;
    byId("facts").append(chip(svqModel.name), size, chip(svqModel.precision));
    byId("made").textContent = `Made with svq ${svqModel.svq} and ONNX Runtime Web ${svqRuntime.version}. Model ${svqModel.digest.slice(0, 12)}.`;
  },

  prepareSettings() {
    const { pTarget, cMiss, cFa, threshold } = svqModel.costs;
    this.priors = [...new Set([...PRIORS, pTarget])].sort((a, b) => a - b);
    byId("prior").max = this.priors.length - 1;
    byId("prior").value = this.priors.indexOf(pTarget);
    byId("c-miss").value = cMiss;
    byId("c-fa").value = cFa;
    byId("own").value = threshold ?? "";
    if (!svqModel.calibration) {
      byId("own-word").textContent = "Threshold of the score";
      document.querySelector(".prior").hidden = true;
      document.querySelector("details").open = true;
      byId("c-miss").parentElement.hidden = byId("c-fa").parentElement.hidden = true;
    }
    for (const id of ["prior", "c-miss", "c-fa", "own"]) byId(id).addEventListener("input", () => this.refresh());
  },

  /** The costs that the user has set; null, with a line on the page, where they cannot be used. */
  costs() {
    const pTarget = this.priors[byId("prior").value], own = byId("own");
    byId("prior-value").textContent = percent(pTarget);
    byId("prior").setAttribute("aria-valuetext", percent(pTarget));
    const cMiss = byId("c-miss").valueAsNumber, cFa = byId("c-fa").valueAsNumber;
    const bad = !(cMiss > 0 && cFa > 0) ? "Costs must be numbers above 0."
      : own.validity.badInput ? "The threshold must be a number." : "";
    tell(byId("wrong"), bad);
    return bad ? null : { pTarget, cMiss, cFa, threshold: Number.isNaN(own.valueAsNumber) ? null : own.valueAsNumber };
  },

  refresh() {
    const costs = this.costs(), enrolled = this.enrol.recordings, [test] = this.check.recordings;
    if (!costs || enrolled.length === 0 || !test) return this.showNothing(costs, enrolled, test);
    try {
      this.show(Scores.decide(enrolled.map((one) => one.vector), test.vector, { mean: this.mean, calibration: svqModel.calibration },
        costs), test, costs);
    } catch (error) {
      this.showNothing(costs, enrolled, test);
      tell(byId("wrong"), line(error));
    }
  },

  showNothing(costs, enrolled, test) {
    byId("result").dataset.state = "empty";
    for (const id of ["score", "llr", "threshold", "time"]) put(id, null);
    for (const id of ["llr-note", "threshold-note", "time-note"]) byId(id).textContent = "";
    put("decision", null, "No result yet");
    byId("meaning").textContent = enrolled.length === 0 ? "Enrol a voice first." : test ? "" : "Now check a voice.";
    this.drawGauge(null, costs && (costs.threshold ?? (svqModel.calibration ? Scores.bayes(costs) : null)));
  },

  show({ score, llr, threshold, accepted }, test, costs) {
    const state = accepted === null ? "open" : accepted ? "accept" : "reject";
    byId("result").dataset.state = state;
    put("score", score, (score < 0 ? "−" : "") + Math.abs(score).toFixed(3));
    put("llr", llr, llr === null ? "none" : signed(llr));
    put("threshold", threshold, threshold === null ? "none" : signed(threshold));
    put("time", test.milliseconds, `${Math.round(test.milliseconds)} ms`);
    put("decision", state, { accept: "Accept", reject: "Reject", open: "No decision" }[state]);
    byId("meaning").textContent = {
      accept: "The same speaker, as far as this network can tell.",
      reject: "Another speaker, as far as this network can tell.",
      open: "The model has no calibration. Give a threshold of the score below.",
    }[state];
    byId("llr-note").textContent = llr === null ? "the model has no calibration" : odds(llr);
    byId("threshold-note").textContent = threshold === null ? "" : costs.threshold === null
      ? `Bayes’ for ${percent(costs.pTarget)}` : `your own, of the ${llr === null ? "score" : "ratio"}`;
    byId("time-note").textContent = `for ${test.seconds.toFixed(1)} s of sound`;
    this.drawGauge(score, threshold);
  },

  drawGauge(score, threshold) {
    this.drawn = [score, threshold];
    const at = Scores.asScore(threshold, svqModel.calibration);
    Drawing.gauge(byId("gauge"), score, at);
    const said = at === null ? "no threshold" : `accepted from ${at.toFixed(3)} on`;
    byId("gauge").setAttribute("aria-label", score === null ? `No score yet; ${said}` : `Score ${score.toFixed(3)} between -1 and 1; ${said}`);
  },

  redraw() {
    this.enrol.drawAll();
    this.check.drawAll();
  },

  /** Dark or light: as the system says, until the button says otherwise. */
  watchTheme() {
    const system = window.matchMedia("(prefers-color-scheme: dark)"), button = byId("theme");
    const set = (dark) => {
      document.documentElement.dataset.theme = dark ? "dark" : "light";
      button.setAttribute("aria-pressed", dark);
      if (this.enrol) this.redraw();
    };
    set(system.matches);
    system.addEventListener("change", () => set(system.matches));
    button.addEventListener("click", () => set(document.documentElement.dataset.theme !== "dark"));
  },
};

function floats(base64) {
  return new Float32Array(Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0)).buffer);
}

function chip(text, kind = "") {
  const made = document.createElement("span");
  made.className = `chip ${kind}`;
  made.textContent = text;
  return made;
}

function sizeOf(bytes) {
  return bytes < 1e6 ? `${Math.round(bytes / 1e3)} kB` : `${(bytes / 1e6).toFixed(bytes < 1e7 ? 2 : 1)} MB`;
}

function percent(probability) {
  return `${Number((100 * probability).toPrecision(6))}\u00a0%`;
}

function signed(x) {
  return (x < 0 ? "−" : "+") + Math.abs(x).toFixed(2);
}

/** A likelihood ratio in words. */
function odds(llr) {
  const times = Math.exp(Math.abs(llr)), shown = times < 10 ? times.toFixed(1) : times < 1e6 ? String(Math.round(times)) : "over a million";
  return `${shown} times as likely if it is ${llr < 0 ? "another" : "the same"} speaker`;
}

/** Shows `text` (– for nothing), and keeps the value with all its digits. */
function put(id, value, text = "–") {
  byId(id).textContent = text;
  if (value === null) delete byId(id).dataset.value;
  else byId(id).dataset.value = value;
}

Page.start();
