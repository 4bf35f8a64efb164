"use strict";
// The worker that computes, asked from the page.

class Engine {
  constructor() {
    const url = URL.createObjectURL(new Blob([svqSources.engine], { type: "text/javascript" }));
    this.worker = new Worker(url);
    this.waiting = new Map();
    this.last = 0;
    this.worker.onmessage = ({ data }) => {
      const { resolve, reject } = this.waiting.get(data.id);
      this.waiting.delete(data.id);
      if (data.refused === undefined) resolve(data.found);
      else reject(new Problem(data.refused));
    };
    this.worker.onerror = (event) => {
      const error = new Problem(`this browser could not start the worker (${event.message || "no reason given"}); update it`);
      for (const { reject } of this.waiting.values()) reject(error);
      this.waiting.clear();
    };
  }

  ask(work, data, handed = []) {
    const id = ++this.last;
    return new Promise((resolve, reject) => {
      this.waiting.set(id, { resolve, reject });
      this.worker.postMessage({ id, work, ...data }, handed);
    });
  }

  /** Starts the network. */
  load() {
    return this.ask("load", { runtime: svqRuntime, model: svqModel, rules: svqModel.rules });
  }

  /** The embedding and more (worker/engine.js) of {rate, channels}, whose samples are handed over. */
  embed({ rate, channels }) {
    return this.ask("embed", { rate, channels }, channels.map((samples) => samples.buffer));
  }
}
