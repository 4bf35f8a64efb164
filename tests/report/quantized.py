"""A small exp tree with float and quantized networks, untrained, and a results.tsv with chosen figures."""

import os

import torch

from svq.models import save_model
from svq.network import ModelConfig
from svq.quant import QuantConfig, quantize_
from svq.quant.api import average_bits, quantizable
from svq.report.results import Row, write_results

LISTS = ("test", "test_all")
NET = dict(arch="ResNet18", net={"width": 4}, embed_dim=8)
MIXED = (1, 2, 3, 4)


def base_net():
    """The float network; width 4, so that writing and loading it takes milliseconds."""
    torch.manual_seed(1)
    net = ModelConfig(**NET).build()
    # As in a trained network: the deeper, the narrower.
    with torch.no_grad():
        for depth, (_, module) in enumerate(quantizable(net)):
            module.weight.normal_(0, 0.2 / (1 + depth))
    return net


def configs():
    """name of the system -> its QuantConfig, None for float."""
    names = [name for name, _ in quantizable(base_net())]
    layers = {name: MIXED[i % 4] for i, name in enumerate(names)}
    found = {"small": None, "small_float": None}
    for method in ("uniform", "kmqat"):
        found |= {f"small_{method}{bits}": QuantConfig(method=method, bits=bits, per_channel=False) for bits in (4, 2)}
    found |= {"small_kmqat4-r100": QuantConfig(bits=4, retention=1.0, per_channel=False), "small_mixed2": QuantConfig(layers=layers, per_channel=False),
              "small_mixed2-onestage": QuantConfig(layers=layers, per_channel=False),
              "small_static": QuantConfig(method="static", bits=1, per_channel=False),
              "small_adaptive": QuantConfig(method="adaptive", bits=1, per_channel=False),
              "small_kmqat4-ptq": QuantConfig(bits=4, per_channel=False)}
    return found


def write_exp(root, systems=None):
    """exp/ under root with the model folders, results.tsv, and a table of traces. Returns the rows of the table.

    The EER of the i-th system is 10 + i % on the first list, 20 + i % on the second, its interval 2 % wide;
    minDCF falls as EER rises, so that no one system is the best in both.
    """
    exp, rows = root / "exp", []
    for i, (name, config) in enumerate((systems or configs()).items()):
        net = base_net() if config is None else quantize_(base_net(), config)
        save_model(exp / name, net, ModelConfig(**NET, quant=config))
        for j, trials in enumerate(LISTS):
            for norm in ("none", "asnorm"):
                eer = 10 + i + 10 * j + (norm == "none")
                size = os.path.getsize(exp / name / "model.safetensors")
                size = size if config is None else round(size * average_bits(net) / 32)
                rows.append(Row(name, trials, "cosine", norm, eer, 0.9 - i / 100, 0.1, 0.2, average_bits(net), size,
                                999, 0.1, 0.2, eer - 1, eer + 1, 10, 100))
    write_results(exp / "results.tsv", rows)
    lines = ["layer\tshape\ttrace\tstd_error\tsamples"]
    for i, (name, module) in enumerate(quantizable(base_net())):
        shape, trace = "x".join(map(str, module.weight.shape)), 10.0 ** -(i % 5)
        lines.append(f"{name}\t{shape}\t{trace:g}\t{trace / 10:g}\t50")
    (exp / "small" / "sensitivity.tsv").write_text("\n".join(lines) + "\n")
    return rows
