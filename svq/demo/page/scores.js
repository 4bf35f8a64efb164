"use strict";
// From embeddings to a decision, as svq/verifier.py and svq/backend/calibration.py do it.

const Scores = (() => {
  function unit(vector) {
    const length = Math.sqrt(vector.reduce((sum, x) => sum + x * x, 0));
    if (!(length > 0)) throw new Problem("an embedding of length 0 has no direction; record it again");
    return vector.map((x) => x / length);
  }

  /** Float32Arrays less the mean (null: none), each of length 1, averaged, and of length 1 again. */
  function voice(embeddings, mean) {
    const units = embeddings.map((vector) => unit(mean ? vector.map((x, d) => x - mean[d]) : vector));
    if (units.length === 1) return units[0];
    return unit(units[0].map((_, d) => units.reduce((sum, vector) => sum + vector[d], 0) / units.length));
  }

  function cosine(a, b) {
    return Math.min(1, Math.max(-1, a.reduce((sum, x, d) => sum + x * b[d], 0)));
  }

  /** Bayes' threshold: at this log-likelihood ratio and above, accepting costs no more than rejecting. */
  function bayes({ pTarget, cMiss, cFa }) {
    return Math.log(cFa * (1 - pTarget)) - Math.log(cMiss * pTarget);
  }

  /** Compares embeddings; gives {score, llr, threshold, accepted}, null for what is not known. costs: {pTarget, cMiss,
   *  cFa, threshold}. The threshold (null: Bayes') is one of the llr, or of the score where there is no calibration. */
  function decide(enrolled, test, { mean, calibration }, costs) {
    const score = cosine(voice(enrolled, mean), voice([test], mean));
    const llr = calibration ? calibration.slope * score + calibration.offset : null;
    const threshold = costs.threshold ?? (calibration ? bayes(costs) : null);
    return { score, llr, threshold, accepted: threshold === null ? null : (llr ?? score) >= threshold };
  }

  /** The threshold as one of scores, for the gauge. */
  function asScore(threshold, calibration) {
    return threshold === null || !calibration ? threshold : (threshold - calibration.offset) / calibration.slope;
  }

  return { decide, bayes, asScore };
})();
