"""Tables of data directories: lines, ids, numbers and commands; each read by several of svq.bin.data_dir's verbs."""

from __future__ import annotations

import os
from pathlib import Path

import soundfile

from svq.bin import copy_wav, data_dir
from svq.data import trials as lists
from svq.data.datadir import DataDir, create
from tests.helpers import run_worker
from tests.inputs.audio_cases import SAMPLES
from tests.inputs.outcome import Case

UTTS = ("a-1", "a-2", "b-1", "b-2")
LONG, WIDE = 256, 1 << 20  # bytes of ids


def directory(folder: Path) -> Path:
    """A sound one of two speakers, with trials."""
    soundfile.write(folder / "x.wav", SAMPLES, 16000, subtype="PCM_16")
    path = create(folder / "data", wav=dict.fromkeys(UTTS, folder / "x.wav"), utt2spk={utt: utt[0] for utt in UTTS},
                  utt2dur=dict.fromkeys(UTTS, 0.3), spk2gender={"a": "f", "b": "m"})
    lists.make_trials(path)
    return path


def changed(name: str, change, *verb, returns=lambda data: None):
    """A run of a verb on a directory of which one file is changed, bytes to bytes (b"" where there is none)."""
    def run(folder):
        data = directory(folder)
        old = data / name
        old.write_bytes(change(old.read_bytes() if old.exists() else b"", folder))
        run_worker(data_dir.main, *(str(data) if word == "DATA" else str(folder / word[1:]) if word[:1] == "@" else word
                                    for word in verb))
        return returns(data)
    return run


VALIDATE = ("validate", "--check-audio", "none", "DATA")
SUBSET = ("subset", "--count", "2", "--how", "first", "DATA", "@out")
SPLIT = ("split", "DATA", "2")
FIX = ("fix", "DATA")


def lines_that_are_none() -> list[Case]:
    kinds = {
        "CR LF": (lambda raw, _: raw.replace(b"\n", b"\r\n"), "CR LF"),
        "a NUL": (lambda raw, _: raw.replace(b"a-2", b"a-\0", 1), "control character"),
        "a blank line": (lambda raw, _: raw.replace(b"\n", b"\n\n", 1), "is blank"),
        "Latin-1": (lambda raw, _: raw.replace(b"a-2", b"a\xe42", 1), "is not UTF-8"),
        "UTF-16": (lambda raw, _: raw.decode().encode("utf-16"), ":1: "),
        "a byte order mark": (lambda raw, _: b"\xef\xbb\xbf" + raw, "begins with a byte order mark"),
        "a blank first": (lambda raw, _: b" " + raw, "begins with white space"),
        "an id alone": (lambda raw, _: raw.partition(b" ")[0] + b"\n" + raw.partition(b"\n")[2], "nothing after it"),
        "an id twice": (lambda raw, _: raw.split(b"\n")[0] + b"\n" + raw, "already on line 1"),
        "256 bytes of id": (lambda raw, _: raw + b"z" * LONG + b" a\n", "id of more than 255 bytes"),
        "1 MB of id": (lambda raw, _: raw * 100 + b"z" * WIDE + b" a\n", "id of more than 255 bytes"),
        "nothing": (lambda raw, _: b"", "empty file"),
        "no text": (lambda raw, _: bytes(range(128, 256)) * 40, "UTF-8"),
    }
    twice = "an id is twice"  # as those say who need them sorted
    return [Case("lines of tables", f"{what} in {name}, {verb[0]}", changed(name, change, *verb),
                 twice if (what, verb) == ("an id twice", SUBSET) else words)
            for what, (change, words) in kinds.items() for name in ("wav.scp", "utt2spk", "utt2dur")
            for verb in (VALIDATE, SUBSET)
            if (what, verb) != ("a byte order mark", SUBSET) or name != "utt2dur"]


def wide_fields() -> list[Case]:
    """One of them must not make a table as wide: 1,000 lines would take a gigabyte."""
    def speakers(raw, _):
        return b"".join(b"a-%d a\n" % i for i in range(1, 5)) + b"b-1 " + b"b" * WIDE + b"\n"

    def model(raw, _):
        return b"a a-1 " + b"x" * WIDE + b"\n"

    return [
        *(Case("one long word", f"1 MB of speaker, {verb[0]}", changed("utt2spk", speakers, *verb),
            "1048576 bytes where an id")
          for verb in (VALIDATE, SUBSET, SPLIT, FIX)),
        Case("one long word", "1 MB of gender", changed("spk2gender", lambda raw, _: b"a " + b"f" * WIDE + b"\nb m\n",
            *VALIDATE),
             "bytes where an id or a number"),
        Case("one long word", "1 MB of seconds", changed("utt2dur", lambda raw, _: raw.replace(b"0.3", b"0" * WIDE, 1),
            *VALIDATE),
             "bytes where an id or a number"),
        Case("one long word", "1 MB of utterance in a trial", changed(
            "trials", lambda raw, _: raw + b"a-1 " + b"z" * WIDE + b" nontarget\n", *VALIDATE), "bytes where an id"),
        Case("one long word", "1 MB of utterance in spk2utt", changed("spk2utt", model, *VALIDATE),
            "is not in utt2spk"),
        Case("one long word", "1 MB of utterance in enroll.spk2utt", changed("enroll.spk2utt", model, *VALIDATE),
             "is not in utt2spk"),
        Case("one long word", "1 MB of id, dropped", changed("utt2spk", lambda raw, _: raw + b"z" * WIDE + b" a\n",
            *FIX,
             returns=lambda data: DataDir(data).utt2spk.keys()), right=lambda made: made == list(UTTS)),
    ]


def numbers() -> list[Case]:
    bad = ("\u0663", "\uff13", "1_0", "nan", "inf", "-inf", "1e999", "0x3", "1,5", "-1", "0", "3 4", "\u00bd", "1e")
    cases = [Case("numbers of tables", f"{text} seconds", changed(
        "utt2dur", lambda raw, _, text=text: raw.replace(b"0.3", text.encode(), 1), *VALIDATE), "utt2dur:1")
        for text in bad]
    good = {"3e-1": 0.3, ".3": 0.3, "+0.3": 0.3, "0000.3": 0.3, "3.": 3.0}
    cases += [Case("numbers of tables", f"{text} seconds", changed(
        "utt2dur", lambda raw, _, text=text: raw.replace(b"0.3", text.encode(), 1), *VALIDATE,
        returns=lambda data: float(DataDir(data).utt2dur.float_array()[0])), right=value.__eq__)
        for text, value in good.items()]

    def parts(text, verb):
        def change(raw, folder):
            return b"".join(b"%s r %s\n" % (utt.encode(), text.encode()) for utt in UTTS)

        def run(folder):
            def more(raw, folder):
                (folder / "data/wav.scp").write_text(f"r {folder}/x.wav\n")
                return change(raw, folder)
            if verb == "copy":
                changed("segments", more, "spk2utt", "DATA/utt2spk".replace("DATA", str(folder / "data")),
                    "@out")(folder)
                run_worker(copy_wav.main, "part", folder / "data", folder / "out.ark")
            else:
                changed("segments", more, *VALIDATE)(folder)
        return run

    spans = ("0 \u0662", "\u0660 0.2", "0 inf", "nan 1", "-0.1 0.2", "0.2 0.1", "0.1 0.1", "0 1_0", "0 0.2 0.3", "0",
        "a b", "0 -2")
    return cases + [Case("numbers of tables", f"a segment from {text}, {verb}", parts(text, verb), "segments:1")
                    for text in spans for verb in ("validate", "copy")]


def names() -> list[Case]:
    """What may stand in wav.scp; the command of each would leave a file."""
    def run(value, allow=None, then=lambda folder: (folder / "made").exists()):
        def work(folder):
            data = directory(folder)
            (data / "wav.scp").write_text("".join(f"{utt} {value.replace('FOLDER', str(folder))}\n" for utt in UTTS))
            old = os.environ.get("SVQ_ALLOW_PIPES")
            try:
                if allow is not None:
                    os.environ["SVQ_ALLOW_PIPES"] = allow
                run_worker(copy_wav.main, "part", data, folder / "out.ark")
            finally:
                os.environ.pop("SVQ_ALLOW_PIPES", None) if old is None else os.environ.update(SVQ_ALLOW_PIPES=old)
                assert allow == "true" or not (folder / "made").exists(), "the command ran"
            return then(folder)
        return work

    pipe, kind = "touch FOLDER/made; cat FOLDER/x.wav |", "names in wav.scp"
    off = "wav.scp:1: `a-1` runs a command (touch "
    return [
        *(Case(kind, f"a command, {said or 'not'} allowed", run(pipe, said), off) for said in (None, "", "false")),
        Case(kind, "a command, allowed", run(pipe, "true"), right=True.__eq__),
        *(Case(kind, f"a command, allowed with {said}", run(pipe, said), "write true or false") for said in ("1", "yes",
            "TRUE")),
        Case(kind, "a long command", run("touch FOLDER/made" + " x" * 5000 + " |"), "...), and lists may not"),
        Case(kind, "no command", run("|", "true"), "empty command"),
        Case(kind, "an output pipe", run("| cat", "true"), "output pipe"),
        Case(kind, "standard input", run("-"), "standard input"),
        Case(kind, "an offset in other digits", run("FOLDER/x.wav:\u0663"), "x.wav:\u0663: no such file"),
        Case(kind, "an offset below 0", run("FOLDER/x.wav:-3"), "x.wav:-3: no such file"),
        Case(kind, "an offset behind the end", run("FOLDER/x.wav:99999999"), "the archive ends at byte"),
        Case(kind, "an offset beyond all files", run("FOLDER/x.wav:" + "9" * 19), "the archive ends at byte"),
        Case(kind, "an offset of 5,000 digits", run("FOLDER/x.wav:" + "9" * 5000), "name too long"),
        Case(kind, "a name of 100,000 bytes", run("FOLDER/" + "y" * 100_000), "name too long"),
        Case(kind, "a shell's words, not run", run("FOLDER/$(touch FOLDER/made).wav"), "no such file"),
        Case(kind, "an option of ffmpeg", run("-version"), "no such file"),
        Case(kind, "a URL", run("http://localhost/x.wav"), "no such file"),
    ]


def fifos() -> list[Case]:
    """Each table as one, with nobody who writes to it."""
    def run(name, *verb):
        def work(folder):
            data = directory(folder)
            (data / name).unlink(missing_ok=True)
            os.mkfifo(data / name)
            run_worker(data_dir.main, *(str(data) if word == "DATA" else str(folder / "out") if word == "@out" else word
                                        for word in verb))
        return work

    words = {"wav.scp": "neither wav.scp nor feats.scp", "utt2spk": "has no utt2spk", "spk2utt": "has no spk2utt"}
    return [*(Case("tables that are pipes", name, run(name, *VALIDATE), said) for name, said in words.items()),
            Case("tables that are pipes", "utt2spk, split", run("utt2spk", *SPLIT), "a pipe (FIFO), not a file"),
            Case("tables that are pipes", "a list of utterances", lambda folder: (os.mkfifo(folder / "list"),
                run_worker(
                data_dir.main, "subset", "--utt-list", folder / "list", directory(folder), folder / "out")),
                    "a pipe (FIFO)")]


def channels() -> list[Case]:
    return [Case("channels", text, changed(
        "reco2file_and_channel", lambda raw, _, text=text: f"a-1 x {text}\n".encode(), *VALIDATE),
            "reco2file_and_channel:1")
        for text in ("\u0661", "0", "-1", "AA", "a", "1.0", "1 2", "")] + [
        Case("channels", text, changed("reco2file_and_channel", lambda raw, _, text=text: f"a-1 x {text}\n".encode(),
                                       "validate", "DATA", returns=lambda data: DataDir(data).wav["a-1"].channel),
             right=(0).__eq__) for text in ("1", "A")]


def cases() -> list[Case]:
    return lines_that_are_none() + wide_fields() + numbers() + names() + fifos() + channels()
