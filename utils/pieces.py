"""Reads the command line of once.py into pieces of work: what each reads and makes, and its stamp."""

import os

import cleaned
from listed import digest_of_files, files_behind
from stamps import damaged_output, digest_inputs, input_files, read_stamp, text_digest

READS = ("auto", "feats", "wav", "settings")
LISTED_AS = {"wav": "recordings of %s", "feats": "archives of %s"}
NEUTRAL = {"cmd", "nj", "num-threads", "num-workers", "max-jobs-run", "mem", "threads"}


class Stop(Exception):
    """Carries (exit status, message)."""


class Piece:
    """A part of the work: its inputs, outputs and stamp. The options are those of once.py."""

    lists = {"in": "paths", "maybe": "maybe", "config": "configs", "levels": "levels", "speech": "speech",
             "recordings": "recordings", "noise": "noise", "out": "outputs", "also": "also"}

    def __init__(self, name=""):
        self.name, self.stamp_path, self.title, self.reads, self.note = name, None, None, None, ""
        self.texts, self.listed = {}, {}
        for attribute in self.lists.values():
            setattr(self, attribute, [])

    def add(self, option, value):
        if option in self.lists:
            value = value.rstrip("/") or value if option in ("out", "also") else value
            getattr(self, self.lists[option]).append(value)
        else:
            setattr(self, "stamp_path" if option == "stamp" else option, value)

    def inherit(self, common):
        """Adds the inputs that stand before the first --piece, which belong to all pieces."""
        for attribute in self.lists.values():
            if attribute not in ("outputs", "also"):
                getattr(self, attribute)[:0] = getattr(common, attribute)
        self.reads = self.reads or common.reads

    def resolve(self, planned):
        """Names work and stamp, and finds all inputs that are there, or will be: `planned` are outputs of earlier work."""
        self.title = self.title or self.outputs[0]
        for config in self.configs:
            files, rows = config_text().parts(config)
            self.paths += files
            self.texts.update((name, text_digest(lines)) for name, lines in rows.items())
        for folder in self.speech:
            self._add_speech(folder, planned)
        if self.noise and any(config_text().augments(config) for config in self.configs):
            lists = [os.path.join(folder, "wav.scp") for folder in self.noise]
            self.paths += lists
            self.recordings += lists
        for path in self.recordings:
            self.listed[path] = "wav"
        self.paths += [p for p in self.maybe if there(p, planned)]
        for folder in self.levels:
            for config in self.configs:
                self.paths += [os.path.join(folder, level.replace(":", "-") + ".json")
                               for level in config_text().levels(config)]
        self.stamp_path = self.stamp_path or os.path.join(
            os.path.dirname(self.outputs[0]), ".done." + os.path.basename(self.outputs[0]))

    def _add_speech(self, folder, planned):
        utt2spk, feats, wav = (os.path.join(folder, name) for name in ("utt2spk", "feats.scp", "wav.scp"))
        reads = self.reads or "auto"
        if reads == "settings":
            reads = "feats" if any(config_text().reads_features(config) for config in self.configs) else "wav"
        self.paths.append(utt2spk)
        self.maybe.append(wav)
        if reads == "auto":
            reads = "feats" if there(feats, planned) else "wav"
        if reads == "feats":
            self.paths.append(feats)
        else:
            self.maybe += [os.path.join(folder, name) for name in
                           ("segments", "reco2file_and_channel", "speeds", "shards.index")]
        path = feats if reads == "feats" else wav
        if there(path, planned):
            self.listed[path] = reads

    def digest(self):
        """Reads the stamp and digests the inputs, path -> (state, digest); Gone where a list names a missing file."""
        self.stamp = read_stamp(self.stamp_path)
        known = self.stamp["in"] if self.stamp else {}
        made = [os.path.realpath(path) for path in self.outputs]
        for path, kind in self.listed.items():
            if os.path.realpath(path) not in made:
                self.texts[LISTED_AS[kind] % path] = digest_of_files(path)
        self.digests = digest_inputs(input_files(self.paths, self.outputs), known, self.texts, cleaned.find)

    def cleaned_inputs(self, planned=()):
        """Lists the inputs that clean.py has removed and that no earlier work in `planned` makes again, and the archives
        that lists among the inputs point into. For a teacher's levels the list lies beside their .json."""
        found = [path for path in self.paths if cleaned.find(path)]
        for path in self.paths:
            path = path[:-len(".json")] + ".scp" if path.endswith(".json") else path
            if path.endswith(".scp") and os.path.basename(path) != "wav.scp" and os.path.isfile(path):
                found += [name for name in files_behind(path) if name.endswith(".ark") and cleaned.find(name)]
        return [path for path in dict.fromkeys(found) if not within(path, planned)]

    def behind_lists(self):
        """Lists the digests of the recordings and archives that are read."""
        return [self.texts[name] for name in self._names_behind()]

    def changed_behind_lists(self):
        """Says whether recordings or archives have changed since the last finished run."""
        known = self.stamp["in"] if self.stamp else {}
        return any(name in known and known[name][1] != self.texts[name] for name in self._names_behind())

    def begins_anew(self):
        """Says whether the work must begin anew: its recordings have changed, or its own archives were cleaned."""
        return self.changed_behind_lists() or any(cleaned.find(path) for path in (self.stamp or {"out": ()})["out"])

    def _names_behind(self):
        names = [LISTED_AS[kind] % path for path, kind in self.listed.items()]
        return [name for name in names if name in self.texts]

    def made(self):
        """Lists the outputs that are there, and the archives that lists among them point into."""
        paths = self.outputs + [path for path in self.also if os.path.exists(path)]
        for path in self.outputs:
            if path.endswith(".scp") and os.path.isfile(path):
                paths += [name for name in files_behind(path) if name.endswith(".ark") and os.path.isfile(name)]
        return list(dict.fromkeys(paths))

    def clear(self):
        """Removes the stamp and the half-written files that a killed command left beside the outputs (svq/atomic.py)."""
        if os.path.exists(self.stamp_path):
            os.unlink(self.stamp_path)
        for path in [self.stamp_path, *self.outputs, *self.also]:
            folder, name = os.path.split(path)
            stem, suffix = os.path.splitext(name)
            for other in os.listdir(folder or ".") if os.path.isdir(folder or ".") else []:
                begun = other.startswith(".%s." % stem) and other.endswith(".tmp" + suffix)
                middle = other[len(stem) + 2:-len(".tmp" + suffix)]
                if begun and "." not in middle or other.startswith(name + ".tmp"):
                    os.unlink(os.path.join(folder, other))

    def damaged(self):
        """Says in a few words which output is not as the command left it; None if all are."""
        return damaged_output(self.stamp, self.outputs, cleaned.find)

    @property
    def lock_path(self):
        folder, name = os.path.split(self.outputs[0])
        return os.path.join(folder, ".lock." + name)

    def shared(self, owner):
        """Says whether an output lies outside of the folder of the experiment."""
        return bool(owner) and not all(os.path.abspath(path).startswith(owner + "/") for path in self.outputs)


def config_text():
    """Imports the reader of settings only when there are settings: a start must not wait for it."""
    import config_text
    return config_text


def within(path, planned):
    """Says whether path, a folder above it, or something inside it is among the planned outputs."""
    path = os.path.abspath(path)
    return any(p == path or path.startswith(p + "/") or p.startswith(path + "/") for p in planned)


def there(path, planned):
    """Says whether the path exists, will exist, or has only been cleaned away."""
    return os.path.exists(path) or within(path, planned) or cleaned.find(path) is not None


def parse(argv):
    """Parses a command line: options of the whole, the pieces of work, the command. Stop where it is wrong."""
    opts = {"neutral": [], "said": [], "dear": False, "dry-run": bool(os.environ.get("SVQ_DRY_RUN")),
            "force": bool(os.environ.get("SVQ_FORCE")), "tell": bool(os.environ.get("SVQ_TELL"))}
    common = Piece()
    pieces, piece, i = [], common, 0
    while i < len(argv) and argv[i] != "--":
        name, equals, value = argv[i].partition("=")
        key = name[2:].replace("_", "-")
        if not name.startswith("--") or key not in (*opts, *Piece.lists, "reads", "title", "stamp", "piece"):
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
        if key == "reads" and value not in READS:
            raise Stop(2, "once.py: --reads is one of %s, not '%s'" % (", ".join(READS), value))
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
    """Drops the neutral options and their values from a command line."""
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
