"use strict";
// Runs beside the microphone: hands on its samples as they are, every channel, in blocks.

const BLOCK = 2048;

class Capture extends AudioWorkletProcessor {
  constructor() {
    super();
    this.parts = [];
    this.filled = 0;
    this.on = true;
    this.port.onmessage = () => {     // stop: hands on the rest, then null as a sign that this was all
      this.flush();
      this.port.postMessage(null);
      this.on = false;
    };
  }

  process([input]) {
    if (this.on && input.length > 0) {
      this.parts.push(input.map((channel) => channel.slice()));
      this.filled += input[0].length;
      if (this.filled >= BLOCK) this.flush();
    }
    return this.on;
  }

  flush() {
    if (this.filled > 0) this.port.postMessage(this.parts);
    this.parts = [];
    this.filled = 0;
  }
}

registerProcessor("capture", Capture);
