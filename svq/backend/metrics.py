"""Error rates and costs of verification scores.

All functions take two 1-D arrays, the scores of target and of non-target trials; a
higher score speaks for the target.  Plus and minus infinity are scores like any
other, NaN is an error.  Each costs one sort, O(n log n).  A trial is accepted when
its score is at or above the threshold.  Tied scores are never told apart: an
operating point exists between distinct scores only.
"""

import numpy as np

from svq.errors import UserError


def checked(target, nontarget):
    """Gives the scores of both classes as float64 1-D arrays; UserError where one is empty or holds NaN."""
    out = []
    for name, values in (("target", target), ("non-target", nontarget)):
        values = np.asarray(values, dtype=np.float64).ravel()
        if values.size == 0:
            raise UserError(f"no {name} trials: error rates need both classes")
        if np.isnan(values).any():
            raise UserError(f"{int(np.isnan(values).sum())} of {values.size} {name} scores are NaN")
        out.append(values)
    return out


def tied_counts(target, nontarget):
    """Counts the target and non-target trials at each distinct score.

    Gives the scores, rising, (k,) float64, targets (k,) int64, nontargets (k,) int64.
    """
    target, nontarget = checked(target, nontarget)
    scores = np.concatenate([target, nontarget])
    order = np.argsort(scores, kind="stable")
    ranked = scores[order]
    is_target = order < len(target)
    first = np.flatnonzero(np.concatenate([[True], ranked[1:] != ranked[:-1]]))
    targets = np.add.reduceat(is_target.astype(np.int64), first)
    sizes = np.diff(np.append(first, len(ranked)))
    return ranked[first], targets, sizes - targets


def operating_points(target, nontarget):
    """Finds all distinct operating points, from accepting every trial to rejecting every trial.

    Gives thresholds (k+1,), p_miss (k+1,), p_fa (k+1,): at threshold i, the share p_miss[i]
    of the targets lies below it, and p_fa[i] of the non-targets at or above.  The last
    threshold, +inf, stands for "reject all" even where a score is +inf.
    """
    thresholds, targets, nontargets = tied_counts(target, nontarget)
    p_miss, p_fa = error_rates(targets, nontargets)
    return np.append(thresholds, np.inf), p_miss, p_fa


def error_rates(targets, nontargets):
    """Computes p_miss and p_fa, (k+1,) each, from counts or weights (k,) of both classes at rising scores."""
    below_t = np.concatenate([[0], np.cumsum(targets)])
    below_n = np.concatenate([[0], np.cumsum(nontargets)])
    return below_t / below_t[-1], (below_n[-1] - below_n) / below_n[-1]


def eer(target, nontarget):
    """Computes the equal error rate of scores, a fraction in [0, 1].

    The ROC is the line through the distinct operating points (no convex hull is
    taken); the EER is where that line meets p_miss = p_fa, by linear interpolation
    between the two neighbouring points.
    """
    return eer_of(*operating_points(target, nontarget)[1:])


def eer_of(p_miss, p_fa):
    """Computes the EER, in [0, 1], of operating points in order of rising threshold, as `eer` does of scores."""
    # The difference rises from -1 (accept all) to 1 (reject all).
    difference = p_miss - p_fa
    right = int(np.argmax(difference >= 0))
    left = right - 1
    part = -difference[left] / (difference[right] - difference[left])
    return float(p_miss[left] + part * (p_miss[right] - p_miss[left]))


def eer_threshold(target, nontarget):
    """Finds the score at which p_miss and p_fa cross: the lowest threshold with p_miss >= p_fa."""
    thresholds, p_miss, p_fa = operating_points(target, nontarget)
    return float(thresholds[np.argmax(p_miss >= p_fa)])


def _check_prior(p_target):
    if not 0.0 < p_target < 1.0:
        raise UserError(f"prior probability of a target is {p_target}, not between 0 and 1")


def min_dcf(target, nontarget, p_target, c_miss=1.0, c_fa=1.0):
    """Computes the least normalised detection cost over all thresholds (NIST SRE evaluation plans), at most 1.

    C(t) = c_miss p_target p_miss(t) + c_fa (1 - p_target) p_fa(t) is divided by the cost of
    the better blind decision, min(c_miss p_target, c_fa (1 - p_target)).
    """
    _check_prior(p_target)
    return min_dcf_of(*operating_points(target, nontarget)[1:], p_target, c_miss, c_fa)


def min_dcf_of(p_miss, p_fa, p_target, c_miss=1.0, c_fa=1.0):
    """Computes the least normalised detection cost of operating points, (k,) each, as `min_dcf` does of scores."""
    cost = c_miss * p_target * p_miss + c_fa * (1 - p_target) * p_fa
    return float(cost.min() / min(c_miss * p_target, c_fa * (1 - p_target)))


def bayes_threshold(p_target, c_miss=1.0, c_fa=1.0):
    """Gives Bayes' threshold: the log-likelihood ratio (natural log) from which on accepting costs less than rejecting.

    It is log(c_fa (1 - p_target) / (c_miss p_target)).  UserError for a prior or a cost out of range."""
    _check_prior(p_target)
    if not (0 < c_miss < np.inf and 0 < c_fa < np.inf):
        raise UserError(f"costs of a miss and a false alarm are {c_miss} and {c_fa}; both must be above 0")
    return float(np.log(c_fa * (1 - p_target)) - np.log(c_miss * p_target))


def act_dcf(llr_target, llr_nontarget, p_target, c_miss=1.0, c_fa=1.0):
    """Computes the normalised detection cost of log-likelihood ratios (natural log) at Bayes' threshold.

    See `bayes_threshold` and, for the normalisation, `min_dcf`."""
    threshold = bayes_threshold(p_target, c_miss, c_fa)
    target, nontarget = checked(llr_target, llr_nontarget)
    miss, false_alarm = c_miss * p_target, c_fa * (1 - p_target)
    cost = miss * np.mean(target < threshold) + false_alarm * np.mean(nontarget >= threshold)
    return float(cost / min(miss, false_alarm))


def cllr(llr_target, llr_nontarget):
    """Computes Cllr, the cost of log-likelihood ratios (natural log), in bits.

    Bruemmer and du Preez, "Application-independent evaluation of speaker detection",
    Computer Speech and Language 20 (2006).  0 is perfect, and 1 is worth no more than
    the prior.  It is infinite where a trial has infinite odds for the wrong side.
    """
    target, nontarget = checked(llr_target, llr_nontarget)
    cost = np.mean(np.logaddexp(0, -target)) + np.mean(np.logaddexp(0, nontarget))
    return float(cost / (2 * np.log(2)))


def min_cllr(target, nontarget):
    """Computes Cllr, in bits, after the best monotone mapping of the scores to log-likelihood ratios (PAV).

    A perfect calibration could reach it; the scores need not be calibrated (Bruemmer and
    du Preez 2006, section 5).
    """
    return min_cllr_of(*tied_counts(target, nontarget)[1:])


def min_cllr_of(targets, nontargets):
    """Computes the least Cllr of counts or whole-number weights (k,) at rising scores, as `min_cllr` does of scores."""
    llr, targets, nontargets = pav_llr_of(targets, nontargets)
    miss, alarm = targets > 0, nontargets > 0
    cost_t = np.sum(targets[miss] * np.logaddexp(0, -llr[miss])) / targets.sum()
    cost_n = np.sum(nontargets[alarm] * np.logaddexp(0, llr[alarm])) / nontargets.sum()
    return float((cost_t + cost_n) / (2 * np.log(2)))


def pav_llr(target, nontarget):
    """Computes the optimal monotone log-likelihood ratios of scores by pool-adjacent-violators.

    Gives llr (b,), targets (b,), nontargets (b,): one entry per pooled block of
    neighbouring scores, rising.
    """
    return pav_llr_of(*tied_counts(target, nontarget)[1:])


def pav_llr_of(targets, nontargets):
    """Computes `pav_llr` from counts or whole-number weights (k,) at rising scores; entries of 0 and 0 are left out."""
    from scipy.optimize import isotonic_regression     # here: scoring starts without scipy
    sizes = targets + nontargets
    if not sizes.all():
        there = sizes > 0
        targets, nontargets, sizes = targets[there], nontargets[there], sizes[there]
    blocks = isotonic_regression(targets / sizes, weights=sizes).blocks[:-1]
    # Integer counts per block: block rates of 0 and 1 are exact.
    targets, nontargets = np.add.reduceat(targets, blocks), np.add.reduceat(nontargets, blocks)
    with np.errstate(divide="ignore"):
        odds = np.log(targets) - np.log(nontargets)
        llr = odds - (np.log(targets.sum()) - np.log(nontargets.sum()))
    return llr, targets, nontargets


def det_curve(target, nontarget, corners_only=True):
    """Computes the points of the detection error trade-off curve, in order of rising threshold.

    Gives p_fa (k,), p_miss (k,), thresholds (k,).  corners_only drops the points
    inside horizontal and vertical runs: the drawn line stays the same, on linear and
    on probit axes, with a fraction of the points.
    """
    thresholds, p_miss, p_fa = operating_points(target, nontarget)
    if corners_only and len(p_miss) > 2:
        inner = np.zeros(len(p_miss), dtype=bool)
        for rate in (p_miss, p_fa):
            inner[1:-1] |= (rate[1:-1] == rate[:-2]) & (rate[1:-1] == rate[2:])
        thresholds, p_miss, p_fa = thresholds[~inner], p_miss[~inner], p_fa[~inner]
    return p_fa, p_miss, thresholds


def summary(target, nontarget, llr_target=None, llr_nontarget=None):
    """Computes the row of a results table, floats by name: eer, mindcf01, mindcf05, min_cllr.

    With log-likelihood ratios also actdcf01, actdcf05, cllr."""
    row = {"eer": eer(target, nontarget),
           "mindcf01": min_dcf(target, nontarget, 0.01),
           "mindcf05": min_dcf(target, nontarget, 0.05),
           "min_cllr": min_cllr(target, nontarget)}
    if llr_target is not None:
        row["actdcf01"] = act_dcf(llr_target, llr_nontarget, 0.01)
        row["actdcf05"] = act_dcf(llr_target, llr_nontarget, 0.05)
        row["cllr"] = cllr(llr_target, llr_nontarget)
    return row
