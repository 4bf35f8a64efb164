"""Batch norms folded into the convolutions before them: y = BN(W x + b) becomes y = W' x + b'.

Jacob et al., "Quantization and training of neural networks for efficient integer-arithmetic-only inference", CVPR 2018,
section 3.2. A norm that stays where it is becomes one scale and one shift: `svq.quant.api.FoldedBatchNorm`.
"""

from __future__ import annotations

import collections

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from svq.errors import UserError, some_of
from svq.quant.api import quantizable_modules, scales_and_shifts

LARGEST_CHANGE = 1e-3  # of an embedding, relative to its largest entry


class _Consumers(TorchDispatchMode):
    """Counts the operations that take each tensor; keeps all tensors alive, so that none gets the id of another."""

    def __init__(self):
        super().__init__()
        self.taken, self.held = collections.Counter(), []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        found = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        self.taken.update({id(tensor) for tensor in found})
        out = function(*args, **(kwargs or {}))
        self.held += found + [leaf for leaf in tree_leaves(out) if isinstance(leaf, torch.Tensor)]
        return out


@torch.no_grad()
def norms_after_layers(net: nn.Module, feats: torch.Tensor) -> dict[str, str]:
    """Finds the batch norms of `net` that alone take the output of a convolution or linear layer: norm -> layer.

    To find them, `net` runs, in eval mode, on the first of `feats` (B, T, F); the result does not depend on its values.
    Norm and layer must each run just once. A norm behind an activation, as in TDNNs, does not count, nor does the norm
    of a linear layer over frames.
    """
    made, norms, runs, hooks = {}, {}, collections.Counter(), []

    def after_layer(name):
        def hook(module, inputs, output):
            made[id(output)] = name
            runs[name] += 1
        return hook

    def before_norm(name):
        def hook(module, inputs):
            norms[name] = inputs[0]
            runs[name] += 1
        return hook

    for name, module in quantizable_modules(net):
        hooks.append(module.register_forward_hook(after_layer(name)))
    for name, module in net.named_modules():
        if isinstance(module, _BatchNorm):
            hooks.append(module.register_forward_pre_hook(before_norm(name)))
    try:
        with _Consumers() as consumers:
            net.eval()(feats[:1])
    finally:
        for hook in hooks:
            hook.remove()
    pairs = {}
    for name, tensor in norms.items():
        layer = made.get(id(tensor))
        if layer is None or consumers.taken[id(tensor)] != 1 or runs[name] != 1 or runs[layer] != 1:
            continue
        if not isinstance(net.get_submodule(layer), nn.Linear) or tensor.dim() == 2:
            pairs[name] = layer
    return pairs


@torch.no_grad()
def fold_into_layers_(net: nn.Module, feats: torch.Tensor) -> dict[str, str]:
    """Folds, in place, the batch norms of float `net` that `norms_after_layers` finds into the layers before them.

    Returns norm -> layer, for `ModelConfig.folded`. Layers without a bias get one; norms become identities. Raises
    UserError where the embeddings of `feats` (B, T, F) do not stay the same up to rounding; `net` is then of no use.
    """
    before = net.eval()(feats)
    pairs = norms_after_layers(net, feats)
    norms = [net.get_submodule(name) for name in pairs]
    for layer, (scale, shift) in zip(pairs.values(), scales_and_shifts(norms)):
        module = net.get_submodule(layer)
        weight, wide = module.weight, scale.double().to(module.weight.device)
        weight.copy_(weight.double() * wide.view(-1, *[1] * (weight.dim() - 1)))
        old = 0.0 if module.bias is None else module.bias.double()
        module.bias = nn.Parameter((old * wide + shift.to(wide)).to(weight))
    drop_folded_(net, pairs)
    change = float((net(feats) - before).abs().max() / before.abs().max())
    if not change <= LARGEST_CHANGE:
        raise UserError(f"folding batch norms changed embeddings by {change:.2g} of the largest entry; "
                        "quantize this network without ptq.fold_batch_norm")
    return pairs


def drop_folded_(net: nn.Module, pairs: dict[str, str]) -> nn.Module:
    """Replaces the norms of `pairs` (norm -> layer) in `net` by identities, in place; returns `net`.

    A layer of `pairs` without a bias gets one of zeros. Raises UserError for names that `net` does not have.
    """
    modules = dict(net.named_modules())
    for norm, layer in pairs.items():
        if not isinstance(modules.get(norm), _BatchNorm) or layer not in dict(quantizable_modules(net)):
            known = some_of(name for name, module in modules.items() if isinstance(module, _BatchNorm))
            raise UserError(f"folded: {norm} into {layer}: the network has no such batch norm or layer; "
                            f"its norms are {known}")
        parent, _, name = norm.rpartition(".")
        setattr(net.get_submodule(parent), name, nn.Identity())
        module = modules[layer]
        if module.bias is None:
            module.bias = nn.Parameter(module.weight.new_zeros(len(module.weight)))
    return net
