"use strict";
// The checks of a recording before it is embedded, as in svq/data/audio.py and sources.py; `rules` has the numbers.

/** An error that the user can mend; its text is one line. */
class Refusal extends Error {}

const Sound = (() => {
  /** A number with three digits, as Python's format `.3g`. */
  function short(x) {
    return String(Number(x.toPrecision(3)));
  }

  function check(channels, rate, rules) {
    const [least, most] = rules.rates;
    if (!(rate >= least && rate <= most)) {
      throw new Refusal(`${rate} samples a second, outside ${least} to ${most}; save it again as a WAV`);
    }
    if (channels.length === 0 || channels[0].length === 0) throw new Refusal("no samples in it; record it again");
    let peak = 0;
    for (const samples of channels) {
      for (let i = 0; i < samples.length; i++) {
        const size = Math.abs(samples[i]);
        if (!(size <= peak)) peak = size;     // NaN, too
        if (!Number.isFinite(size)) throw new Refusal("holds NaN or infinite samples; record it again");
      }
    }
    if (peak > rules.limit) {
      throw new Refusal(`holds samples beyond ${rules.limit}, and full scale is 1; scale it to [-1, 1] first`);
    }
  }

  /** One channel (Float32Array): the average of all; a Refusal where they cancel each other. */
  function mono(channels, rate, rules) {
    check(channels, rate, rules);
    if (channels.length === 1) return channels[0];
    const count = channels.length, out = new Float32Array(channels[0].length);
    let kept = 0, power = 0;
    for (let i = 0; i < out.length; i++) {
      let sum = 0;
      for (const samples of channels) {
        sum += samples[i];
        power += samples[i] * samples[i] / count;
      }
      out[i] = sum / count;
      kept += (sum / count) ** 2;
    }
    const share = power > 0 ? kept / power : 1;
    if (share * count < rules.leastShare) {
      throw new Refusal(`its ${count} channels cancel each other: their average keeps ${short(100 * share)} % of their ` +
        "power; save one of them alone");
    }
    return out;
  }

  /** Seconds of `samples` at the model's rate that are louder than silence, block by block, less their mean. */
  function sounding(samples, rules) {
    let mean = 0, loud = 0;
    for (let i = 0; i < samples.length; i++) mean += samples[i];
    mean /= samples.length;
    const least = 10 ** (rules.silenceDb / 10);
    for (let start = 0; start < samples.length; start += rules.block) {
      const end = Math.min(start + rules.block, samples.length);
      let energy = 0;
      for (let i = start; i < end; i++) energy += (samples[i] - mean) ** 2;
      if (energy > least * (end - start)) loud += end - start;
    }
    return loud / rules.rate;
  }

  /** `samples` in equal consecutive windows of at most rules.window each; 0: in one. */
  function windows(samples, rules) {
    const total = samples.length, count = rules.window ? Math.ceil(total / rules.window) : 1;
    return Array.from({ length: count }, (_, i) =>
      samples.subarray(Math.floor(i * total / count), Math.floor((i + 1) * total / count)));
  }

  /** A Refusal where there is nothing to embed; a warning, or "", where there is little. */
  function judge(seconds, heard, rules) {
    const frame = rules.shortest / rules.rate;
    if (heard === 0) {
      throw new Refusal(`silence: nothing in its ${short(seconds)} s is above ${rules.silenceDb} dBFS; record it again`);
    }
    if (heard < rules.minSeconds || seconds < frame) {
      throw new Refusal(`${short(heard)} s of sound are too short to tell a voice; record ` +
        `${Math.max(rules.minSeconds, frame)} s or more`);
    }
    if (heard >= rules.littleSeconds) return "";
    return `${short(heard)} s of sound are little; with less than ${rules.littleSeconds} s errors are many times as frequent`;
  }

  return { mono, sounding, windows, judge, short };
})();
