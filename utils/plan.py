"""Says what a dry run of run.sh would make: answers its calls of once.py, which it has collected in a file."""

import os

import cleaned
from log_lines import duration
from pieces import Stop, within


class Plan:
    """The plan of a dry run. rows: what it would make, in order, (stage, script, absolute path); made: paths that are made
    anew; wanted: needed files that clean.py has removed; seconds: time that this work took before; lines: lines to print."""

    def __init__(self):
        self.rows, self.made, self.wanted, self.seconds, self.lines = [], [], [], 0.0, []

    def say(self, text):
        self.lines.append(text)

    def flush(self):
        os.write(1, os.fsencode("".join(line + "\n" for line in self.lines)))
        self.lines = []

    def add(self, stage, script, outputs, anew):
        paths = [os.path.abspath(p) for p in outputs]
        self.rows += [(stage, script, p) for p in paths]
        if anew:
            self.made += paths

    def maker_of(self, missing):
        """Says in a line which stage makes a path; None where none does."""
        for stage, script, path in self.rows:
            if script and within(missing, [path]):
                return "stage %s makes it (%s): go on with --stage %s" % (stage, script, stage)
        return None


def answer_all(answer, requests, *what):
    """Answers the collected calls of a dry run by ``answer`` of once.py: says what would be made, stage by stage.

    ``what``: a path, to say only which stage makes it; or --needed, to note which cleaned files are needed again. If an
    input is missing, notes its stage beside the file of requests."""
    with open(requests, encoding="utf-8", errors="surrogateescape", newline="\n") as file:
        calls = [call.split("\0") for call in file.read().split("\0\x1e\0")[:-1]]
    wanted = []
    while True:
        plan = Plan()
        try:
            counts = _answer(answer, calls, plan, requests if not what else "")
        except Stop:
            plan.flush()
            raise
        if not set(plan.wanted) - set(wanted):
            break
        wanted += plan.wanted                 # earlier calls make them: begin again
        cleaned.want(plan.wanted)
    if what == ("--needed",):
        cleaned.want(dict.fromkeys(wanted), keep=True)
    elif what:
        _say_maker(plan, what[0])
    else:
        plan.say("dry run: %d to make, %d up to date; nothing was touched" % tuple(counts))
        if plan.seconds >= 60:
            plan.say("  what was made before took %s then" % duration(plan.seconds))
        plan.flush()


def _say_maker(plan, missing):
    maker = plan.maker_of(missing)
    if maker is None:
        raise Stop(1, "")
    plan.lines = [maker]
    plan.flush()


def _answer(answer, calls, plan, requests):
    """Answers all calls; gives the counts [to make, up to date]."""
    stage, counts = "", [0, 0]
    for kind, *words in calls:
        if kind == "stage":
            stage = words[0]
            plan.say("stage %s: %s" % tuple(words))
        elif kind == "need":
            if not within(words[0], plan.made):
                plan.say("  %s is missing: %s" % tuple(words))
                plan.add(stage, "", [os.path.dirname(words[0])], True)
        else:
            try:
                counts[0 if answer(words, plan, stage) else 1] += 1
            except Stop as stop:
                if requests:
                    with open(requests + ".stage", "w") as file:
                        file.write(stage)
                    raise Stop(*stop.args) from None
    return counts
