"""Gives a network a classifier for the speakers of a data directory, without training.

Each class weight is the mean direction of the embeddings of its speaker ("imprinting": Qi, Brown and Lowe, CVPR 2018).
Networks that were trained elsewhere can then be finetuned (svq.bin.train --init) and measured with labels
(svq.bin.sensitivity). Writes MODEL/head.safetensors and MODEL/speakers.txt, in place of those of any other speakers.
"""

from __future__ import annotations

import os

from svq.atomic import atomic_write
from svq.cli import add_network_options, check_network_options, parser, run_main
from svq.errors import UserError
from svq.progress import progress


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--model", required=True, help="folder of a float network")
    arguments.add_argument("--data", required=True, help="Kaldi data directory")
    arguments.add_argument("--max-seconds", type=float, default=0.0, help="seconds to read of each utterance; 0: all")
    add_network_options(arguments)
    arguments.set_defaults(num_threads=2)
    options = arguments.parse_args()
    check_network_options(arguments, options)
    if not 0 <= options.max_seconds < float("inf"):
        arguments.error(f"--max-seconds {options.max_seconds:g} must not be negative")
    from svq.data.datadir import DataDir
    from svq.data.extraction import Utterances, compute_on, embed
    from svq.models import load_model
    from svq.network import save_tensors
    from svq.train.objective import imprinted

    compute_on(options.device, options.num_threads)
    if not os.path.isdir(options.model):
        raise UserError(f"{options.model}: not a model folder")
    net, config = load_model(options.model)
    if config.quant is not None:
        raise UserError(f"{options.model}: is quantized; fit the classifier to the float network that it was made from")
    folder = DataDir(options.data)
    labels = dict(zip((key.decode() for key in folder.utt2spk.key_array), folder.speaker_index.tolist()))
    utterances = Utterances(options.data, config.front_end, options.input, max_seconds=options.max_seconds,
                            device=options.device)
    found = progress(embed(net, utterances, options.batch_frames, options.device), len(utterances), "embeddings")
    weight = imprinted(found, labels, len(folder.speakers), options.data)
    save_tensors(os.path.join(options.model, "head.safetensors"), {"weight": weight})
    with atomic_write(os.path.join(options.model, "speakers.txt")) as file:
        file.writelines(f"{speaker}\n" for speaker in folder.speakers)
    print(f"{options.model}/head.safetensors: {len(weight)} speakers from {len(utterances)} utterances")


if __name__ == "__main__":
    run_main(main)
