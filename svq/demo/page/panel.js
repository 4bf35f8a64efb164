"use strict";
// One side of the comparison: its buttons, its recordings, and the lines about them.

const LONGEST = 300;    // seconds after which a recording ends by itself

class Panel {
  /** root: the section. many: whether it keeps several recordings. changed: called when the recordings change. */
  constructor(root, engine, many, changed) {
    Object.assign(this, { root, engine, many, changed, recordings: [], recorder: null, taken: 0, atWork: 0 });
    this.button = root.querySelector(".record");
    this.input = root.querySelector(".file");
    this.live = root.querySelector(".live");
    this.button.addEventListener("click", () => this.recorder ? this.stop() : this.record());
    this.input.addEventListener("change", () => {
      const files = [...this.input.files];
      this.input.value = "";      // so that the same file can be chosen again
      this.addFiles(files);
    });
    this.acceptDrops();
  }

  enable() {
    this.button.disabled = this.input.disabled = false;
  }

  acceptDrops() {
    const over = (on) => (event) => {
      event.preventDefault();
      this.root.classList.toggle("over", on);
    };
    this.root.addEventListener("dragover", over(true));
    this.root.addEventListener("dragleave", over(false));
    this.root.addEventListener("drop", (event) => {
      over(false)(event);
      if (!this.input.disabled) this.addFiles([...event.dataTransfer.files]);
    });
  }

  async addFiles(files) {
    this.say("");
    for (const file of this.many ? files : files.slice(0, 1)) {
      await this.take(file.name, () => Files.read(file), false);
    }
  }

  async record() {
    this.say("");
    this.button.disabled = true;
    try {
      const levels = [];
      let heard = 0;
      this.recorder = await Recorder.start((parts, rate) => {
        for (const part of parts) heard += part[0].length;
        levels.push(Math.max(...parts.map((part) => Drawing.peaks(part[0], 1)[0])));
        this.progress(levels, heard / rate);
      });
      this.showRecording(true);
    } catch (error) {
      this.say(`Microphone: ${line(error)}`);
    }
    this.button.disabled = false;
  }

  progress(levels, seconds) {
    if (!this.recorder) return;
    Drawing.level(this.live, levels);
    this.status(`Recording … ${seconds.toFixed(1)} s`);
    if (seconds >= LONGEST) this.stop();
  }

  async stop() {
    const recorder = this.recorder;
    this.recorder = null;
    this.showRecording(false);
    this.taken++;
    await this.take(`Recording ${this.taken}`, () => recorder.stop(), true);
  }

  showRecording(on) {
    this.root.classList.toggle("recording", on);
    this.button.querySelector(".word").textContent = on ? "Stop" : "Record";
    this.live.hidden = !on;
    this.status(on ? "Recording …" : "");
  }

  /** Adds the recording that source() gives as {rate, channels}, or shows the line that says why there is none. */
  async take(name, source, fromMicrophone) {
    this.atWork++;
    this.root.classList.add("computing");
    this.status(`Computing: ${name} …`);
    try {
      const sound = await source(), start = performance.now();
      const about = { name, fromMicrophone, rate: sound.rate, channels: sound.channels.length };
      const found = await this.engine.embed(sound);
      this.keep({ ...about, ...found, milliseconds: performance.now() - start });
    } catch (error) {
      this.say(`${name}: ${line(error)}`);
    }
    this.atWork--;
    if (this.atWork === 0) this.root.classList.remove("computing");
    if (this.atWork === 0 && !this.recorder) this.status("");
  }

  keep(recording) {
    if (!this.many) [...this.recordings].forEach((old) => this.drop(old));
    recording.url = URL.createObjectURL(Wav.write(recording.mono, recording.rate));
    recording.item = this.itemOf(recording);
    this.recordings.push(recording);
    this.root.querySelector(".recordings").append(recording.item);
    this.draw(recording);
    this.changed();
  }

  drop(recording) {
    if (recording.player) recording.player.pause();
    URL.revokeObjectURL(recording.url);
    recording.item.remove();
    this.recordings = this.recordings.filter((other) => other !== recording);
    this.changed();
  }

  itemOf(recording) {
    const item = document.getElementById("recording").content.firstElementChild.cloneNode(true);
    const part = (name) => item.querySelector(name), { name, seconds } = recording;
    part(".name").textContent = name;
    part(".length").textContent = `${seconds.toFixed(1)} s`;
    part(".little").textContent = recording.warning;
    part("canvas").setAttribute("aria-label", `Waveform of ${name}, ${seconds.toFixed(1)} seconds`);
    const save = part(".save");
    save.href = recording.url;
    save.download = recording.fromMicrophone ? `${this.root.id} ${name.toLowerCase()}.wav` : `${name.replace(/\.\w+$/, "")} (mono).wav`;
    for (const [what, element] of [["Play", part(".play")], ["Save", save], ["Remove", part(".remove")]]) {
      element.title = what;
      element.setAttribute("aria-label", `${what} ${name}`);
    }
    part(".play").addEventListener("click", () => this.play(recording));
    part(".remove").addEventListener("click", () => {
      this.drop(recording);
      this.button.focus();
    });
    return item;
  }

  play(recording) {
    recording.player ||= new Audio(recording.url);
    if (!recording.player.paused) return recording.player.pause();
    recording.player.currentTime = 0;
    recording.player.play().catch(() => this.say(`${recording.name}: this browser does not play it; save it and play it elsewhere`));
  }

  draw(recording) {
    Drawing.waveform(recording.item.querySelector("canvas"), recording.mono);
  }

  drawAll() {
    this.recordings.forEach((recording) => this.draw(recording));
  }

  status(text) {
    this.root.querySelector(".status").textContent = text;
  }

  say(text) {
    tell(this.root.querySelector(".problem"), text);
  }
}

/** Shows one line where something went wrong; hides it where `text` is empty. */
function tell(element, text) {
  element.textContent = text;
  element.hidden = text === "";
}

function line(error) {
  if (error instanceof Problem) return error.message;
  console.error(error);
  return `${String((error && error.message) || error).split("\n")[0]}; reload the page`;
}
