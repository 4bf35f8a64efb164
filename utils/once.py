#!/usr/bin/env python3
"""Run a command unless what it makes is there, made by this very command from these very inputs.

  once.py [--in PATH ...] [--maybe PATH ...] [--config FILE[:ROW] ...] --out PATH ... [--neutral OPTION ...]
          [--said WORD ...] [--dry-run] [--force] -- command arguments...
  once.py [inputs of all] --piece NAME [inputs] --out PATH ... --piece NAME ... -- command arguments...

A stamp, written only after the command has exited with 0 and all outputs exist, holds the command
line, a digest of every input and the size of every output. When they are the same the next time the command is skipped; when
not, one line says what has changed and it is run again. The stamp is removed before the command
starts, so a command killed at any instant is run again.

  --in PATH           file, or Kaldi data directory (its files at the top, no hidden ones, none of the outputs);
                      a missing one is an error
  --maybe PATH        the same, where it is there
  --config FILE[:ROW] settings: a YAML with the files that it builds on and, of the tables of rows that it names,
                      the lines of ROW alone (config_text.py)
  --feats PATH        an input where these settings say `input: feats`
  --levels DIR        of a teacher's cached levels those that these settings name (`levels: [...]`)
  --speech DIR        data directory whose utterances are read: utt2spk, feats.scp and wav.scp where there are such
  --out PATH          file or directory that the command makes
  --title TEXT        what the work is called; default: the first output
  --stamp FILE        default: .done.NAME beside the first output
  --neutral OPTION    an option of the command that says how, not what: its value may change without
                      anything being redone. Always so: --cmd --nj --num-threads --num-workers
                      --max-jobs-run --mem --threads
  --said WORD         what the stamp says in place of the command line (utils/step.sh: script, options, arguments)
  --piece NAME        begins a part of the work with inputs, outputs and a stamp of its own; the command is run for
                      the pieces that are not up to date, whose names are in its environment as SVQ_PIECES
  --dry-run           say what would be done; touch nothing
  --force             run it in any case
Contents are read again only where size or times differ from those in the stamp.
Exit status: 0, 1 when the command failed, or an input is missing, 2 for a wrong command line.

What run.sh tells by the environment (utils/stages.sh): SVQ_TELL=1 (exit status 10 where something was made, 3 where an input is
missing),
SVQ_DRY_RUN=1, SVQ_FORCE=1, SVQ_PARENT_PID, SVQ_MISSING (file that takes the path of a missing
input). A dry run of run.sh collects its calls in a file, and `once.py --plan FILE` answers them all.
"""
# run.sh calls this for every piece of work, so it must start in milliseconds: no argparse, no json,
# and nothing that only a command which is really run needs.

import os
import sys
import time

try:
    from _blake2 import blake2b
except ImportError:
    from hashlib import blake2b

NEUTRAL = {"cmd", "nj", "num-threads", "num-workers", "max-jobs-run", "mem", "threads"}
HEADER = "svq stamp 2"
OF_RUN = ("SVQ_TELL", "SVQ_DRY_RUN", "SVQ_FORCE", "SVQ_PARENT_PID", "SVQ_REQUESTS", "SVQ_MISSING")
# A file changed again within the clock's grain keeps its time and perhaps its size: times this
# recent are not trusted and the content is read once more the next time (as git does).
RACY_NS = 2_000_000_000


class Stop(Exception):
    """Carries (exit status, message)."""


def say(text, fd=1):
    os.write(fd, os.fsencode(text + "\n"))


class Piece:
    """A part of the work: its inputs, outputs and stamp."""

    def __init__(self, name=""):
        self.name, self.stamp_path, self.title = name, None, None
        self.paths, self.maybe, self.configs, self.feats, self.levels, self.outputs = [], [], [], [], [], []

    def add(self, option, value):
        lists = {"in": self.paths, "maybe": self.maybe, "config": self.configs, "feats": self.feats,
                 "levels": self.levels, "out": self.outputs}
        if option in ("stamp", "title"):
            setattr(self, "stamp_path" if option == "stamp" else "title", value)
        elif option == "speech":
            self.paths.append(os.path.join(value, "utt2spk"))
            self.maybe += [os.path.join(value, "feats.scp"), os.path.join(value, "wav.scp")]
        else:
            lists[option].append(value.rstrip("/") or value if option == "out" else value)

    def inherit(self, common):
        """Take what stands before the first --piece, too."""
        for mine, theirs in ((self.paths, common.paths), (self.maybe, common.maybe),
                             (self.levels, common.levels), (self.configs, common.configs), (self.feats, common.feats)):
            mine[:0] = theirs

    def resolve(self, planned):
        """Name work and stamp, and put settings and what is there, or will be, of --maybe and --feats among the inputs."""
        self.texts = {}
        self.title = self.title or self.outputs[0]
        for config in self.configs:
            files, rows = config_text().parts(config)
            self.paths += files
            self.texts.update(rows)
        self.paths += [p for p in self.maybe if os.path.exists(p) or within(p, planned)]
        if self.feats and any(config_text().reads_features(config) for config in self.configs):
            self.paths += self.feats
        for folder in self.levels:
            for config in self.configs:
                self.paths += [os.path.join(folder, level.replace(":", "-") + ".json")
                               for level in config_text().levels(config)]
        self.stamp_path = self.stamp_path or os.path.join(
            os.path.dirname(self.outputs[0]), ".done." + os.path.basename(self.outputs[0]))


def config_text():
    folder = os.path.dirname(os.path.abspath(__file__))
    if folder not in sys.path:
        sys.path.insert(0, folder)
    import config_text
    return config_text


def parse(argv):
    """Options of the whole, the pieces of work, the command."""
    opts = {"neutral": [], "said": [], "dry-run": bool(os.environ.get("SVQ_DRY_RUN")),
            "force": bool(os.environ.get("SVQ_FORCE")), "tell": bool(os.environ.get("SVQ_TELL"))}
    common = Piece()
    pieces, piece, i = [], common, 0
    while i < len(argv) and argv[i] != "--":
        name, equals, value = argv[i].partition("=")
        key = name[2:].replace("_", "-")
        if name == "--help":
            print(__doc__.strip())
            raise Stop(0, "")
        if not name.startswith("--") or key not in (
                *opts, "in", "maybe", "config", "feats", "levels", "speech", "out", "title", "stamp", "piece"):
            raise Stop(2, "once.py: unknown option %s (the command follows after --)" % name)
        if isinstance(opts.get(key), bool):
            opts[key] = True
            i += 1
            continue
        if not equals:
            i += 1
            value = argv[i] if i < len(argv) else "--"
        if (not value and key != "said") or value == "--":
            raise Stop(2, "once.py: %s needs a value" % name)
        if key == "piece":
            piece = Piece(value)
            pieces.append(piece)
        elif key in opts:
            opts[key].append(value)
        else:
            piece.add(key, value)
        i += 1
    command = argv[i + 1:]
    if not command:
        raise Stop(2, "once.py: no command; it follows after --")
    for piece in pieces:
        piece.inherit(common)
    for piece in pieces or [common]:
        if not piece.outputs:
            raise Stop(2, "once.py: no --out; what does %s make?" % command[0])
    return opts, pieces or [common], command


def essential(command, neutral):
    """The command line without its neutral options and their values."""
    kept, skip = command[:1], False
    for word in command[1:]:
        if skip:
            skip = False
            continue
        name, equals, _ = word.partition("=")
        if name.startswith("--") and name[2:].replace("_", "-") in neutral:
            skip = not equals
            continue
        kept.append(word)
    return kept


def state_of(path):
    s = os.stat(path)
    return (s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_ino)


def content_digest(path):
    digest = blake2b(digest_size=16)
    with open(path, "rb", buffering=0) as f:
        while True:
            block = f.read(1 << 20)
            if not block:
                return digest.hexdigest()
            digest.update(block)


def input_files(paths, outputs):
    """The files that are read, each once, in a fixed order."""
    made = {os.path.abspath(p) for p in outputs}
    files = {}
    for path in paths:
        if os.path.isdir(path):
            for name in sorted(os.listdir(path)):
                full = os.path.join(path, name)
                if not name.startswith(".") and os.path.isfile(full) \
                        and os.path.abspath(full) not in made:
                    files[full] = None
        else:
            files[path] = None
    return list(files)


def digest_inputs(files, known, texts={}):
    """path -> (state, digest); ``known``, the stamp's, spares reading what has not been touched. ``texts``: name ->
    what else goes in, such as a row of a table."""
    result = {name: ((0, 0, 0, 0), blake2b(text.encode("utf-8", "surrogateescape"), digest_size=16).hexdigest())
              for name, text in texts.items()}
    for path in files:
        state = state_of(path)
        old = known.get(path)
        result[path] = (state, old[1] if old and old[0] == state else content_digest(path))
    return result


# --- the stamp: lines of fields between tabs ---

def escape(text):
    return text.replace("\\", "\\\\").replace("\t", "\\t").replace("\n", "\\n")


def unescape(text):
    if "\\" not in text:
        return text
    out, chars = [], iter(text)
    for c in chars:
        out.append({"t": "\t", "n": "\n"}.get(c2, c2) if c == "\\" and (c2 := next(chars, "")) else c)
    return "".join(out)


def read_stamp(path):
    """{"arg": [...], "in": {path: (state, digest)}, ...}, or None where there is no whole stamp."""
    try:
        with open(path, encoding="utf-8", errors="surrogateescape", newline="\n") as f:
            lines = f.read().split("\n")
    except OSError:
        return None
    if lines[0] != HEADER or lines[-2:] != ["end", ""]:
        return None
    stamp = {"arg": [], "in": {}, "out": {}, "started": "", "ended": ""}
    try:
        for line in lines[1:-2]:
            kind, *fields = line.split("\t")
            if kind == "arg":
                stamp["arg"].append(unescape(fields[0]))
            elif kind == "in":
                stamp["in"][unescape(fields[0])] = (tuple(map(int, fields[1:5])), fields[5])
            elif kind == "out":
                stamp["out"][unescape(fields[0])] = int(fields[1])
            else:
                stamp[kind] = fields[0]
    except (ValueError, IndexError):
        return None
    return stamp


def sizes_of(outputs):
    """path -> bytes of the outputs that are files."""
    return {p: os.path.getsize(p) for p in outputs if os.path.isfile(p)}


def write_stamp(path, args, inputs, started, ended, read_at, sizes={}):
    lines = [HEADER, "started\t" + started, "ended\t" + ended]
    lines += ["arg\t" + escape(a) for a in args]
    lines += ["out\t%s\t%d" % (escape(p), size) for p, size in sizes.items()]
    for name, (state, digest) in inputs.items():
        size, mtime, ctime, inode = state
        if any(state) and max(mtime, ctime) > read_at - RACY_NS:
            inode = -1                                # matches no file: to be read again
        lines.append("in\t%s\t%d\t%d\t%d\t%d\t%s" % (escape(name), size, mtime, ctime, inode, digest))
    temporary = "%s.tmp%d" % (path, os.getpid())
    try:
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
        with open(temporary, "w", encoding="utf-8", errors="surrogateescape", newline="\n") as f:
            f.write("\n".join(lines + ["end", ""]))
            f.flush()
            os.fsync(f.fileno())
        os.replace(temporary, path)
    except BaseException:
        if os.path.exists(temporary):
            os.unlink(temporary)
        raise


# --- why a command has to be run ---

def changed_words(old, new):
    if len(old) == len(new):
        i = next(i for i, (a, b) in enumerate(zip(old, new)) if a != b)
        name, equals, value = new[i].partition("=")
        if equals and name.startswith("--") and old[i].startswith(name + "="):
            return "%s: '%s' -> '%s'" % (name, old[i][len(name) + 1:], value)
        option = new[i - 1] if i and new[i - 1].startswith("-") else "argument %d" % i
        return "%s: '%s' -> '%s'" % (option, old[i], new[i])
    more = [w for w in new if w not in old]
    less = [w for w in old if w not in new]
    return "command line changed:%s%s" % (" now with " + " ".join(more) if more else "",
                                          " now without " + " ".join(less) if less else "")


def reason(stamp, args, inputs, outputs):
    """Why the command must be run, in a few words; None where all is up to date."""
    missing = [p for p in outputs if not os.path.exists(p)]
    if missing:
        return "%s is not there yet" % missing[0]
    if stamp is None:
        return "not finished before"
    if stamp["arg"] != args:
        return changed_words(stamp["arg"], args)
    for path, size in sizes_of(outputs).items():
        if stamp["out"].get(path, size) != size:
            return "%s has %d bytes where it was made with %d" % (path, size, stamp["out"][path])
    old = stamp["in"]
    changed = [p + " changed" for p in inputs if p in old and old[p][1] != inputs[p][1]]
    changed += [p + " is new" for p in inputs if p not in old]
    changed += [p + " is gone" for p in old if p not in inputs]
    if changed:
        return ", ".join(changed[:3]) + (" and %d more" % (len(changed) - 3) if changed[3:] else "")
    return None


# --- running ---

def run(command):
    """Run the command, which dies with this process and this with its parent; its exit status."""
    import signal
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
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


def within(path, planned):
    """True where path, a folder of it, or something inside it is among the planned outputs."""
    path = os.path.abspath(path)
    return any(p == path or path.startswith(p + "/") or p.startswith(path + "/") for p in planned)


class Plan:
    """What a dry run would make, in order: (stage, script, absolute path), and whether it is made anew."""

    def __init__(self):
        self.rows, self.made = [], []

    def add(self, stage, script, outputs, anew):
        paths = [os.path.abspath(p) for p in outputs]
        self.rows += [(stage, script, p) for p in paths]
        if anew:
            self.made += paths

    def maker_of(self, missing):
        """Which stage makes a path, as a line; None where none does."""
        for stage, script, path in self.rows:
            if script and within(missing, [path]):
                return "stage %s makes it (%s): go on with --stage %s" % (stage, script, stage)
        return None


def answer_all(requests, missing=None):
    """Answer the collected calls of a dry run: what would be made, stage by stage. With ``missing``, a path, only say
    which stage makes that. Returns (to make, up to date). Where an input is missing, its stage is noted beside the file."""
    with open(requests, encoding="utf-8", errors="surrogateescape", newline="\n") as file:
        calls = file.read().split("\0\x1e\0")
    plan, stage, counts = Plan(), "", [0, 0]
    for call in calls[:-1]:
        kind, *words = call.split("\0")
        if kind == "stage":
            stage = words[0]
            if missing is None:
                say("stage %s: %s" % tuple(words))
        elif kind == "need":
            if missing is None:
                say("  %s is missing: %s" % tuple(words))
            plan.add(stage, "", [os.path.dirname(words[0])], True)
        else:
            try:
                stale = answer(words, plan, stage, quiet=missing is not None)
                counts[0 if stale else 1] += 1
            except Stop as stop:
                if missing is None:
                    with open(requests + ".stage", "w") as file:
                        file.write(stage)
                    raise Stop(*stop.args) from None
    if missing is not None:
        maker = plan.maker_of(missing)
        if maker is None:
            raise Stop(1, "")
        say(maker)
    return counts


def require_inputs(piece, planned, script):
    """The inputs that a dry run would make before; Stop where another one is missing."""
    awaited = [p for p in piece.paths if within(p, planned)]
    for path in piece.paths:
        if not os.path.exists(path) and path not in awaited:
            if os.environ.get("SVQ_MISSING"):
                with open(os.environ["SVQ_MISSING"], "w", encoding="utf-8", errors="surrogateescape") as file:
                    file.write(os.path.abspath(path))
            raise Stop(3 if os.environ.get("SVQ_TELL") else 1, "%s: %s is missing" % (script, path))
    return awaited


def consider(piece, args, opts, planned, script):
    """Why the piece is to be made, or None; its inputs' digests are kept in it."""
    awaited = require_inputs(piece, planned, script)
    piece.read_at = time.time_ns()
    piece.digests, piece.args = {}, args
    if awaited:
        return "%s is made again before" % awaited[0]
    piece.stamp = read_stamp(piece.stamp_path)
    known = piece.stamp["in"] if piece.stamp else {}
    piece.digests = digest_inputs(input_files(piece.paths, piece.outputs), known, piece.texts)
    why = "forced" if opts["force"] else reason(piece.stamp, args, piece.digests, piece.outputs)
    if why is None and piece.digests != known and not opts["dry-run"]:   # read again and found the same: say so
        write_stamp(piece.stamp_path, args, piece.digests, piece.stamp["started"], piece.stamp["ended"], piece.read_at,
                    piece.stamp["out"])
    return why


def make(pieces, command, script):
    """Run the command for these pieces, and leave their stamps."""
    started = time.strftime("%Y-%m-%dT%H:%M:%S")
    for piece in pieces:
        if os.path.exists(piece.stamp_path):
            os.unlink(piece.stamp_path)
    os.environ["SVQ_PIECES"] = " ".join(piece.name for piece in pieces)
    code = run(command)
    if code != 0:
        raise Stop(1, "once.py: %s failed (code %d)" % (script if script != command[0] else " ".join(command[:2]), code))
    for piece in pieces:
        for path in piece.outputs:
            if not os.path.exists(path):
                raise Stop(1, "once.py: %s ended well but did not make %s" % (script, path))
        after = {p: state_of(p) for p in piece.digests if os.path.exists(p)}
        for path, (state, digest) in piece.digests.items():
            if path not in piece.texts and after.get(path) != state and (
                    path not in after or content_digest(path) != digest):
                say("once.py: warning: %s changed while %s was running: it will be run again the next "
                    "time. If the command itself writes it, name it with --out" % (path, script), 2)
        write_stamp(piece.stamp_path, piece.args, piece.digests, started, time.strftime("%Y-%m-%dT%H:%M:%S"),
                    piece.read_at, sizes_of(piece.outputs))


def answer(argv, plan, stage="", quiet=False):
    """Say what a call would make, and note it in the plan; returns whether there is anything."""
    opts, pieces, command, script, args = understood(argv, plan.made)
    stale = []
    for piece in pieces:
        why = consider(piece, args + ([piece.name] if piece.name else []), dict(opts, **{"dry-run": True}), plan.made, script)
        plan.add(stage, script, piece.outputs, why is not None)
        stale += [(piece, why)] if why is not None else []
        if quiet:
            continue
        if why is None:
            say("  skip %s (up to date)" % piece.title)
        else:
            say("  would make %s (%s): %s" % (piece.title, why, " ".join(shown(command))))
    return bool(stale)


def understood(argv, planned=()):
    """Options, pieces with all their inputs, the command, its name, and what the stamp says of it."""
    opts, pieces, command = parse(argv)
    script = opts["said"][0] if opts["said"] else shown(command)[0]
    if command[:2] == ["python3", "-m"]:
        script = command[2]
    neutral = NEUTRAL | {n.lstrip("-").replace("_", "-") for n in opts["neutral"]}
    for piece in pieces:
        piece.resolve(planned)
    return opts, pieces, command, script, essential(opts["said"] or command, neutral)


def main(argv):
    if argv[:1] == ["--plan"]:
        made, skipped = answer_all(*argv[1:])
        if len(argv) == 2:
            say("dry run: %d to make, %d up to date; nothing was touched" % (made, skipped))
        return 0
    opts, pieces, command, script, args = understood(argv)
    if opts["dry-run"]:
        return 10 if answer(argv, Plan()) and opts["tell"] else 0
    stale, why = [], {}
    for piece in pieces:
        why[piece] = consider(piece, args + ([piece.name] if piece.name else []), opts, (), script)
        if why[piece] is None:
            say("  skip %s (up to date)" % piece.title)
        else:
            stale.append(piece)
    if stale:
        for piece in stale:
            say("  make %s (%s)" % (piece.title, why[piece]))
        began = time.monotonic()
        make(stale, command, script)
        more = " and %d more" % (len(stale) - 1) if stale[1:] else ""
        say("  made %s%s in %.0f s" % (stale[0].title, more, time.monotonic() - began))
    return 10 if stale and opts["tell"] else 0


def shown(command):
    """The command as it is typed: `bash steps/x.sh` is steps/x.sh."""
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
        say("once.py: %s: %s" % (error.filename, error.strerror), 2)
        sys.exit(1)
