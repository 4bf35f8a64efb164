"use strict";
// Pictures: the waveform of a recording, the level while recording, and the gauge of the score.

const Drawing = (() => {
  const SVG = "http://www.w3.org/2000/svg";
  const GAP = 3;    // pixels from bar to bar

  function prepared(canvas) {
    const scale = window.devicePixelRatio || 1, { width, height } = canvas.getBoundingClientRect();
    canvas.width = Math.max(1, Math.round(width * scale));
    canvas.height = Math.max(1, Math.round(height * scale));
    const pen = canvas.getContext("2d");
    pen.scale(scale, scale);
    pen.fillStyle = getComputedStyle(canvas).color;
    return { pen, width, height };
  }

  function bar(pen, x, size, height) {
    const length = Math.max(1.5, size * (height - 2));
    pen.beginPath();
    if (pen.roundRect) pen.roundRect(x, (height - length) / 2, GAP - 1, length, 1);
    else pen.rect(x, (height - length) / 2, GAP - 1, length);
    pen.fill();
  }

  /** The peak of each of `count` equal parts. */
  function peaks(samples, count) {
    return Float32Array.from({ length: count }, (_, i) => {
      let peak = 0;
      const end = Math.floor((i + 1) * samples.length / count);
      for (let n = Math.floor(i * samples.length / count); n < end; n++) peak = Math.max(peak, Math.abs(samples[n]));
      return peak;
    });
  }

  /** The whole recording, its loudest place as high as the canvas. */
  function waveform(canvas, samples) {
    const { pen, width, height } = prepared(canvas), found = peaks(samples, Math.max(1, Math.floor(width / GAP)));
    const loudest = found.reduce((a, b) => Math.max(a, b), 1e-9);
    found.forEach((peak, i) => bar(pen, i * GAP, peak / loudest, height));
  }

  /** The last peaks (numbers from 0 to 1) that fit, the newest at the right. */
  function level(canvas, all) {
    const { pen, width, height } = prepared(canvas), fit = Math.floor(width / GAP), shown = all.slice(-fit);
    shown.forEach((peak, i) => bar(pen, width - (shown.length - i) * GAP, Math.min(1, Math.sqrt(peak)), height));
  }

  const RADIUS = 100;

  /** The place on the half circle of a score from -1 (left) to 1 (right), as SVG writes it. */
  function place(score, radius) {
    const angle = Math.PI * (1 - Math.min(1, Math.max(-1, score))) / 2;
    return `${(radius * Math.cos(angle)).toFixed(2)} ${(-radius * Math.sin(angle)).toFixed(2)}`;
  }

  function arc(from, to, kind) {
    const path = document.createElementNS(SVG, "path");
    path.setAttribute("d", `M ${place(from, RADIUS)} A ${RADIUS} ${RADIUS} 0 0 1 ${place(to, RADIUS)}`);
    path.setAttribute("class", kind);
    return path;
  }

  function line(score, from, to, kind) {
    const path = document.createElementNS(SVG, "path");
    path.setAttribute("d", `M ${place(score, from)} L ${place(score, to)}`);
    path.setAttribute("class", kind);
    return path;
  }

  /** score, threshold: in [-1, 1], or null. The arc beyond the threshold is the one of acceptance. */
  function gauge(svg, score, threshold) {
    const parts = [];
    if (threshold === null) parts.push(arc(-1, 1, "arc"));
    else {
      const at = Math.min(1, Math.max(-1, threshold));
      if (at > -1) parts.push(arc(-1, at, "arc reject"));
      if (at < 1) parts.push(arc(at, 1, "arc accept"));
      if (Math.abs(threshold) <= 1) parts.push(line(at, RADIUS - 16, RADIUS + 16, "mark"));
    }
    if (score !== null) {
      const dot = document.createElementNS(SVG, "circle");
      const [x, y] = place(score, RADIUS).split(" ");
      for (const [name, value] of Object.entries({ cx: x, cy: y, r: 11, class: "dot" })) dot.setAttribute(name, value);
      parts.push(dot);
    }
    svg.replaceChildren(...parts);
  }

  return { waveform, level, gauge, peaks };
})();
