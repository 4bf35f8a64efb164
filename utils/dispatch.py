"""Parses the command line of run.py and slurm.py, and reports failed jobs for both."""

import errno
import os
import re
import shlex
import shutil
import sys

# Words that only a shell understands. They count only as whole arguments: a data value such as
# "<unk>" or "a|b" is passed on as it is.
OPERATORS = {"|", "||", "&&", ";", "<", ">", ">>", "2>", "2>>", "2>&1", "&>"}

COUNTS = {"num-threads": 1, "gpu": 0, "max-jobs-run": 1, "num-nodes": 1, "num-tasks": 1}    # option -> smallest value
TEXTS = ("mem", "time", "partition", "account", "qos", "sbatch-options")


class UsageError(Exception):
    pass


class Request:
    """A command line taken apart.

    options: {"mem": "4G", "num-threads": 2, ...}, only those given
    said: names of the options that the user gave, in cmd.sh or by hand; a step proposed the others
    variable: "JOB" or None; jobs: the numbers, [None] where there is no variable
    log, command: before the variable is replaced
    """

    def __init__(self, options, said, variable, jobs, log, command):
        self.options, self.said, self.variable, self.jobs = options, said, variable, jobs
        self.log, self.command = log, command

    def substitute(self, text, job):
        return text if self.variable is None else text.replace(self.variable, str(job))

    def log_of(self, job):
        return self.substitute(self.log, job)

    def argv_of(self, job):
        """Gives the argument list to run; bash comes in only where the command holds shell syntax."""
        words = [self.substitute(w, job) for w in self.command]
        if len(words) == 1 and re.search(r"\s", words[0]) and not shutil.which(words[0]):
            return ["bash", "-o", "pipefail", "-c", words[0]]
        if OPERATORS.isdisjoint(words):
            return words
        line = " ".join(w if w in OPERATORS else shlex.quote(w) for w in words)
        return ["bash", "-o", "pipefail", "-c", line]


def words_of_user(argv):
    """Counts the words that come from the user: those that cmd.sh writes after the dispatcher. The running step proposes
    the others (utils/step.sh passes on its --cmd). Without a step all words are the user's."""
    words = os.environ.get("SVQ_STEP_CMD", "").split()[1:]
    return len(words) if os.environ.get("SVQ_STEP_CMD") and argv[:len(words)] == words else len(argv)


def parse_options(argv, doc):
    """Parses the options: gives them, the names of those that the user gave, and the words that follow. Options of the
    user win over those that a step proposes."""
    said, proposed, rest, of_user = {}, {}, list(argv), words_of_user(argv)
    while rest and rest[0].startswith("-"):
        options = said if len(argv) - len(rest) < of_user else proposed
        name, equals, value = rest.pop(0).partition("=")
        if name in ("--help", "-h"):
            print(doc.strip())
            sys.exit(0)
        key = name[2:].replace("_", "-")
        if not name.startswith("--") or key not in COUNTS and key not in TEXTS:
            raise UsageError("unknown option %s (--help lists them)" % name)
        if not equals:
            if not rest or rest[0].startswith("--") and key != "sbatch-options":
                raise UsageError("%s needs a value" % name)
            value = rest.pop(0)
        if key in COUNTS:
            if not re.fullmatch("0|[1-9][0-9]{0,8}", value) or int(value) < COUNTS[key]:
                raise UsageError("%s takes a number from %d, not '%s'" % (name, COUNTS[key], value))
            value = int(value)
        elif not value:
            raise UsageError("%s needs a value" % name)
        options[key] = value
    return {**proposed, **said}, set(said), rest


def parse(argv, doc):
    """Makes a Request of a command line; UsageError where it is wrong. ``--help`` prints ``doc``."""
    options, said, rest = parse_options(argv, doc)
    variable, jobs = None, [None]
    if rest and (match := re.fullmatch(r"([A-Za-z_]\w*)=(\d{1,9})(?::(\d{1,9}))?", rest[0])):
        rest.pop(0)
        variable, first = match[1], int(match[2])
        jobs = list(range(first, int(match[3] or first) + 1))
        if not jobs:
            raise UsageError("%s: the range of jobs is empty" % match[0])
    if len(rest) < 2:
        raise UsageError("no command: after the options come [JOB=1:4] LOG COMMAND ARGUMENTS...")
    log, command = rest[0], rest[1:]
    if len(jobs) > 1 and variable not in log:
        raise UsageError("%d jobs would write the one log %s: put %s into its name"
                         % (len(jobs), log, variable))
    return Request(options, said, variable, jobs, log, command)


def queue_folders(request):
    """Gives the folder that holds the folders of this work on a cluster, and the prefix of their names: q/x.JOB.* beside
    the logs x.JOB.log."""
    first = os.path.abspath(request.log_of(request.jobs[0]))
    name = os.path.basename(request.log).removesuffix(".log") or "job"
    return os.path.join(os.path.dirname(first), "q"), name + "."


def end_orphans(program, request):
    """Cancels the jobs that an earlier start of the same work has left on a cluster, and removes their folders."""
    parent, prefix = queue_folders(request)
    if not os.path.isdir(parent):
        return
    import slurm_queue
    for name in sorted(os.listdir(parent)):
        if name.startswith(prefix) and "." not in name[len(prefix):]:
            folder = os.path.join(parent, name)
            if not os.path.exists(os.path.join(folder, "ended")):
                try:
                    slurm_queue.end_orphan(folder, program)
                except slurm_queue.SlurmError as e:
                    raise UsageError(str(e)) from None
            shutil.rmtree(folder, ignore_errors=True)


def last_lines(path, count=10):
    """Reads the last lines of a log, as a list; empty where it cannot be read."""
    try:
        with open(path, "rb") as f:
            f.seek(max(0, os.path.getsize(path) - 16384))
            return f.read().decode("utf-8", "replace").splitlines()[-count:]
    except OSError:
        return []


def report_os_error(program, error):
    """Says in one line which file failed, why, and what mends it."""
    name = "" if error.filename is None else "%s: " % error.filename
    mend = "; free some space or write elsewhere, then run it again" if error.errno == errno.ENOSPC else ""
    print("%s: %s%s%s" % (program, name, error.strerror or error, mend), file=sys.stderr)


def report_failures(program, request, failed, not_started=0):
    """Names each failed job, its log and the last lines of that. ``failed``: {job: why}."""
    total = len(request.jobs)
    for job, why in sorted(failed.items(), key=lambda item: item[0] or 0):
        log = request.log_of(job)
        name = "the job" if job is None else "job %d of %s" % (job, request.jobs[-1])
        print("%s: %s failed (%s); log: %s" % (program, name, why, log), file=sys.stderr)
        for line in last_lines(log):
            print("    " + line, file=sys.stderr)
    if total > 1:
        print("%s: %d of %d jobs failed%s" % (
            program, len(failed), total,
            ", %d were not started after that" % not_started if not_started else ""), file=sys.stderr)
