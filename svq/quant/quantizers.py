"""Quantizers of given levels and of fixed bits, and `make_quantizer`: the quantizer of any method.

Equations and sections are those of Liu et al., "Towards lightweight speaker verification via adaptive
neural network quantization". ADMM, the alternating direction method of multipliers: Leng et al., "Extremely low bit
neural network: squeeze the last bit out with ADMM", AAAI 2018. The quantizers of fixed bits are the ternary one (Li,
Liu et al., "Ternary weight networks", 2016) and the static and the adaptive binary ones (section V).
"""

from __future__ import annotations

import copy

import torch
from torch import nn

from svq.quant import integer, levels as level_sets, nested
from svq.quant.base import Quantizer, StraightThrough, along, scale_of, sum_to
from svq.quant.methods import METHODS
from svq.quant.nearest import count_below, least_squares_scale, look_up, midpoints

SHARE = 0.7


class TernaryQuantizer(Quantizer):
    """Ternary weights, in 2 bits: -alpha, 0 or alpha. Nothing is learned but the float weights.

    Weights up to a threshold, 0.7 times the mean magnitude, become 0; alpha is the mean magnitude of the others. In
    training mode every forward computes threshold and alpha from the weights, and keeps them. In eval mode the last
    ones are used, so that codebook, codes and forward agree whatever comes first.
    """

    def __init__(self, weight: torch.Tensor, per_channel: bool = False):
        super().__init__(2)
        values = torch.zeros(len(weight) if per_channel else (), dtype=weight.dtype, device=weight.device)
        self.register_buffer("threshold", values)
        self.register_buffer("alpha", values.clone())
        self.refit(weight)

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.refit(weight)
        return super().forward(weight)

    def codebook(self) -> torch.Tensor:
        return torch.stack([-self.alpha, torch.zeros_like(self.alpha), self.alpha], -1)

    def thresholds(self) -> torch.Tensor:
        # Codes count thresholds strictly below a weight: a weight of exactly -threshold is not below it.
        lower = torch.nextafter(-self.threshold, torch.full_like(self.threshold, -float("inf")))
        return torch.stack([lower, self.threshold], -1)

    @torch.no_grad()
    def refit(self, weight: torch.Tensor) -> None:
        """Computes threshold and alpha of the present weights, and keeps them."""
        magnitude = weight.detach().abs()
        over = tuple(range(1, weight.dim())) if self.alpha.dim() else tuple(range(weight.dim()))
        threshold = magnitude.mean(over, keepdim=True) * SHARE
        above = magnitude > threshold
        self.threshold.copy_(threshold.view_as(self.threshold))
        self.alpha.copy_(magnitude.mul_(above).sum(over) / above.sum(over).clamp(min=1))


class StaticBinaryQuantizer(Quantizer):
    """Static binary weights: -alpha or alpha by the sign of the weight (section V-A).

    alpha is learned and starts at the mean magnitude. The weight is divided by its mean magnitude (eq. 10), clipped to
    [-1, 1], rounded to -1 or 1, zero to -1 (eq. 11), and multiplied by alpha (eq. 12). Gradients are those of these
    equations with the rounding passed straight through. So a weight beyond the mean magnitude, which is clipped, gets
    its gradient through the mean only.
    """

    def __init__(self, weight: torch.Tensor, per_channel: bool = False):
        super().__init__(1)
        self.alpha = nn.Parameter(_mean(weight.abs(), per_channel))

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        mean = _mean(weight.abs(), bool(self.alpha.dim())).clamp(min=torch.finfo(weight.dtype).tiny)
        clipped = (weight / along(mean, weight)).clamp(-1, 1)
        return StraightThrough.apply(clipped, _signs(weight > 0, weight)) * along(scale_of(self.alpha), weight)

    @torch.no_grad()
    def codebook(self) -> torch.Tensor:
        scale = scale_of(self.alpha)
        return torch.stack([-scale, scale], -1)


class AdaptiveBinaryQuantizer(Quantizer):
    """Adaptive binary weights: beta - alpha up to beta, beta + alpha above it (section V-B, eq. 13).

    beta and alpha are learned; they start at the mean (eq. 14) and the standard deviation (eq. 16) of the weights.
    Their gradients are those of eq. 13, with each weight on its side of beta. The gradient passes unchanged to the
    weights (eq. 5).
    """

    def __init__(self, weight: torch.Tensor, per_channel: bool = False):
        super().__init__(1)
        centre = _mean(weight, per_channel)
        self.beta = nn.Parameter(centre)
        self.alpha = nn.Parameter(_mean((weight - along(centre, weight)).square(), per_channel).sqrt())

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        beta = along(self.beta, weight)
        return StraightThrough.apply(weight, _signs(weight > beta, weight) * along(scale_of(self.alpha), weight) + beta)

    @torch.no_grad()
    def codebook(self) -> torch.Tensor:
        scale = scale_of(self.alpha)
        return torch.stack([self.beta - scale, self.beta + scale], -1)

    @torch.no_grad()
    def thresholds(self) -> torch.Tensor:
        return self.beta[..., None]


def _mean(x: torch.Tensor, per_channel: bool) -> torch.Tensor:
    """Averages all of x, to (), or each x[i], to (C,)."""
    return x.mean(tuple(range(1, x.dim()))) if per_channel else x.mean()


def _signs(positive: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Gives 1 where `positive`, else -1, in the type of `like`."""
    return positive.to(like.dtype).mul_(2).sub_(1)


class ADMMQuantizer(Quantizer):
    """Uniform levels times a scale, reached by training in float with a penalty (ADMM).

    In training mode the float weight W passes as it is. Every backward pass adds the gradient of the augmented
    Lagrangian to that of W: rho / mean(W0^2) * (W - G + U). G are quantized weights, U the scaled multipliers, W0 the
    weights at the start. Being relative to the mean square, the penalty weighs the same in a layer of small weights as
    in one of large weights. A step of SGD shrinks W - G + U by the share learning rate * rho / mean(W0^2), which must
    stay well below 1.

    `outer_update`, called between epochs, sets G to the levels nearest to W + U, their scale fitted by least squares,
    and U to U + W - G; at the start U is 0. In eval mode forward returns W quantized, with a scale fitted to W at the
    latest update. Nothing is learned but W. G - U and U are buffers of its shape, so that a checkpoint holds them.
    """

    def __init__(self, weight: torch.Tensor, bits: int, levels, rho: float, per_channel: bool = False):
        super().__init__(bits)
        self.per_channel = per_channel
        self.register_buffer("levels", torch.as_tensor(levels).to(weight))
        self.register_buffer("alpha", least_squares_scale(weight, self.levels, per_channel))
        square = weight.square().mean()
        self.register_buffer("strength", torch.where(square > 0, rho / square, 0.0))
        self.register_buffer("multipliers", torch.zeros_like(weight))
        self.register_buffer("target", self._nearest(weight, self.alpha))

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        if self.training:
            return _Penalized.apply(weight, self.target, self.strength)
        return super().forward(weight)

    @torch.no_grad()
    def codebook(self) -> torch.Tensor:
        return self.levels * self.alpha[..., None]

    @torch.no_grad()
    def outer_update(self, weight: torch.Tensor) -> None:
        """Updates G to the projection of W + U, and U to U + W - G, with the present float weight W."""
        total = weight + self.multipliers
        projected = self._nearest(total, least_squares_scale(total, self.levels, self.per_channel))
        self.multipliers.copy_(total - projected)
        self.target.copy_(projected - self.multipliers)
        self.refit(weight)

    @torch.no_grad()
    def refit(self, weight: torch.Tensor) -> None:
        """Fits the scale of the quantized weights to the present float weight, by least squares."""
        self.alpha.copy_(least_squares_scale(weight, self.levels, self.per_channel))

    def _nearest(self, weight: torch.Tensor, alpha: torch.Tensor) -> torch.Tensor:
        """Rounds each weight to the nearest of alpha times the levels."""
        table = self.levels * alpha[..., None]
        return look_up(table, count_below(weight, midpoints(table)))


class _Penalized(torch.autograd.Function):
    """Passes the weight as it is, and adds strength * (weight - target) to its gradient."""

    @staticmethod
    def forward(ctx, weight, target, strength):
        ctx.save_for_backward(weight, target, strength)
        return weight.view_as(weight)

    @staticmethod
    def backward(ctx, grad):
        weight, target, strength = ctx.saved_tensors
        return torch.addcmul(grad, weight - target, strength), None, None


class _ToLevels(torch.autograd.Function):
    """Rounds w to Q = alpha * q + centre, q being the level nearest to (w - centre) / alpha.

    The gradient passes unchanged to w (eq. 5). For alpha and the centre, rounding counts as adding a constant to
    (w - centre) / alpha clipped to [-1, 1], as in LSQ and APoT. So dQ/dalpha is q - (w - centre) / alpha and dQ/dcentre
    is 0 where w is not clipped; where it is clipped, they are q and 1.
    """

    @staticmethod
    def forward(ctx, w, alpha, centre, levels):
        table = affine(levels, alpha, centre)
        quantized = look_up(table, count_below(w, midpoints(table)))
        # The convolution keeps the quantized weight anyway, so that saving it costs no memory; saving codes would.
        ctx.save_for_backward(w, alpha, centre, quantized)
        return quantized

    @staticmethod
    def backward(ctx, grad):
        w, alpha, centre, quantized = ctx.saved_tensors
        grad_alpha = grad_centre = None
        if ctx.needs_input_grad[1]:
            middle = None if centre is None else along(centre, w)
            clipped = (w if middle is None else w - middle).abs() > along(alpha, w)
            difference = quantized - (w.masked_fill(clipped, 0) if middle is None else torch.where(clipped, middle, w))
            grad_alpha = sum_to(difference.mul_(grad), alpha) / alpha
            if middle is not None:
                grad_centre = sum_to(grad * clipped, centre)
        return grad, grad_alpha, grad_centre, None


def affine(levels: torch.Tensor, alpha: torch.Tensor, centre: torch.Tensor | None) -> torch.Tensor:
    """Computes alpha * levels + centre: (K,), or (C, K) if any of the three is per channel."""
    scaled = levels * alpha[..., None]
    return scaled if centre is None else scaled + centre[..., None]


class LevelQuantizer(Quantizer):
    """Fixed levels times a learned scale (eq. 4), plus a learned centre if one is given; a weight takes the nearest.

    weight: the weight to be quantized, for its type and device. levels: ascending, within [-1, 1], (K,) or per
    channel (C, K). alpha, centre: the initial values, () or (C,). The scale is |alpha| (see `scale_of`).
    """

    def __init__(self, weight: torch.Tensor, bits: int, levels, alpha, centre=None):
        super().__init__(bits)
        self.register_buffer("levels", torch.as_tensor(levels).to(weight).contiguous())
        self.alpha = nn.Parameter(torch.as_tensor(alpha).to(weight))
        self.centre = None if centre is None else nn.Parameter(torch.as_tensor(centre).to(weight))

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return _ToLevels.apply(weight, scale_of(self.alpha), self.centre, self.levels)

    @torch.no_grad()
    def codebook(self) -> torch.Tensor:
        return affine(self.levels, scale_of(self.alpha), self.centre)


def kmeans(weight, config, bits):
    """Makes KMQAT's quantizer (section III-B): levels fitted to the float weights, and their least-squares scale.

    With asymmetric rescaling, which moves zero, a centre is learned too.
    """
    levels = level_sets.kmeans_levels(weight.cpu().numpy(), bits, config.partition, config.retention,
                                      config.per_channel)
    if config.rescaling == "asymmetric":
        levels, alpha, *centre = level_sets.rescale_asymmetric(levels)
    else:
        levels, alpha, *centre = level_sets.rescale_symmetric(levels)
    # Levels of lloyd on all weights are means of their parts, so that their scale is the best one already.
    if config.partition != "lloyd" or config.retention not in (None, 1.0):
        levels, alpha, *centre = (torch.as_tensor(x).to(weight) for x in (levels, alpha, *centre))
        centred = weight - along(centre[0], weight) if centre else weight
        alpha = least_squares_scale(centred, levels, config.per_channel, alpha)
    return LevelQuantizer(weight, bits, levels, alpha, *centre)


def _fixed(level_set):
    """Returns the maker of quantizers of a fixed level set (eqs. 1 to 3), the same for every layer.

    The scale starts where the squared error is least.
    """

    def make(weight, config, bits):
        levels = torch.from_numpy(level_set(bits)).to(weight)
        return LevelQuantizer(weight, bits, levels, least_squares_scale(weight, levels, config.per_channel))

    return make


uniform, pot, apot = map(_fixed, (level_sets.uniform_levels, level_sets.pot_levels, level_sets.apot_levels))


def twn(weight, config, bits):
    """Makes the ternary quantizer of a weight."""
    return TernaryQuantizer(weight, config.per_channel)


def static(weight, config, bits):
    """Makes the quantizer of a weight to -1 and +1."""
    return StaticBinaryQuantizer(weight, config.per_channel)


def adaptive(weight, config, bits):
    """Makes the quantizer of a weight to two levels around its own centre."""
    return AdaptiveBinaryQuantizer(weight, config.per_channel)


def admm(weight, config, bits):
    """Makes the quantizer that ADMM draws to uniform levels."""
    return ADMMQuantizer(weight, bits, level_sets.uniform_levels(bits), config.rho, config.per_channel)


def integer_grid(weight, config, bits):
    """Makes the quantizer of a weight to an integer grid."""
    return integer.IntegerQuantizer(weight, bits, config.scheme, config.range, config.percentile, config.per_channel)


def nested_levels(weight, config, bits):
    """Makes the quantizer whose codes begin with those of fewer bits, from k-means levels of the most bits."""
    return nested.NestedQuantizer(weight, config.precisions, kmeans(weight, config, bits))


def make_quantizer(weight: torch.Tensor, config, bits: int) -> Quantizer:
    """Makes the quantizer of `bits` bits that `config` (a QuantConfig) asks for, initialised from `weight`."""
    method = config.binary if bits == 1 and config.binary != "same" else config.method
    return METHODS[method].make(weight.detach(), config, bits)


def with_codebook(quantizer: Quantizer, weight: torch.Tensor, codebook: torch.Tensor) -> Quantizer:
    """Makes a quantizer of the kind of `quantizer` with the given codebook: ascending, (K,) or per channel (C, K).

    For a kind that has only a scale to fit, the codebook must be a multiple of the present one. weight: the weight to
    be quantized, for its type and device.
    """
    made = copy.deepcopy(quantizer)
    if isinstance(made, AdaptiveBinaryQuantizer):
        made.beta.data = codebook.mean(-1).to(weight)
        made.alpha.data = (codebook.diff(dim=-1)[..., 0] / 2).to(weight)
    elif isinstance(made, LevelQuantizer) and made.centre is not None:
        levels, alpha, centre = level_sets.rescale_asymmetric(codebook.double().contiguous().cpu().numpy())
        made = LevelQuantizer(weight, quantizer.bits, levels, alpha, centre)
    elif isinstance(made, LevelQuantizer):
        levels, alpha = level_sets.rescale_symmetric(codebook.double().contiguous().cpu().numpy())
        made = LevelQuantizer(weight, quantizer.bits, levels, alpha)
    else:
        now = quantizer.codebook()
        made.alpha.data *= (codebook * now).sum(-1) / now.square().sum(-1)
    return made
