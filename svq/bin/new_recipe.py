"""Makes a recipe for data directories that you have: egs/NAME, which runs at once. utils/new_recipe.sh runs this.

Without development data, the recipe sets some training speakers aside. It calibrates scores and chooses settings on
them, never on test speakers.
"""

import os
import shlex

from svq import cli
from svq.errors import UserError
from svq.recipe import new


def trials_of(given: str, data: str, what: str) -> str:
    """Finds the trial list of a data directory: the one given, else its own; gives its absolute path, empty where there is
    none. UserError where the given one is no file."""
    if given and not os.path.isfile(given):
        raise UserError(f"{given}: no such file ({what})")
    own = os.path.join(data, "trials") if data else ""
    return os.path.abspath(given or own) if given or os.path.isfile(own) else ""


def main() -> None:
    arguments = cli.parser(__doc__)
    arguments.add_argument("name", help="the recipe's name: egs/NAME is made")
    arguments.add_argument("--train-data", required=True, help="Kaldi data directory of the speakers to train on")
    arguments.add_argument("--test-data", required=True, help="data directory of the speakers to test")
    arguments.add_argument("--trials", default="", help="trial list of the test; empty: that of --test-data")
    arguments.add_argument("--dev-data", default="", help="data directory to calibrate and choose settings on; empty: training "
                           "speakers are set aside")
    arguments.add_argument("--dev-trials", default="", help="trial list of --dev-data; empty: its own, or one is drawn")
    arguments.add_argument("--dev-speakers", type=int, default=0, help="training speakers to set aside; 0: a tenth, at least 10, "
                           "at most a third of them")
    arguments.add_argument("--root", default=".", help="folder that relative paths in wav.scp start from")
    arguments.add_argument("--title", default="", help="title of the report; empty: the name")
    arguments.add_argument("--egs", default="", help="folder to make the recipe in; empty: egs of this checkout")
    options = arguments.parse_args()
    if options.dev_trials and not options.dev_data:
        raise UserError("--dev-trials is a list of --dev-data, which is not given")
    if options.dev_data and options.dev_speakers:
        raise UserError("--dev-speakers sets training speakers aside, and --dev-data makes that needless; leave one out")
    train, test, dev = (os.path.abspath(path) if path else "" for path in (options.train_data, options.test_data, options.dev_data))
    trials = trials_of(options.trials, test, "--trials")
    if not trials:
        raise UserError(f"{test} has no trials: give a list by --trials, or draw one: utils/make_trials.sh {test}")
    count = 0 if dev else options.dev_speakers or new.speakers_to_set_aside(train)
    what = new.Given(train, test, trials, dev, trials_of(options.dev_trials, dev, "--dev-trials"), count,
                     os.path.abspath(options.root))
    folder = new.make(options.name, what, options.title, options.egs)
    if not dev:
        print(f"without --dev-data, {count} training speakers are set aside for calibration and choices (dev_speakers in run.sh)")
    print(f"made {folder}: look at README.md and run.sh there, then: bash {shlex.quote(os.path.join(folder, 'run.sh'))} --dry-run")


if __name__ == "__main__":
    cli.run_main(main)
