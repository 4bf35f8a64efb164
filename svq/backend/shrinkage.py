"""Covariances of few vectors, drawn towards equal variances in all directions."""

import numpy as np


def oas_intensity(covariance, degrees):
    """Estimate how far a sample covariance should go towards equal variances: 0 not at all, 1 all the way.

    covariance: (d, d), symmetric; degrees: its degrees of freedom. The fixed point of the oracle's iteration for
    Gaussian vectors (Chen, Wiesel, Eldar and Hero, "Shrinkage algorithms for MMSE covariance estimation", IEEE
    Transactions on Signal Processing 2010, equation 23), which needs no more than the covariance itself.
    """
    dim, trace, square = len(covariance), np.trace(covariance), np.sum(covariance ** 2)
    spread = (degrees + 1 - 2 / dim) * (square - trace ** 2 / dim)
    wanted = (1 - 2 / dim) * square + trace ** 2
    return float(wanted / spread) if spread > wanted else 1.0


def shrink(covariance, intensity):
    """Draw a covariance (d, d) towards the identity times its mean variance, by `intensity` from 0 to 1."""
    dim = len(covariance)
    return (1 - intensity) * covariance + intensity * np.trace(covariance) / dim * np.eye(dim)
