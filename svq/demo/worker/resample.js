"use strict";
// Resampling as svq/data/audio.py does it (scipy.signal.resample_poly with its default filter), sample for sample.

const Resample = (() => {
  const BETA = 5;           // of the Kaiser window
  const HALF_WIDTH = 10;    // zero crossings on each side

  /** The modified Bessel function of the first kind, order 0, by its power series. */
  function bessel0(x) {
    let sum = 1, term = 1;
    for (let k = 1; term > 1e-17 * sum; k++) {
      term *= (x / (2 * k)) ** 2;
      sum += term;
    }
    return sum;
  }

  /** scipy.signal.firwin(20 widest + 1, 1 / widest, window=("kaiser", 5)) times `up`, as float32. */
  function lowpass(up, down) {
    const widest = Math.max(up, down), half = HALF_WIDTH * widest;
    const taps = new Float64Array(2 * half + 1);
    let sum = 0;
    for (let i = -half; i <= half; i++) {
      const x = Math.PI * i / widest;
      const sinc = i === 0 ? 1 : Math.sin(x) / x;
      taps[i + half] = sinc * bessel0(BETA * Math.sqrt(1 - (i / half) ** 2));
      sum += taps[i + half];
    }
    return Float32Array.from(taps, (tap) => Math.fround(tap / sum) * up);
  }

  function gcd(a, b) {
    return b === 0 ? a : gcd(b, a % b);
  }

  /** Samples at `rate` Hz of `samples` (Float32Array) at `ownRate` Hz; both rates are whole numbers. */
  function resample(samples, ownRate, rate) {
    const common = gcd(rate, ownRate), up = rate / common, down = ownRate / common;
    if (up === down) return samples;
    const taps = lowpass(up, down), half = (taps.length - 1) / 2;
    const out = new Float32Array(Math.ceil(samples.length * up / down));
    for (let k = 0; k < out.length; k++) {
      const at = k * down;     // in samples of the rate that both divide
      const first = Math.max(0, Math.ceil((at - half) / up));
      const last = Math.min(samples.length - 1, Math.floor((at + half) / up));
      let sum = 0;
      for (let n = first, tap = at - first * up + half; n <= last; n++, tap -= up) sum += samples[n] * taps[tap];
      out[k] = sum;
    }
    return out;
  }

  return { resample };
})();
