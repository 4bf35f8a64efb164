"""Calibration of recurrent modules: each matrix of `nn.LSTM`, `nn.GRU` and `nn.RNN` for the error of what it adds to the
gates.

Layer after layer and direction after direction: the matrix of the inputs first, then that of the states, whose inputs
are the states that a layer with its first matrix quantized comes to.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import nn

from svq.errors import UserError
from svq.quant.layer_inputs import Moments, sequence_moments

Fitting = Callable[[str, torch.Tensor, Moments], tuple]  # name of a matrix, its weight, moments -> weight, quantizer


class RecurrentCalibration:
    """The quantized matrices of one recurrent module, and their quantizers, found for its inputs in both networks.

    module: nn.LSTM, nn.GRU or nn.RNN in float, left as it is; `quantized` is its quantized copy. fit: quantizes a
    matrix; it is called for those named in `names` (as `weight_ih_l0`). quantizers: by these names. The matrix of a
    projection (proj_size), whose inputs the module does not show, is fitted to its weights alone: its moments are None.
    """

    def __init__(self, module: nn.RNNBase, names: set[str], fit: Fitting):
        self.module, self.names, self.fit = module, names, fit
        self.quantized = copy.deepcopy(module)
        self.quantized._forward_hooks.clear()
        self.quantizers: dict[str, nn.Module] = {}

    def run(self, before: torch.Tensor, after: torch.Tensor) -> None:
        """Quantize for inputs (B, T, I) of the float and of the quantized network."""
        for layer in range(self.module.num_layers):
            found = [self._direction(f"l{layer}{suffix}", before, after)
                     for suffix in ("", "_reverse")[: 1 + self.module.bidirectional]]
            before, after = (torch.cat(sequences, -1) for sequences in zip(*found))

    def _direction(self, suffix: str, before: torch.Tensor, after: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The outputs (B, T, H) of one direction of one layer, float and quantized."""
        if suffix.endswith("_reverse"):
            before, after = before.flip(1), after.flip(1)
        self._quantize(f"weight_ih_{suffix}", f"bias_ih_{suffix}", before, after)
        states = _run(self.module, suffix, before), _run(self.quantized, suffix, after)
        self._quantize(f"weight_hh_{suffix}", f"bias_hh_{suffix}", *map(_previous, states))
        if self.module.proj_size:
            self._quantize(f"weight_hr_{suffix}")
        outputs = states[0], _run(self.quantized, suffix, after)
        return tuple(x.flip(1) for x in outputs) if suffix.endswith("_reverse") else outputs

    def _quantize(self, name: str, bias: str = "", before=None, after=None) -> None:
        if name not in self.names:
            return
        weight = getattr(self.module, name)
        moments = None if before is None else sequence_moments(before, after, centred=self.module.bias)
        quantized, self.quantizers[name] = self.fit(name, weight, moments)
        getattr(self.quantized, name).copy_(quantized)
        if self.module.bias and moments is not None:
            shift = quantized.double() @ moments.means[1][0] - weight.double() @ moments.means[0][0]
            getattr(self.quantized, bias).sub_(shift.to(weight))


def _run(module: nn.RNNBase, suffix: str, x: torch.Tensor) -> torch.Tensor:
    """The outputs (B, T, H) of one direction of one layer of `module` for inputs (B, T, I), forwards in time."""
    options = {"proj_size": module.proj_size} if isinstance(module, nn.LSTM) else {}
    if isinstance(module, nn.RNN):
        options["nonlinearity"] = module.nonlinearity
    kind = next(kind for kind in (nn.LSTM, nn.GRU, nn.RNN) if isinstance(module, kind))
    single = kind(x.shape[-1], module.hidden_size, 1, bias=module.bias, batch_first=True, **options).to(x)
    for name in list(single._flat_weights_names):
        getattr(single, name).copy_(getattr(module, name.replace("l0", suffix)))
    return single(x)[0]


def _previous(states: torch.Tensor) -> torch.Tensor:
    """The state (B, T, H) that each step began with, at first zeros, of the states that the steps ended with."""
    return torch.cat([torch.zeros_like(states[:, :1]), states[:, :-1]], 1)


def both_inputs(module: nn.RNNBase, inputs: tuple, size: int, name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """What came to `module`, (B, T, I) of the float and of the quantized network. UserError for packed sequences and for
    states given to begin with."""
    x = inputs[0]
    if not isinstance(x, torch.Tensor) or x.dim() != 3 or (len(inputs) > 1 and inputs[1] is not None):
        raise UserError(f"layer {name}: takes packed sequences or states to begin with, for which it cannot be "
                        "calibrated; quantize this network without ptq.calibrate")
    return (x if module.batch_first else x.transpose(0, 1)).split(size)


def joined(module: nn.RNNBase, outputs: tuple, quantized: tuple, size: int) -> tuple:
    """The outputs of a module, those of the second half of the batch replaced by those of the quantized one."""
    batch = 0 if module.batch_first else 1
    states, others = ((part,) if isinstance(part, torch.Tensor) else part for part in (outputs[1], quantized[1]))
    states = tuple(torch.cat([one[:, :size], other], 1) for one, other in zip(states, others))
    sequence = torch.cat([outputs[0].narrow(batch, 0, size), quantized[0]], batch)
    return sequence, states if isinstance(outputs[1], tuple) else states[0]
