"""Makes the options of sbatch out of those that a step proposes and those that the user gives.

Of two options about the same thing, the one later in this list counts:

  1. options of sbatch in conf/slurm.conf that ask for no resource (partition, account ...)
  2. options that a step proposes: --mem 8G, --num-threads 2, --gpu 1
  3. conf/slurm.conf: memory, CPUs, GPUs
  4. SVQ_SLURM_OPTIONS
  5. the command in cmd.sh, or the command line typed by hand, and last its --sbatch-options

So sbatch gets each option once. conf/slurm.conf takes two kinds of lines; # begins a comment.

  --partition=cpu --account=us       options of sbatch for all jobs
  option gpu=* --gres=gpu:a100:$0 --partition=gpu
                                     as in Kaldi: the options that replace --gpu 2 of the dispatcher ($0 is the 2). Names
                                     are mem, num_threads, gpu, max_jobs_run, time ...; `option gpu=0` is for that value
                                     alone. `command sbatch ...` gives options for all jobs, `default gpu=0` a value for
                                     when none is given
"""

import os
import re
import shlex

CONF = "conf/slurm.conf"
SHORT = {"A": "account", "C": "constraint", "D": "chdir", "G": "gpus", "J": "job-name", "M": "clusters", "N": "nodes",
         "a": "array", "c": "cpus-per-task", "d": "dependency", "e": "error", "i": "input", "m": "distribution",
         "n": "ntasks", "o": "output", "p": "partition", "q": "qos", "t": "time", "w": "nodelist", "x": "exclude", "L": "licenses",
         "b": "begin", "F": "nodefile", "S": "core-spec", "B": "extra-node-info"}
# Options that only slurm.py may set: they say where it looks for its jobs, and how these are named.
RESERVED = ("array", "output", "error", "job-name", "parsable", "wrap", "wait", "chdir", "input", "test-only",
            "clusters")
SUBJECTS = {"mem-per-cpu": "mem", "mem-per-gpu": "mem", "no-requeue": "requeue"}
WARNING = 120        # seconds before its time limit at which a job is told
RESOURCES = ("mem", "cpus-per-task", "gpu")


class OptionError(Exception):
    """Carries a message about wrong options, which says where they stand."""


def subject(name, value):
    """Names the subject of an option of sbatch: options with the same subject exclude each other."""
    if name.startswith("gpus") or name == "gres" and re.match(r"gpu\b", value or ""):
        return "gpu"
    return SUBJECTS.get(name, name)


def pairs(words, where):
    """Parses words such as -p cpu --mem=4G --exclusive: [(option, value or None)]; OptionError names `where` they stand."""
    found, words = [], list(words)
    while words:
        word = words.pop(0)
        match = re.fullmatch(r"--([a-z][a-z-]*)(?:=(.*))?", word, re.DOTALL)
        if match:
            name, value = match[1], match[2]
        elif re.match(r"-[A-Za-z]", word):
            name, value = SHORT.get(word[1], word[:2]), word[2:] or None
        else:
            raise OptionError("%s: '%s' is no option of sbatch" % (where, word))
        if value is None and words and not words[0].startswith("-"):
            value = words.pop(0)
        if name in RESERVED:
            raise OptionError("%s: %s is slurm.py's own to set: leave it out" % (where, word.partition("=")[0]))
        found.append((name, value))
    return found


class Conf:
    """The contents of conf/slurm.conf: ``plain`` options of sbatch, ``options`` {name: {value or *: its options}},
    ``defaults``."""

    def __init__(self, path=CONF):
        self.plain, self.command, self.options, self.defaults = [], [], {}, {}
        if not os.path.exists(path):
            return
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            lines = file.read().replace("\\\n", " ").split("\n")
        for number, line in enumerate(lines, 1):
            self._read("%s:%d" % (path, number), line)

    def _read(self, where, line):
        try:
            words = shlex.split(line, comments=True)
        except ValueError as error:
            raise OptionError("%s: %s" % (where, error)) from None
        if not words:
            return
        if words[0].startswith("-"):
            self.plain += pairs(words, where)
        elif words[0] == "command":
            if words[1:2] != ["sbatch"]:
                raise OptionError("%s: `command` is followed by sbatch here, not '%s'" % (where, " ".join(words[1:2])))
            self.command += pairs(words[2:], where)
        elif words[0] in ("option", "default") and (match := re.fullmatch(r"(\w[\w-]*)=(.+)", "".join(words[1:2]))):
            name = match[1].replace("_", "-")
            if words[0] == "option":
                pairs(words[2:], where)
                self.options.setdefault(name, {})[match[2]] = (words[2:], where)
            else:
                self.defaults[name] = match[2]
        else:
            raise OptionError("%s: a line begins with an option of sbatch (--partition=cpu), or with Kaldi's "
                              "`command`, `option name=value` or `default name=value`; not '%s'" % (where, words[0]))

    def translate(self, name, value):
        """Translates --name value of the dispatcher into options of sbatch."""
        table = self.options.get(name, {})
        if str(value) in table or "*" in table:
            words, where = table.get(str(value)) or table["*"]
            return pairs([word.replace("$0", str(value)) for word in words], where)
        if name == "num-threads":
            return [("cpus-per-task", str(value))]
        if name == "gpu":
            return [("gres", "gpu:%d" % int(value))] if int(value) else []
        if name == "num-nodes":
            return [("nodes", str(value))]
        if name == "num-tasks":
            return [("ntasks-per-node", str(value))]
        return [] if name in ("max-jobs-run", "sbatch-options") else [(name, str(value))]


def layers(request, conf):
    """Gives lists of (option, value), the weakest list first."""
    options = {**conf.defaults, **request.options}
    resources = [pair for pair in conf.plain if subject(*pair) in RESOURCES]
    try:
        variable = pairs(shlex.split(os.environ.get("SVQ_SLURM_OPTIONS", "")), "SVQ_SLURM_OPTIONS")
        last = pairs(shlex.split(request.options.get("sbatch-options", "")), "--sbatch-options")
        proposed, said = ([pair for name in options if (name in request.said) == by_user
                           for pair in conf.translate(name, options[name])] for by_user in (False, True))
    except ValueError as error:
        raise OptionError("options of sbatch: %s" % error) from None
    plain = conf.command + [pair for pair in conf.plain if pair not in resources]
    return [[("cpus-per-task", "1"), ("requeue", None)], plain, proposed, resources, variable, said, last]


def merge(stack):
    """Merges layers into one list: of options with the same subject the last one stays. --gres keeps what is no GPU."""
    merged, gres = {}, {}
    for layer in stack:
        new = {}
        for name, value in layer:
            new.setdefault(subject(name, value), {})[name] = value    # several about one subject, in one layer
        merged.update(new)
    result = [pair for options in merged.values() for pair in options.items()]
    both = [value for name, value in result if name == "gres"]
    if len(both) > 1:
        result = [pair for pair in result if pair[0] != "gres"] + [("gres", ",".join(both))]
    return result


def seconds_of(limit):
    """Converts a time limit of sbatch to seconds: 90 (minutes), 90:30, 1:30:00, 2-12, 2-12:30, 2-12:30:00; else None."""
    match = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", limit or "")
    if not match:
        return None
    days, *parts = match.groups()
    first, second, third = (int(part or 0) for part in parts)
    if days is not None:
        return ((int(days) * 24 + first) * 60 + second) * 60 + third
    return (first * 60 + second) * 60 + third if parts[2] is not None else first * 60 + second


def resolve(request, resumes):
    """Gives the words for sbatch and the CPUs of a task. ``resumes``: the work can be interrupted, so it gets a signal
    before its time limit."""
    stack = layers(request, Conf())
    merged = dict(merge(stack))
    if resumes:
        limit = seconds_of(merged.get("time"))
        merged.setdefault("signal", "B:USR1@%d" % (WARNING if limit is None else min(WARNING, limit // 3)))
    words = ["--" + name if value is None else "--%s=%s" % (name, value) for name, value in merged.items()]
    threads = merged["cpus-per-task"]
    if not re.fullmatch("[1-9][0-9]*", threads or ""):
        raise OptionError("--cpus-per-task takes a number, not '%s'" % threads)
    return words, int(threads)
