"""Trains a network: a teacher, a student of a teacher, or (with `quant` in the config) a quantized one.

Reads a data directory, writes OUT/model.safetensors, config.yaml, head.safetensors, speakers.txt, curves.csv,
provenance.yaml and its last state in checkpoints/. If it is killed and started again, it goes on from the last
checkpoint and ends with the same bytes. If it is asked to end (SIGTERM, SIGUSR1), it writes a checkpoint first and
exits with 143 or 138. Runs on all GPUs or processes that torchrun gives it.
"""

from __future__ import annotations

from svq.cli import parser, run_main


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--config", required=True, help="YAML, see svq.train.config.TrainConfig")
    arguments.add_argument("--data", required=True, help="Kaldi data directory")
    arguments.add_argument("--out", required=True, help="folder for the model")
    arguments.add_argument("--init", help="model folder to start from, head included")
    arguments.add_argument("--bits",
                           help="table of bits per layer (bits.tsv), for a config with `quant`; default: the bits of the "
                                "config for all layers")
    arguments.add_argument("--teacher", help="model folder of the teacher; needs `distill` in the config")
    arguments.add_argument("--targets", help="folder of the teacher's cached levels (svq.bin.teacher_embeddings); "
                           "needs `distill.targets` in the config")
    arguments.add_argument("--targets-ark", nargs="+", default=[], metavar="FILE",
                           help="embeddings to learn from, whoever computed them, in place of --teacher: .scp, .ark or .npz "
                           "files, or folders of steps/extract.sh, one for each teacher; needs `distill.targets` in the config")
    arguments.add_argument("--seed", type=int, help="seed in place of the config's")
    arguments.add_argument("--noise", help="data directory of noises; only with `augment` in the config")
    arguments.add_argument("--rir", help="data directory of room impulse responses; only with `augment`, too")
    arguments.add_argument("--set", action="append", default=[], metavar="KEY=VALUE",
                           help="overrides a config key, e.g. schedule.lr=0.01")
    options = arguments.parse_args()
    if options.seed is not None:
        options.set = [*options.set, f"seed={options.seed}"]
    from svq.train.run import run_training

    run_training(options)


if __name__ == "__main__":
    run_main(main)
