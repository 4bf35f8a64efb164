"""Searches settings of quantization-aware finetuning with Optuna, as one worker or one of several.

Runs trials until all workers of the study together have done as many as `trials` in --config says. Any number of
workers may share a study, now and later. Another worker, or the same command started again, takes up the trial of a
killed one from its last checkpoint. Each trial is a training of svq.bin.train in OUT/trials/INDEX. In the end OUT has
trials.tsv, best (the folder of the best trial, an ordinary system) and best.yaml (its settings, to train by again).
--restart sets an earlier search aside, with all that it left, in OUT/old.1, OUT/old.2, ...
"""

from __future__ import annotations

import os

from svq.cli import parser, run_main


def main() -> None:
    options = parse_options()
    from svq.search.config import load_search
    from svq.search.storage import FileLock, begin, pruner
    from svq.search.worker import run_trial, settler, work

    sets = tuple(options.set)
    search, parameters = load_search(options.config, options.train, sets)
    setup, epochs, about = prepare(options, search, parameters, sets)
    with FileLock(os.path.join(options.out, ".lock")):
        study = begin(options.out, options.study or os.path.join(options.out, "study.db"), about, options.restart,
                      options.restart_id)
    study.pruner = pruner(search, epochs)
    done = work(study, search, parameters, options.out, lambda claim: run_trial(setup, claim),
                settler(study, parameters, options.out, options.train, sets))
    print(f"{options.out}: {search.trials} trials are done, {done} of them by this worker")


def prepare(options, search, parameters, sets):
    """Prepares the trials of a study.

    Returns the Setup that they share, the most epochs that one can have, and a description that tells studies apart.
    """
    from svq.config import load_config, to_dict
    from svq.errors import UserError
    from svq.models import load_model
    from svq.search.config import most_epochs
    from svq.search.worker import Eer, IdentificationError, Setup
    from svq.train.config import TrainConfig
    from svq.train.run import RunOptions

    config = load_config(options.train, TrainConfig, sets)
    weights = os.path.join(options.init, "model.safetensors")
    if not os.path.isfile(weights):
        raise UserError(f"{weights}: no such file; --init takes the folder of a float model")
    net, model = load_model(options.init)
    if search.objective == "eer":
        measure = Eer(options.dev, model.front_end, options.trials)
    else:
        measure = IdentificationError(options.dev, model.front_end, search.identification)
    run = RunOptions(options.train, options.data, options.out, options.init, teacher=options.teacher,
                     noise=options.noise, rir=options.rir, set=sets)
    setup = Setup(search, run, measure, os.path.join(options.out, "trials"), os.path.getsize(weights))
    return setup, most_epochs(options.train, parameters, sets, net), describe(options, search, config)


def describe(options, search, config) -> dict:
    """Digests all that the values of trials depend on: settings, model, data and lists, each under its name."""
    from svq.config import to_dict
    from svq.files import fingerprint, inputs_digest
    from svq.train.run import decisive

    def files(folders, *names):
        paths = [os.path.join(folder, name) for folder in folders if folder for name in names]
        return fingerprint(*(("file", path) for path in paths if os.path.exists(path)))

    own = {key: value for key, value in to_dict(search).items() if key not in ("trials", "retries")}
    trials = options.trials or os.path.join(options.dev, "trials")
    lists = "utt2spk", "wav.scp", "feats.scp"
    augment = config.augment
    return {
        "config": fingerprint(own), "training": fingerprint(to_dict(decisive(config))),
        "model": files([options.init], "config.yaml", "model.safetensors", "head.safetensors"),
        "teacher": files([options.teacher], "config.yaml", "model.safetensors", "head.safetensors"),
        "data": fingerprint(files([options.data], *lists), inputs_digest()), "development data": files([options.dev], *lists),
        "trials": fingerprint(("file", trials)) if search.objective == "eer" else "",
        "noise": files([options.noise or augment.noise_dir], "wav.scp", "utt2category") if augment else "",
        "rir": files([options.rir or augment.rir_dir], "wav.scp") if augment else "",
    }


def parse_options():
    arguments = parser(__doc__)
    arguments.add_argument("--config", required=True, help="YAML of the search, see svq.search.config.SearchConfig")
    arguments.add_argument("--train", required=True, help="YAML of the training, see svq.train.config.TrainConfig")
    arguments.add_argument("--init", required=True, help="folder of the float model, its classifier included")
    arguments.add_argument("--data", required=True, help="data directory to train on")
    arguments.add_argument("--dev", required=True, help="data directory to choose by")
    arguments.add_argument("--trials", help="trial list to choose by; by default DEV/trials")
    arguments.add_argument("--out", required=True, help="folder of the search")
    arguments.add_argument("--study", help="SQLite file that workers share; by default OUT/study.db")
    arguments.add_argument("--restart", choices=["false", "true", "always"], default="false",
                           help="set a search that is in OUT aside and begin anew: `true` if its settings or data "
                                "differ, `always` in any case")
    arguments.add_argument("--restart-id", help="with --restart always: workers with the same word share the new search")
    arguments.add_argument("--teacher", help="teacher of the finetuning, for a config with `distill`")
    arguments.add_argument("--noise", help="data directory of noises, for a config that augments")
    arguments.add_argument("--rir", help="data directory of room impulse responses, for a config that augments")
    arguments.add_argument("--set", action="append", default=[], metavar="KEY=VALUE",
                           help="overrides a key of the training's config in all trials")
    return arguments.parse_args()


if __name__ == "__main__":
    run_main(main)
