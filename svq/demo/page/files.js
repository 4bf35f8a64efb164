"use strict";
// Recordings from files: WAVs by our own reader, everything else by the browser's decoders. A browser resamples to the
// rate that it is asked for. So the file's own rate is read off the file first, and the browser is asked for that.

/** An error that the user can mend; its text is one line. */
class Problem extends Error {}

const Files = (() => {
  const USUAL = 48000;    // the rate where none can be read off the file
  const MP3_RATES = { 3: [44100, 48000, 32000], 2: [22050, 24000, 16000], 0: [11025, 12000, 8000] };

  function starts(bytes, name, at = 0) {
    return [...name].every((letter, i) => bytes[at + i] === letter.charCodeAt(0));
  }

  function find(bytes, name, from, to) {
    for (let at = from; at + name.length <= Math.min(to, bytes.length); at++) if (starts(bytes, name, at)) return at;
    return -1;
  }

  /** Where an ID3 tag at the front ends. */
  function afterTag(bytes) {
    if (!starts(bytes, "ID3") || bytes.length < 10) return 0;
    const size = bytes.slice(6, 10).reduce((sum, byte) => sum * 128 + (byte & 127), 0);
    return 10 + size + (bytes[5] & 16 ? 10 : 0);
  }

  /** The rate of the MP3 frame that begins here; null where none begins. */
  function ofMp3(bytes, from) {
    let at = from;
    while (bytes[at] === 0) at++;     // padding of the tag
    const version = (bytes[at + 1] >> 3) & 3, layer = (bytes[at + 1] >> 1) & 3, index = (bytes[at + 2] >> 2) & 3;
    const begins = bytes[at] === 255 && bytes[at + 1] >= 224 && version !== 1 && layer !== 0;
    return begins && index !== 3 ? MP3_RATES[version][index] : null;
  }

  function ofMp4(bytes, view) {
    for (let at = find(bytes, "mp4a", 0, bytes.length); at >= 0; at = find(bytes, "mp4a", at + 1, bytes.length)) {
      const rate = at + 30 <= bytes.length ? view.getUint16(at + 28) : 0;   // 16.16 fixed point, in the sample entry
      if (rate >= 8000) return rate;
    }
    return null;
  }

  /** The rate, in Hz, that a file says of itself; null where it is not known. FLAC, Ogg, MP3, AAC in MP4. */
  function rateOf(buffer) {
    const bytes = new Uint8Array(buffer), view = new DataView(buffer), at = afterTag(bytes);
    if (starts(bytes, "fLaC", at) && at + 22 <= bytes.length) return view.getUint32(at + 18) >>> 12 || null;
    if (starts(bytes, "OggS")) {
      const vorbis = find(bytes, "\u0001vorbis", 0, 512), flac = find(bytes, "fLaC", 0, 512);
      if (vorbis >= 0) return view.getUint32(vorbis + 12, true) || null;
      if (flac >= 0) return view.getUint32(flac + 18) >>> 12 || null;
      return find(bytes, "OpusHead", 0, 512) >= 0 ? 48000 : null;
    }
    if (starts(bytes, "RIFF")) return Wav.header(view)?.rate || null;
    if (starts(bytes, "ftyp", 4)) return ofMp4(bytes, view);
    return ofMp3(bytes, at);
  }

  async function decoded(buffer) {
    const rate = rateOf(buffer) || USUAL;
    let found;
    try {
      found = await new OfflineAudioContext(1, 1, rate).decodeAudioData(buffer);
    } catch {
      throw new Problem("not a recording that this browser reads, or cut short; save it as a WAV");
    }
    const channels = Array.from({ length: found.numberOfChannels }, (_, i) => found.getChannelData(i).slice());
    return { rate, channels };
  }

  /** {rate, channels: [Float32Array]} of a File. */
  async function read(file) {
    let buffer;
    try {
      buffer = await file.arrayBuffer();
    } catch {
      throw new Problem("cannot be read; check that it is still there");
    }
    if (buffer.byteLength === 0) throw new Problem("the file is empty; choose another one");
    return Wav.read(buffer) || decoded(buffer);
  }

  return { read, rateOf };
})();
