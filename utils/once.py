#!/usr/bin/env python3
"""Runs a command, unless its outputs are there already, made by this very command from these very inputs.

  once.py [--in PATH ...] [--maybe PATH ...] [--config FILE[:ROW] ...] --out PATH ... [--neutral OPTION ...]
          [--said WORD ...] [--dear] [--dry-run] [--force] -- command arguments...
  once.py [inputs of all] --piece NAME [inputs] --out PATH ... --piece NAME ... -- command arguments...

A stamp holds the command line, a digest of every input, the size of every output and a digest of the code that the
command runs (code_text.py). It is written only after the command has exited with 0 and all outputs exist. If all this is
the same the next time, the command is skipped; if not, one line says what has changed, and the command runs again. The
stamp is removed before the command starts, so a command killed at any instant runs again.

  --in PATH           file, or Kaldi data directory (its files at the top, no hidden ones, none of the outputs);
                      a missing one is an error
  --maybe PATH        the same, if it is there
  --config FILE[:ROW] settings: a YAML file, the files that it builds on and, of the tables of rows that it names, only
                      the lines of ROW (config_text.py)
  --levels DIR        cached levels of a teacher; those count that the settings name (`levels: [...]`)
  --speech DIR        data directory whose utterances are read: utt2spk, wav.scp if it is there, and either feats.scp with
                      its archives, or segments, channels and the recordings that wav.scp names
  --reads WHAT        which of the two: auto (features if there are some), feats, wav, or settings (features if the
                      settings say `input: feats`); default: auto
  --recordings FILE   wav.scp whose recordings are read
  --noise DIR         data directory of noise or rooms, read if the settings have `augment`
  --out PATH          file or directory that the command makes
  --also PATH         file that the command may also make, which must then stay as it is; or folder whose files at the
                      top, such as the figures of a page, must then stay there
  --title TEXT        name of the work; default: the first output
  --stamp FILE        default: .done.NAME beside the first output
  --neutral OPTION    an option of the command that says how, not what: if its value changes, nothing
                      is redone. Always neutral are --cmd --nj --num-threads --num-workers
                      --max-jobs-run --mem --threads
  --said WORD         a word for the stamp, in place of the command line (utils/step.sh: script, options, arguments)
  --piece NAME        begins a part of the work with its own inputs, outputs and stamp. The command runs for the
                      pieces that are not up to date; its environment names them in SVQ_PIECES
  --dear              work of hours or days, or an input of such work: if only its code has changed it is
                      kept, and its line says so; other work is then done again
  --dry-run           say what would be done; touch nothing
  --force             run the command in any case
Contents are read again only if size or times differ from those in the stamp. Of recordings and archives only names,
sizes and times count; of a list of more than 2 MB, 20,000 lines evenly spread.
Exit status: 0; 1 if the command failed or an input is missing; 2 for a wrong command line.

run.sh sets these variables (utils/stages.sh): SVQ_TELL=1 (exit with 10 if something was made, with 3 if an input is
missing), SVQ_DRY_RUN=1, SVQ_FORCE=1, SVQ_PARENT_PID, SVQ_MISSING (file for the path of a missing input), SVQ_OWNER
(folder of the experiment; work outside of it is shared, and another experiment with other settings is refused).
The command gets these: SVQ_PIECES; SVQ_INPUTS, a digest of the recordings and archives and, unless the work is dear, of
the code (if it is the same, the command goes on from what a killed run left); SVQ_ANEW=1 if the command must begin anew:
with --force, if recordings or archives have changed, or after clean.sh.
A dry run of run.sh collects its calls in a file, and `once.py --plan FILE` answers them all.
"""
# run.sh calls this for every piece of work, so it must start in milliseconds: no argparse, no json,
# and no imports that only a real run of a command needs.

import os
import sys
import time

# -I leaves this folder out.
HERE = os.path.dirname(os.path.realpath(__file__))
if HERE not in sys.path:
    sys.path.insert(0, HERE)

import at_work
import cleaned
from code_text import Code
from listed import Gone, forget
from pieces import NEUTRAL, Stop, essential, parse, within
from stamps import (NEEDED, changed_while, changed_words, read_stamp, reason, seconds_of, sizes_of, text_digest,
                    write_stamp)

OF_RUN = ("SVQ_TELL", "SVQ_RUN", "SVQ_DRY_RUN", "SVQ_FORCE", "SVQ_PARENT_PID", "SVQ_REQUESTS", "SVQ_MISSING", "SVQ_OWNER")


def say(text, fd=1):
    os.write(fd, os.fsencode(text + "\n"))


# --- running ---

def run(command):
    """Runs the command and gives its exit status. The command dies with this process, and this process with its parent."""
    import signal
    import guard
    parent = os.environ.pop("SVQ_PARENT_PID", "")
    for name in OF_RUN:
        os.environ.pop(name, None)

    def stop(number, frame):
        guard.stop(pids)
        os._exit(128 + number)

    pids = []
    caught = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    signal.pthread_sigmask(signal.SIG_BLOCK, caught)
    for number in caught:
        signal.signal(number, stop)
    guard.die_with_parent(int(parent) if parent.isdigit() else None)
    pids.append(guard.start(command))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, caught)
    status = os.waitpid(pids[0], 0)[1]
    pids.clear()
    if os.WIFSIGNALED(status):
        guard.sweep()
    return os.waitstatus_to_exitcode(status)


def require_inputs(piece, planned, script):
    """Lists the inputs that a dry run would make before this piece; Stop where any other is missing."""
    awaited = [p for p in piece.paths if within(p, planned)]
    for path in piece.paths:
        if not os.path.exists(path) and path not in awaited and not cleaned.find(path):
            raise missing_input(script, path)
    return awaited


def missing_input(script, path, named_by="", why="is missing"):
    """Makes a Stop that says which input is missing; notes for run.sh what has to be made: ``path``, or the list
    ``named_by`` that points into that archive."""
    made = named_by or path
    tell = os.environ.get("SVQ_TELL") and (not named_by or path.endswith(".ark"))
    if tell and os.environ.get("SVQ_MISSING"):
        with open(os.environ["SVQ_MISSING"], "w", encoding="utf-8", errors="surrogateescape") as file:
            file.write(os.path.abspath(made))
    return Stop(3 if tell else 1, "%s: %s %s%s" % (script, path, why, named_by and ", which %s names" % named_by))


def consider(piece, args, opts, planned, script):
    """Says why the piece is to be made, or None; keeps the digests of its inputs in it. Stop where it is to be made now and
    reads a file that clean.py has removed."""
    why = reason_to_make(piece, args, opts, planned, script)
    if why is not None and not opts["dry-run"]:
        for path in piece.cleaned_inputs():
            raise missing_input(script, path, why="was cleaned and is needed: its step has to make it again")
    return why


def reason_to_make(piece, args, opts, planned, script):
    awaited = require_inputs(piece, planned, script)
    piece.read_at, piece.args, piece.digests = time.time_ns(), args, {}
    if awaited:
        piece.stamp = read_stamp(piece.stamp_path)
        return "%s is made again before" % awaited[0]
    try:
        piece.digest()
    except Gone as gone:
        raise missing_input(script, gone.args[0], gone.args[1]) from None
    if opts["force"]:
        return "forced"
    # A user who calls a step wants its outputs; a run makes cleaned files again only where work needs them.
    why = reason(piece.stamp, args, piece.digests, piece.outputs, cleaned.find if opts["tell"] else None)
    if why is None and piece.stamp["code"] != opts["code"]:
        if not opts["dear"]:
            return "its code has changed"
        piece.note = "made by other code than now; --force redoes it"
    if why is None and any(cleaned.find(path) for path in piece.stamp["out"]):
        piece.note = "up to date, though cleaned: made again when it is needed"
    if why is None and piece.digests != piece.stamp["in"] and not opts["dry-run"]:   # contents were read again and are the same
        write_stamp(piece.stamp_path, args, piece.digests, piece.stamp["out"], piece.stamp, piece.read_at)
    if why is not None:
        refuse_to_overwrite(piece, script)
    return why


def refuse_to_overwrite(piece, script):
    """Refuses, by Stop, to make a shared piece that is there, made for another experiment with other settings."""
    owner = os.environ.get("SVQ_OWNER", "")
    if not piece.shared(owner) or not piece.stamp or piece.stamp["arg"] == piece.args or piece.damaged():
        return
    other = piece.stamp["owner"]
    if other and other != owner and os.path.isdir(other):
        raise Stop(1, "%s: %s was made for %s with other settings (%s): give this experiment a folder of its own for it, "
                      "or make it anew for both with --force"
                   % (script, piece.title, other, changed_words(piece.stamp["arg"], piece.args)))


def make(pieces, command, script, opts):
    """Runs the command for these pieces and writes their stamps; Stop where it fails or an output is missing."""
    started = time.strftime("%Y-%m-%dT%H:%M:%S")
    mark = opts["mark"]
    at_work.begin(mark, " ".join(shown(command)[:1]), [(piece.title, piece.stamp_path) for piece in pieces], took(pieces))
    for piece in pieces:
        piece.clear()
    owner = os.environ.get("SVQ_OWNER", "")
    listed = [text for piece in pieces for text in piece.behind_lists()]
    os.environ["SVQ_PIECES"] = " ".join(piece.name for piece in pieces)
    os.environ["SVQ_INPUTS"] = text_digest(" ".join([*listed, *([] if opts["dear"] else [opts["code"]])]))
    os.environ["SVQ_ANEW"] = "1" if opts["force"] or any(piece.begins_anew() for piece in pieces) else ""
    os.environ["SVQ_AT_WORK"] = mark
    status = run(command)
    if status != 0:
        at_work.fail(mark, "code %d" % status)
        raise Stop(1, "once.py: %s failed (code %d)" % (
            script if script != command[0] else " ".join(command[:2]), status))
    where = at_work.where(mark)
    for piece in pieces:
        for path in piece.outputs:
            if not os.path.exists(path):
                at_work.fail(mark, "did not make " + path)
                raise Stop(1, "once.py: %s ended well but did not make %s" % (script, path))
        cleaned.restore_times(piece.made())
        for path in changed_while(piece.digests):
            say("once.py: warning: %s changed while %s was running: it will be run again the next "
                "time. If the command itself writes it, name it with --out" % (path, script), 2)
        notes = {"started": started, "ended": time.strftime("%Y-%m-%dT%H:%M:%S"), "code": opts["code"],
                 "owner": owner if piece.shared(owner) else "", **where}
        write_stamp(piece.stamp_path, piece.args, piece.digests, sizes_of(piece.made()), notes, piece.read_at)
        cleaned.drop(piece.made())
    at_work.end(mark)


def took(pieces):
    """Adds up the seconds that the pieces took the last time, as far as their stamps tell; None where none does."""
    spans = {(piece.stamp["started"], piece.stamp["ended"]): seconds_of(piece.stamp) for piece in pieces if piece.stamp}
    known = [seconds for seconds in spans.values() if seconds is not None]
    return sum(known) if known else None


def spent(piece):
    """Says how long a piece took the last time, if that was a minute or more; else ""."""
    seconds = took([piece]) or 0
    if seconds < 60:
        return ""
    from log_lines import duration
    return "; it took %s before" % duration(seconds)


def answer(argv, plan, stage=""):
    """Says what a call would make, and notes it in the plan; returns whether there is anything to make."""
    opts, pieces, command, script, args = understood(argv, plan.made)
    stale = []
    for piece in pieces:
        why = consider(piece, args + ([piece.name] if piece.name else []), dict(opts, **{"dry-run": True}), plan.made, script)
        if why is not None:
            plan.wanted += piece.cleaned_inputs(plan.made)
            stale.append(piece)
        plan.add(stage, script, piece.outputs, why is not None and not why.endswith(NEEDED))
        if why is None:
            plan.say("  skip %s (%s)" % (piece.title, piece.note or "up to date"))
        else:
            plan.say("  would make %s (%s): %s" % (piece.title, why, " ".join(shown(command))))
    plan.seconds += took(stale) or 0
    return bool(stale)


_codes = []


def code_of(command):
    """Digests the code that a command runs; keeps the digests of files for the next command."""
    if not _codes:
        _codes.append(Code(os.path.dirname(HERE)))
    digest = _codes[0].digest(command)
    _codes[0].keep()
    return digest


def understood(argv, planned=()):
    """Parses a call: options, pieces with all their inputs, the command, its name, and the words for its stamp."""
    opts, pieces, command = parse(argv)
    script = opts["said"][0] if opts["said"] else shown(command)[0]
    if command[:2] == ["python3", "-m"]:
        script = command[2]
    neutral = NEUTRAL | {n.lstrip("-").replace("_", "-") for n in opts["neutral"]}
    for piece in pieces:
        piece.resolve(planned)
    opts["code"] = code_of(command)
    return opts, pieces, command, script, essential(opts["said"] or command, neutral)


def consider_all(pieces, args, opts, script):
    """Lists (piece, why) for the pieces that are to be made; prints a line for each that is not."""
    stale = []
    for piece in pieces:
        why = consider(piece, args + ([piece.name] if piece.name else []), opts, (), script)
        if why is None:
            say("  skip %s (%s)" % (piece.title, piece.note or "up to date"))
        else:
            stale.append((piece, why))
    return stale


def wait_for_others(pieces):
    """Takes the locks of shared pieces, which the processes of the command inherit; says whether another run had one."""
    owner, waited = os.environ.get("SVQ_OWNER", ""), False
    for path in {piece.lock_path: None for piece in pieces if piece.shared(owner)}:
        import fcntl
        try:
            os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
            lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError:               # a folder that cannot be written, such as that of a corpus that is only checked
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("  wait for another run (%s)" % path)
            fcntl.flock(lock, fcntl.LOCK_EX)
            waited = True
    forget()
    return waited


def main(argv):
    if argv[:1] == ["--plan"]:
        from plan import answer_all
        answer_all(answer, *argv[1:])
        return 0
    if "--help" in argv[:argv.index("--") if "--" in argv else None]:
        print(__doc__.strip())
        return 0
    opts, pieces, command, script, args = understood(argv)
    if opts["dry-run"]:
        from plan import Plan
        plan = Plan()
        stale = answer(argv, plan)
        plan.flush()
        return 10 if stale and opts["tell"] else 0
    opts["mark"] = at_work.path_of(os.environ.get("SVQ_OWNER", ""), pieces[0].stamp_path)
    stale = consider_all(pieces, args, opts, script)
    if stale and wait_for_others([piece for piece, _ in stale]):
        stale = consider_all([piece for piece, _ in stale], args, opts, script)
    if not stale:
        at_work.end(opts["mark"])              # remains if a run was killed when only this was left to do
    else:
        for piece, why in stale:
            say("  make %s (%s%s)" % (piece.title, why, spent(piece)))
        began = time.monotonic()
        make([piece for piece, _ in stale], command, script, opts)
        more = " and %d more" % (len(stale) - 1) if stale[1:] else ""
        say("  made %s%s in %.0f s" % (stale[0][0].title, more, time.monotonic() - began))
    return 10 if stale and opts["tell"] else 0


def shown(command):
    """Gives the words of a command as one types it: steps/x.sh for `bash steps/x.sh`."""
    script = command[0] == "bash" and command[1:2] and command[1].endswith(".sh")
    return [word or "''" for word in (command[1:] if script else command)]


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except Stop as stop:
        if stop.args[1]:
            say(stop.args[1], 2)
        sys.exit(stop.args[0])
    except OSError as error:
        import dispatch
        dispatch.report_os_error("once.py", error)
        sys.exit(1)
