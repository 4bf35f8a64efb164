"""Measures closed-set identification of the speakers of a data directory: top-1 and top-5 accuracy.

Each speaker is enrolled with one segment and probed with several, from places drawn by --seed; scores are cosines.
Writes OUT.json (accuracies with 95 % intervals from resampled speakers, and what they were measured on) and OUT.tsv
(a line for each probe). The model is a folder, a packed .svq, or an exported .onnx or .xml file.
"""

from __future__ import annotations

from svq.cli import boolean, parser, run_main
from svq.errors import UserError

HEADER = ("speaker", "utterance", "start", "seconds", "rank", "score", "rival", "rival_score")


def main() -> None:
    options = parse_options()
    from svq.config import from_dict
    from svq.deploy.runtimes import load_embedder
    from svq.evaluation.identification import IdentifyConfig, identification

    config = from_dict({"seconds": options.seconds, "shortest": min(options.shortest, options.seconds),
                        "probes": options.probes, "other_utterance": options.other_utterance, "seed": options.seed},
                       IdentifyConfig, "options of svq.bin.identification_accuracy")
    embedder = load_embedder(options.model, options.runtime, options.num_threads)
    about, lines = identification(options.data_dir, embedder, config, options.replicates)
    write(options.out, about, lines)
    print(f"{options.model}: {about['speakers']} speakers, {about['probes']} probes: top-1 {about['top1']:.2f} % "
          f"({about['top1_low']:.2f} to {about['top1_high']:.2f}), top-5 {about['top5']:.2f} %")


def write(out: str, about: dict, lines: list[tuple]) -> None:
    """Writes <out>.tsv, then <out>.json: where the second is there, both are."""
    from svq.atomic import atomic_write, write_json

    with atomic_write(f"{out}.tsv") as file:
        file.writelines("\t".join(line) + "\n" for line in [HEADER, *lines])
    write_json(f"{out}.json", about)


def parse_options():
    arguments = parser(__doc__, renamed={"--backend": "--runtime"})
    arguments.add_argument("data_dir", help="Kaldi data directory")
    arguments.add_argument("model", help="model folder, .svq, .onnx or .xml")
    arguments.add_argument("out", help="name of the outputs without .json and .tsv")
    arguments.add_argument("--runtime", choices=["torch", "onnxruntime", "openvino"],
                           help="what runs the model (None: torch, onnxruntime for .onnx, openvino for .xml)")
    arguments.add_argument("--seconds", type=float, default=3.0, help="length of a segment; shorter utterances give less")
    arguments.add_argument("--shortest", type=float, default=1.0,
                           help="least length of a segment; speakers without such segments are left out")
    arguments.add_argument("--probes", type=int, default=5, help="probes of each speaker")
    arguments.add_argument("--other-utterance", type=boolean, default=True,
                           help="probe with other utterances than the enrolled one where a speaker has some")
    arguments.add_argument("--seed", type=int, default=0, help="seed of utterances, places and resampling")
    arguments.add_argument("--replicates", type=int, default=1000, help="resamplings of the speakers")
    arguments.add_argument("--num-threads", type=int, default=1, help="CPU threads")
    options = arguments.parse_args()
    for name in ("replicates", "num_threads"):
        if getattr(options, name) < 1:
            raise UserError(f"--{name.replace('_', '-')} {getattr(options, name)}: at least 1")
    return options


if __name__ == "__main__":
    run_main(main)
