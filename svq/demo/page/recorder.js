"use strict";
// The microphone: its samples as they come. Echo cancelling, noise suppression and gain control, made for calls, would
// change the voice, so they are off.

const PATIENCE = 5000;    // milliseconds that sound may take to start

class Recorder {
  /** Starts the microphone; calls `heard` with every block, [Float32Array] by channel. */
  static async start(heard) {
    if (!navigator.mediaDevices || typeof AudioWorkletNode === "undefined") {
      throw new Problem("no microphone for this page: browsers give one to pages of https, of localhost and, some of them, " +
        "of files; choose a recording instead");
    }
    const recorder = new Recorder();
    try {
      await recorder.open(heard);
    } catch (error) {
      recorder.close();
      throw Recorder.problem(error);
    }
    return recorder;
  }

  async open(heard) {
    const plain = { echoCancellation: false, noiseSuppression: false, autoGainControl: false };
    this.stream = await navigator.mediaDevices.getUserMedia({ audio: plain });
    this.context = new AudioContext();
    await started(this.context);
    // A page that was opened from a file may load a worklet from no file and no blob, but from a data: address.
    await this.context.audioWorklet.addModule(`data:text/javascript,${encodeURIComponent(svqSources.capture)}`);
    this.parts = [];
    this.node = new AudioWorkletNode(this.context, "capture");
    this.node.port.onmessage = ({ data }) => {
      if (data === null) return this.ended();
      this.parts.push(...data);
      heard(data, this.context.sampleRate);
    };
    this.context.createMediaStreamSource(this.stream).connect(this.node).connect(this.context.destination);
  }

  static problem(error) {
    if (error instanceof Problem) return error;
    const mends = {
      NotAllowedError: "the microphone is blocked; allow it for this page in the address bar, or choose a recording",
      NotFoundError: "no microphone was found; connect one, or choose a recording",
      NotReadableError: "the microphone is in use; close the other program, or choose a recording",
    };
    return new Problem(mends[error.name] || `the microphone does not start (${error.message || error.name}); choose a recording`);
  }

  /** Ends the recording; gives all of it as {rate, channels: [Float32Array]}. */
  async stop() {
    await new Promise((ended) => {
      this.ended = ended;
      this.node.port.postMessage("stop");
      setTimeout(ended, 1000);     // a device that was taken away never answers
    });
    const rate = this.context.sampleRate, count = Math.min(...this.parts.map((part) => part.length));
    this.close();
    if (this.parts.length === 0) throw new Problem("the microphone gave nothing; check that it is on, and record again");
    return { rate, channels: Array.from({ length: count }, (_, c) => joined(this.parts.map((part) => part[c]))) };
  }

  close() {
    if (this.stream) this.stream.getTracks().forEach((track) => track.stop());
    if (this.context) this.context.close();
  }
}

/** Resumes the context; where there is no device for its sound, some browsers would wait for ever. */
function started(context) {
  return new Promise((done, refuse) => {
    context.resume().then(done, refuse);
    setTimeout(() => refuse(new Problem("the browser's sound does not start; check that there is a sound device, or choose " +
      "a recording")), PATIENCE);
  });
}

function joined(parts) {
  const out = new Float32Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    out.set(part, at);
    at += part.length;
  }
  return out;
}
