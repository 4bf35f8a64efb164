"""Does the work of steps/compress.sh for which recipes have no step: checks, data directories, configs and the report.

`python -m svq.bin.compress VERB --help` says what a verb takes.
"""

from __future__ import annotations

import os
import shutil

from svq import cli
from svq.atomic import atomic_path, atomic_write
from svq.compression import inputs
from svq.compression.plan import METHODS, Settings, most_utterances, target_bytes, write_settings
from svq.errors import UserError
from svq.numbers import integer

ORIGINS = ("speechbrain", "wespeaker", "3dspeaker", "clova", "pyannote", "redimnet", "resemblyzer", "onnx", "svq")
FINETUNE = ("auto", "embedding", "labels", "none", "true", "false")


def do_check(args) -> None:
    """Prints one line for steps/compress.sh: how to finetune (none, embedding, labels), the objective of the
    sensitivities, where the classifier comes from (own, fitted, none), whether the trial list enrolls models of several
    recordings, and whether each output channel has its own codebook."""
    from svq.compression.plan import finetuning, make_plan
    from svq.importing import Options

    most = most_utterances(args.steps, args.epochs, args.batch_size)
    speech = inputs.check_speech(args.data, most)
    tested = inputs.check_trials(args.trials, args.trials_data or os.path.dirname(args.trials) or ".")
    if args.cohort:
        inputs.check_speech(args.cohort)
    args.finetune = finetuning(args.finetune, speech, args.data, args.batch_size)
    plan = make_plan(settings_of(args, speech), speech, args.objective, args.model, args.origin,
                     Options(args.rate, args.num_mels, pooling=args.pooling, front_end=args.front_end))
    words = (plan.finetune, plan.objective, plan.head, tested.models, plan.per_channel)
    print(*(str(word).lower() for word in words))


def settings_of(args, speech: inputs.Speech) -> Settings:
    try:
        candidates = tuple(integer(bits) for bits in args.candidates.replace(",", " ").split())
    except ValueError:
        raise UserError(f"--candidates {args.candidates}: write it like 2,3,4") from None
    per_channel = None if args.per_channel == "auto" else args.per_channel == "true"
    return Settings(target_bytes(args.target_mb), speech.utterances, args.finetune, args.calibrate, args.method,
                    per_channel, candidates, args.calibration_utts, args.steps, args.epochs, args.lr, args.crop_seconds,
                    args.batch_size, args.margin, args.seed, args.num_threads)


def do_take(args) -> None:
    """Copies a float model folder: its network and, with --head own, its classifier."""
    from svq.compression.plan import starting_point
    from svq.config import write_provenance
    from svq.models import save_model
    from svq.train.folders import read_head, save_head

    net, model = starting_point(args.model, "svq")
    if args.head == "own":
        save_head(args.out, *read_head(args.model))
    write_provenance(args.out, {"from": "svq", "folder": os.path.abspath(args.model)}, seed=0)
    save_model(args.out, net, model)
    print(f"{args.out}: {model.arch} {model.net} from {args.model}")


def do_tested(args) -> None:
    """Makes a data directory of the utterances of a trial list."""
    print(f"{args.out}: {inputs.write_tested(args.trials, args.data, args.out)} utterances")


def do_speech(args) -> None:
    """Makes a data directory with all that the steps need: one to measure, calibrate and finetune on, or a cohort."""
    most = None if args.cohort else most_utterances(args.steps, args.epochs, args.batch_size)
    count = inputs.write_speech(args.data, args.out, most, args.speakers, not args.cohort)
    print(f"{args.out}: {count} utterances")


def do_settings(args) -> None:
    """Writes the configs of the steps."""
    most = most_utterances(args.steps, args.epochs, args.batch_size)
    settings = settings_of(args, inputs.check_speech(args.data, most))
    write_settings(args.out, settings)
    print(f"{args.out}: {settings.quant()}, bits {', '.join(map(str, settings.bits))}; {', '.join(settings.made)}")


def do_finish(args) -> None:
    """Copies the packed network of the last step; UserError where it has become larger than asked for."""
    source = os.path.join(args.step, "model.svq")
    over = os.path.getsize(source) - target_bytes(args.target_mb)
    if over > 0:  # batch norms have moved out of what half precision holds
        raise UserError(f"{source}: is {over} bytes over the target; lower --target-mb by as much")
    for name in ("summary.json", "model.svq"):
        with atomic_path(os.path.join(args.out, name)) as temporary:
            shutil.copyfile(os.path.join(args.step, name), temporary)
    print(f"{args.out}: {os.path.getsize(source)} bytes, from {args.step}")


def do_report(args) -> None:
    """Writes report.md and report.json from the scores and embeddings of all steps."""
    from svq.compression import report

    found = report.compare(args.folder, args.steps.split(), args.trials, args.data, f"cosine_{args.norm}",
                           args.bootstrap, args.seed)
    facts = [("network", f"`{args.model}` ({args.origin})"),
             ("target", f"{args.target_mb} MB for the packed file, `quantized/model.svq`"),
             *report.made_how(args.folder, args.steps.split(), args.speech),
             ("scores", f"cosine, normalization {args.norm}, `{args.trials}`")]
    with atomic_write(os.path.join(args.folder, "report.json")) as file:
        file.write(report.as_json(found))
    with atomic_write(os.path.join(args.folder, "report.md")) as file:
        file.write(report.as_markdown(found, facts))
    print("\n".join(report.as_lines(found)))


def do_table(args) -> None:
    """Puts several compressions of one network side by side: TABLE.md and TABLE.tsv."""
    from svq.compression import sizes

    found = sizes.read(args.folders)
    for name, text in ((".tsv", sizes.as_tsv(found)), (".md", sizes.as_markdown(found))):
        with atomic_write(args.table + name) as file:
            file.write(text)
    print(sizes.as_markdown(found), end="")


def build_parser():
    parser = cli.parser(__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

    def verb(function, help):
        sub = verbs.add_parser(function.__name__[3:], help=help, description=function.__doc__,
                               formatter_class=parser.formatter_class)
        sub.set_defaults(function=function)
        return sub.add_argument

    def source(add):
        add("--model", required=True, help="checkpoint file; for --from svq the folder of a float model")
        add("--from", dest="origin", required=True, choices=ORIGINS, help="what wrote it")

    def amount(add):
        add("--data", required=True,
            help="Kaldi data directory to measure, calibrate and finetune on: wav.scp, utt2spk")
        add("--steps", type=int, default=Settings.steps,
            help="about how many steps to finetune: the nearest number of whole epochs; where --data has more recordings "
                 "than these steps take, only as many are used, spread over the list")
        add("--epochs", type=int, default=0,
            help="epochs of finetuning on all recordings, in place of --steps; 0: go by --steps")
        add("--batch-size", type=int, default=Settings.batch_size, help="crops in a step of the finetuning")

    def choices(add):
        amount(add)
        add("--target-mb", default="2.0", help="size of the packed file, at most, in 10^6 bytes")
        add("--finetune", choices=FINETUNE, default="auto",
            help="embedding (without labels), labels (of the speakers of --data, too) or none; auto: embedding, where "
                 "--data fills a batch; true: labels where they are known, else embedding; false: none")
        add("--calibrate", type=cli.boolean, default=True,
            help="calibrate; false: finetuning, if any, starts from the float network instead")
        add("--calibration-utts", type=int, default=Settings.calibration_utts,
            help="recordings to calibrate on, 3 s of each")
        add("--method", choices=METHODS, default=Settings.method,
            help="quantizer; kmqat: k-means levels, integer: a grid with a zero point")
        add("--per-channel", choices=["auto", "true", "false"], default="auto",
            help="true: a codebook for each output channel; false: one for each layer; auto: one for each layer, but for "
                 "each channel where weights are only rounded and the size leaves room")
        add("--candidates", default="",
            help="bits to choose from, such as '2 3 4'; empty: 1 2 3 4 5 6 8, but no 1 where weights are only rounded or "
                 "the method is integer")
        add("--lr", type=float, default=Settings.lr, help="highest learning rate of the finetuning")
        add("--crop-seconds", type=float, default=Settings.crop_seconds,
            help="length of the random crops that sensitivities and finetuning use")
        add("--margin", type=float, default=Settings.margin, help="margin of the classification loss")
        add("--seed", type=int, default=Settings.seed, help="seed of crops, probes, calibration and finetuning")
        add("--num-threads", type=int, default=Settings.num_threads, help="CPU threads of a job")

    add = verb(do_check, "checks everything that is given, writes nothing")
    source(add)
    choices(add)
    add("--rate", type=int, default=16000, help="samples per second that a checkpoint was trained on")
    add("--num-mels", type=int, default=0,
        help="mel channels of the checkpoint; needed only where its tensors do not tell and an error asks for it")
    add("--pooling", choices=["", "tstp", "tap", "tsdp"], default="",
        help="what the checkpoint pools frames to: means and deviations (tstp), means (tap) or deviations (tsdp); needed "
             "only where an error asks for it")
    add("--front-end", default="",
        help="for --from onnx: whose features the network takes, where the file does not say: wespeaker, 3dspeaker or "
             "sherpa-onnx")
    add("--trials", required=True, help="trial list: enroll test [target|nontarget]")
    add("--trials-data", default="", help="data directory of its recordings; empty: the folder of --trials")
    add("--cohort", default="",
        help="data directory whose mean embedding is subtracted before the cosine; also the cohort of --norm")
    add("--objective", choices=["auto", "labels", "embedding"], default="auto",
        help="loss that sensitivities are measured by: that of the labels, or the distance to the float embeddings; auto: "
             "as the finetuning")
    add = verb(do_take, "copies a float model folder")
    add("--model", required=True)
    add("--out", required=True)
    add("--head", choices=["own", "fitted", "none"], default="none")
    add = verb(do_tested, "makes the data directory of a trial list")
    add("--trials", required=True)
    add("--data", required=True)
    add("--out", required=True)
    add = verb(do_speech, "makes a data directory with all that the steps need")
    amount(add)
    add("--out", required=True)
    add("--speakers", type=cli.boolean, default=True, help="false: each utterance has a speaker of its own")
    add("--cohort", type=cli.boolean, default=False, help="true: all utterances, without durations")
    add = verb(do_settings, "writes the configs of the steps")
    choices(add)
    add("--out", required=True, help="folder of the compression")
    add = verb(do_finish, "copies the packed file of the last step")
    add("--step", required=True, help="folder of the last step")
    add("--out", required=True)
    add("--target-mb", required=True)
    add = verb(do_report, "reports what each step did")
    source(add)
    add("--folder", required=True, help="folder of the compression")
    add("--steps", required=True, help="names of the steps, which are also the names of their folders")
    add("--trials", required=True)
    add("--data", required=True, help="data directory with the trials' utt2spk")
    add("--speech", required=True, help="data directory of the calibration and finetuning, which the report names")
    add("--norm", choices=["none", "snorm", "asnorm"], default="none",
        help="score normalization; the last two need a cohort")
    add("--target-mb", required=True)
    add("--bootstrap", type=int, default=200,
        help="resamplings of the speakers for the intervals of the EER; 0: no intervals")
    add("--seed", type=int, default=0)
    add = verb(do_table, "puts several compressions of one network side by side")
    add("folders", nargs="+", help="folders of compressions, each with its report.json")
    add("--table", required=True, help="file that is made, without .md or .tsv")
    return parser


def main() -> None:
    args = build_parser().parse_args()
    args.function(args)


if __name__ == "__main__":
    cli.run_main(main)
