"use strict";
// WAV files. They are read as svq/data/wavfile.py reads them, at their own rate. They are written as 32-bit floats, so
// that a saved recording holds the very samples that were heard here.

const Wav = (() => {
  const UNKNOWN = 0x7fff0000;    // programs that stream do not know the size and write this or more

  function text(view, at) {
    return String.fromCharCode(...new Uint8Array(view.buffer, view.byteOffset + at, 4));
  }

  /** {format, channels, rate, bits, start, frames} of a WAV in a DataView; null where it is none. */
  function header(view) {
    if (view.byteLength < 12 || text(view, 0) !== "RIFF" || text(view, 8) !== "WAVE") return null;
    let layout = null, at = 12;
    while (at + 8 <= view.byteLength) {
      const name = text(view, at), length = view.getUint32(at + 4, true);
      at += 8;
      if (name === "fmt ") layout = format(view, at, length);
      if (name === "data") return layout && located(view, at, length, layout);
      at += length + (length & 1);
    }
    return null;
  }

  function format(view, at, length) {
    if (length < 16 || at + 16 > view.byteLength) return null;
    const extensible = view.getUint16(at, true) === 0xfffe && length >= 26 && at + 26 <= view.byteLength;
    return {
      format: view.getUint16(extensible ? at + 24 : at, true),
      channels: view.getUint16(at + 2, true),
      rate: view.getUint32(at + 4, true),
      block: view.getUint16(at + 12, true),
      bits: view.getUint16(at + 14, true),
    };
  }

  function located(view, at, length, layout) {
    const block = layout.channels * Math.ceil(layout.bits / 8);
    if (layout.block !== 0 && layout.block !== block && reader(layout)) {
      throw new Problem("its WAV header contradicts itself about the bytes of a sample; save it again");
    }
    if (block === 0 || layout.rate === 0) return null;
    const present = Math.max(view.byteLength - at, 0);
    const streamed = length >= UNKNOWN || (length === 0 && present >= block);
    if (!streamed && length > present) {
      throw new Problem("cut short: the WAV header promises more samples than there are; copy it again");
    }
    return { ...layout, start: at, frames: Math.floor((streamed ? present : length) / block) };
  }

  /** The function that reads a sample at a byte, full scale 1; undefined for kinds that are left to the browser. */
  function reader({ format, bits }) {
    return {
      "1 8": (view, at) => (view.getUint8(at) - 128) / 128,
      "1 16": (view, at) => view.getInt16(at, true) / 32768,
      "1 24": (view, at) => (view.getUint16(at, true) + view.getInt8(at + 2) * 65536) / 8388608,
      "1 32": (view, at) => view.getInt32(at, true) / 2147483648,
      "3 32": (view, at) => view.getFloat32(at, true),
      "3 64": (view, at) => view.getFloat64(at, true),
    }[`${format} ${bits}`];
  }

  /** {rate, channels: [Float32Array]} of a WAV in an ArrayBuffer; null where it is none, or one for the browser to read. */
  function read(buffer) {
    const view = new DataView(buffer), found = header(view), sample = found && reader(found);
    if (!sample) return null;
    const width = found.bits / 8, channels = [];
    for (let c = 0; c < found.channels; c++) {
      const out = new Float32Array(found.frames);
      let at = found.start + c * width;
      for (let i = 0; i < out.length; i++, at += found.channels * width) out[i] = sample(view, at);
      channels.push(out);
    }
    return { rate: found.rate, channels };
  }

  /** A Blob: the WAV of `samples` (Float32Array) at `rate` Hz. */
  function write(samples, rate) {
    const view = new DataView(new ArrayBuffer(44));
    const put = (at, name) => [...name].forEach((letter, i) => view.setUint8(at + i, letter.charCodeAt(0)));
    put(0, "RIFF");
    view.setUint32(4, 36 + samples.byteLength, true);
    put(8, "WAVEfmt ");
    view.setUint32(16, 16, true);
    view.setUint16(20, 3, true);                // floats
    view.setUint16(22, 1, true);
    view.setUint32(24, rate, true);
    view.setUint32(28, 4 * rate, true);
    view.setUint16(32, 4, true);
    view.setUint16(34, 32, true);
    put(36, "data");
    view.setUint32(40, samples.byteLength, true);
    return new Blob([view, samples], { type: "audio/wav" });
  }

  return { read, header, write };
})();
