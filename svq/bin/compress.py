"""What utils/compress.sh does besides the steps that it shares with the recipes.

`python -m svq.bin.compress VERB --help` says what a verb takes.
"""

from __future__ import annotations

import os
import sys

from svq import cli
from svq.compression import inputs
from svq.errors import UserError


def do_check(args) -> None:
    """Prints one line for utils/compress.sh: whether to finetune (true or false), the objective of the sensitivities,
    where the classifier is from (own, fitted, none), whether the trials are of models, and whether each channel has a
    codebook."""
    speech = inputs.check_speech(args.data)
    tested = inputs.check_trials(args.trials, args.trials_data)
    if args.cohort:
        inputs.check_speech(args.cohort)
    if args.finetune == "auto" and not speech.labelled:
        print(f"{args.data}: {speech.utterances} utterances of {len(speech.speakers)} speakers are no labels to "
              "finetune with: quantized without finetuning", file=sys.stderr)
    settings = settings_of(args, speech)
    settings.check()
    from svq.compression.settings import fitting

    settings = fitting(*starting_point(args), settings)
    objective = args.objective
    if objective == "auto":
        objective = "labels" if settings.finetune and speech.labelled else "embedding"
    needs_head = objective == "labels" or (settings.finetune and len(speech.speakers) < speech.utterances)
    if objective == "labels" and len(speech.speakers) < 2:
        raise UserError(f"{args.data}: --objective labels needs two speakers or more; take embedding")
    head = ("own" if has_head_of(args, speech) else "fitted") if needs_head else "none"
    print(*(str(word).lower() for word in (settings.finetune, objective, head, tested.models, settings.per_channel)))


def settings_of(args, speech):
    from svq.compression.settings import Settings, target_bytes

    try:
        candidates = tuple(int(bits) for bits in args.candidates.replace(",", " ").split())
    except ValueError:
        raise UserError(f"--candidates {args.candidates}: write it like 2,3,4") from None
    finetune = speech.labelled if args.finetune == "auto" else args.finetune == "true"
    per_channel = None if args.per_channel == "auto" else args.per_channel == "true"
    return Settings(finetune, speech.labelled, target_bytes(args.target_mb), speech.utterances, args.method,
                    per_channel, candidates, args.epochs, args.lr, args.crop_seconds, args.batch_size, args.margin,
                    args.seed, args.num_threads)


def starting_point(args):
    """The float network that is to be compressed, and its config."""
    if args.origin != "svq":
        from svq.importing import Options, import_checkpoint

        found = import_checkpoint(args.model, args.origin, None, Options(args.rate, args.num_mels))
        return found.net, found.config
    from svq.models import load_model

    if not os.path.isdir(args.model):
        raise UserError(f"{args.model}: --from svq takes the folder of a float model, with config.yaml and "
                        "model.safetensors")
    net, model = load_model(args.model)
    if model.quant is not None:
        raise UserError(f"{args.model}: is quantized already; compress the float model that it was made from")
    return net, model


def has_head_of(args, speech) -> bool:
    """Whether --model has a classifier for just the speakers of --data."""
    from svq.train.folders import read_speakers

    if args.origin != "svq" or not os.path.exists(os.path.join(args.model, "head.safetensors")):
        return False
    return read_speakers(args.model) == list(speech.speakers)


def do_take(args) -> None:
    """Copies a float model folder: its network and, with --head own, its classifier."""
    from svq.atomic import atomic_write
    from svq.config import write_provenance
    from svq.models import load_tensors, save_model, save_tensors
    from svq.train.folders import read_speakers

    args.origin = "svq"
    net, model = starting_point(args)
    if args.head == "own":
        head, speakers = load_tensors(os.path.join(args.model, "head.safetensors")), read_speakers(args.model)
        save_tensors(os.path.join(args.out, "head.safetensors"), head)
        with atomic_write(os.path.join(args.out, "speakers.txt")) as file:
            file.writelines(f"{speaker}\n" for speaker in speakers)
    write_provenance(args.out, {"from": "svq", "folder": os.path.abspath(args.model)}, seed=0)
    save_model(args.out, net, model)
    print(f"{args.out}: {model.arch} {model.net} from {args.model}")


def do_tested(args) -> None:
    """Makes a data directory of the utterances of a trial list."""
    print(f"{args.out}: {inputs.write_tested(args.trials, args.data, args.out)} utterances")


def do_speech(args) -> None:
    """Makes a data directory with spk2utt and, with --durations true, utt2dur of one that lacks them."""
    print(f"{args.out}: {inputs.write_speech(args.data, args.out, args.durations)} utterances")


def do_settings(args) -> None:
    """Writes the config of quantization, allocation and finetuning."""
    from svq.compression.settings import write_settings

    settings = settings_of(args, inputs.check_speech(args.data))
    write_settings(args.out, settings)
    said = "finetuned" if settings.finetune else "not finetuned"
    print(f"{args.out}: {settings.quant()}, bits {', '.join(map(str, settings.bits))}, {said}")


def do_report(args) -> None:
    """Writes report.md and report.json from the scores and embeddings of both networks."""
    from svq.atomic import atomic_write
    from svq.compression import report
    from svq.compression.settings import target_bytes
    from svq.config import load_config
    from svq.models import ModelConfig

    found = report.compare(args.folder, args.trials, args.data, f"cosine_{args.norm}", args.bootstrap, args.seed)
    over = found.after.size_bytes - target_bytes(args.target_mb)
    if over > 0:  # finetuning has moved batch norms out of what half precision holds
        raise UserError(f"{args.folder}/quantized/model.svq: is {over} bytes over the target; lower --target-mb by as "
                        "much")
    model = load_config(os.path.join(args.folder, "quantized", "config.yaml"), ModelConfig)
    method = model.quant.method + (", a codebook for each channel" if model.quant.per_channel else "")
    facts = [("network", f"{model.arch}, from `{args.model}` ({args.origin})"),
             ("target", f"{args.target_mb} MB for the packed file, `quantized/model.svq`"),
             ("quantization", f"{method}; {args.how}"),
             ("scores", f"cosine, normalization {args.norm}, `{args.trials}`")]
    with atomic_write(os.path.join(args.folder, "report.json")) as file:
        file.write(report.as_json(found))
    with atomic_write(os.path.join(args.folder, "report.md")) as file:
        file.write(report.as_markdown(found, facts))
    print("\n".join(report.as_lines(found)))


def build_parser():
    parser = cli.parser(__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

    def verb(function, help):
        sub = verbs.add_parser(function.__name__[3:], help=help, description=function.__doc__,
                               formatter_class=parser.formatter_class)
        sub.set_defaults(function=function)
        return sub.add_argument

    def source(add):
        add("--model", required=True, help="checkpoint, or folder of a float model")
        add("--from", dest="origin", required=True, help="the toolkit, or svq")
        add("--rate", type=int, default=16000, help="samples per second that a checkpoint was trained on")
        add("--num-mels", type=int, default=0, help="mel channels, where shapes leave them open")

    def choices(add):
        add("--data", required=True, help="data directory to measure and finetune on")
        add("--target-mb", required=True, help="size of the packed file, in 10^6 bytes")
        add("--finetune", choices=["auto", "true", "false"], default="auto")
        add("--method", choices=["kmqat", "uniform", "pot", "apot"], default="kmqat", help="quantizer")
        add("--per-channel", choices=["auto", "true", "false"], default="auto",
            help="a codebook for each output channel, not layer")
        add("--candidates", default="", help="bits to choose from; empty: 1 to 8, without finetuning 2 to 8")
        add("--epochs", type=int, default=4)
        add("--lr", type=float, default=3e-4)
        add("--crop-seconds", type=float, default=2.0)
        add("--batch-size", type=int, default=32)
        add("--margin", type=float, default=0.2)
        add("--seed", type=int, default=1)
        add("--num-threads", type=int, default=2)

    add = verb(do_check, "checks everything that is given, writes nothing")
    source(add)
    choices(add)
    add("--trials", required=True)
    add("--trials-data", required=True)
    add("--cohort", default="")
    add("--objective", choices=["auto", "labels", "embedding"], default="auto")
    add = verb(do_take, "copies a float model folder")
    add("--model", required=True)
    add("--out", required=True)
    add("--head", choices=["own", "fitted", "none"], default="none")
    add = verb(do_tested, "the data directory of a trial list")
    add("--trials", required=True)
    add("--data", required=True)
    add("--out", required=True)
    add = verb(do_speech, "a data directory with all that the steps need")
    add("--data", required=True)
    add("--out", required=True)
    add("--durations", type=cli.boolean, default=True)
    add = verb(do_settings, "the config of quantization and finetuning")
    choices(add)
    add("--out", required=True)
    add = verb(do_report, "before and after")
    source(add)
    add("--folder", required=True, help="folder of the compression")
    add("--trials", required=True)
    add("--data", required=True, help="data directory with the trials' utt2spk")
    add("--norm", default="none")
    add("--target-mb", required=True)
    add("--how", default="", help="how the network was quantized, in words")
    add("--bootstrap", type=int, default=200)
    add("--seed", type=int, default=0)
    return parser


def main() -> None:
    args = build_parser().parse_args()
    args.function(args)


if __name__ == "__main__":
    cli.run_main(main)
