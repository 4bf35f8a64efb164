"""Quantizes a trained network as it is, without finetuning. Finetuning can start from the result.

Takes a config of svq.bin.train. Its `quant` part says how to quantize. Its `ptq` part (svq.quant.ptq.PTQConfig) says
whether batch norms are folded into convolutions before and biases corrected after, e.g.
`ptq: {fold_batch_norm: true, bias_correction: true, utterances: 64, crop_seconds: 3}`. Bias correction needs --data.
Writes OUT/model.safetensors, config.yaml, provenance.yaml and, where the model has them, head.safetensors and
speakers.txt.
"""

from __future__ import annotations

import dataclasses

from svq.cli import add_device_option, parser, run_main
from svq.errors import UserError


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--init", required=True, help="model folder of a float network")
    arguments.add_argument("--config", required=True, help="YAML, see svq.train.config.TrainConfig")
    arguments.add_argument("--bits", help="table of bits per layer (bits.tsv); default: the config's bits for all")
    arguments.add_argument("--data", help="data directory to calibrate or to correct biases on, such as that of the training")
    arguments.add_argument("--input", choices=["auto", "wav", "feats"], default="auto",
                           help="what to read in --data; auto: feats.scp where it is there and the model takes such features")
    arguments.add_argument("--out", required=True, help="folder for the model")
    add_device_option(arguments)
    arguments.add_argument("--set", action="append", default=[], metavar="KEY=VALUE",
                           help="overrides a config key, e.g. quant.bits=2")
    options = arguments.parse_args()
    from svq.config import load_config
    from svq.data.extraction import compute_on
    from svq.quant import quantize_
    from svq.quant.api import average_bits
    from svq.quant.ptq import quantize_without_training_
    from svq.train.config import TrainConfig
    from svq.train.folders import read_head, save_trained, starting_network

    config = load_config(options.config, TrainConfig, options.set)
    if config.quant is None:
        raise UserError(f"{options.config}: no `quant` in the config; add it to say how to quantize")
    compute_on(options.device, config.num_threads)
    measures = config.ptq is not None and config.ptq.measures
    if measures and options.data is None:
        what = "calibrate" if config.ptq.calibrate else "bias_correction"
        raise UserError(f"{options.config}: ptq.{what} is measured on speech; give a data directory as --data")
    if options.data is not None and not measures:
        print(f"{options.config}: --data is not used: neither ptq.calibrate nor ptq.bias_correction in the config")
    net, config = starting_network(config, options)
    net.to(options.device)
    said = ""
    if config.ptq is None:
        quantize_(net, config.quant)
    else:
        result = quantize_without_training_(net, config.quant, config.ptq, features(config, options).to(options.device))
        folded = (config.model.folded or {}) | (result.folded or {}) or None
        config = dataclasses.replace(config, model=dataclasses.replace(config.model, folded=folded))
        said = f"; {result.summary()}"
    save_trained(options.out, net.cpu(), config, *read_head(options.init))
    print(f"{options.out}: {average_bits(net):g} bits per weight, not finetuned{said}")


def features(config, options):
    """Gives features (B, T, F) from --data, or random ones where only their shape matters, for folding."""
    import torch

    from svq.data.extraction import calibration_features

    front_end, ptq = config.model.front_end, config.ptq
    if ptq.measures:
        return calibration_features(options.data, front_end, ptq.utterances, ptq.crop_seconds, config.seed,
                                    options.input)
    return torch.randn(2, 200, front_end.num_mels, generator=torch.Generator().manual_seed(config.seed))


if __name__ == "__main__":
    run_main(main)
