"""Enrolled voices, as `Verifier.enroll` makes them of a speaker's recordings, and stores of them (.svs).

A voice is no array. A Verifier compares embeddings less a mean embedding, scaled to length 1. If such a vector were
taken for an embedding, the mean would be subtracted twice, and nobody would notice the other score. So an Enrollment
hides its vector and carries its `Origin`: the network, the arithmetic and the mean that it belongs to.

A store is one JSON file (UTF-8):

    {"format": 1, "backend": "cosine", "dim": 256, "mean": ...,
     "model": {"file": "model.onnx", "network": ..., "arithmetic": "float32"},
     "voices": {"ann": {"recordings": 2, "seconds": 6.2, "vector": ...}, ...},
     "digest": ...}

`mean` and each `vector` are little-endian float32 numbers in base64; `mean` is "none" where none was subtracted.
`seconds` is null where it is not known. `digest` is the SHA-256 of all other content, as JSON with sorted keys and
without spaces. The same voices give the same bytes.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import math
import os
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from svq.atomic import locked, remove_leftovers, write_json
from svq.backend.calibration import PLAIN, mean_of, mean_text
from svq.data.words import MAX_KEY
from svq.errors import UserError, some_of
from svq.files import read_json
from svq.numbers import is_number

FORMAT_VERSION = 1
BACKEND = "cosine"
_MAKE = "svq.bin.enroll makes one"
# Refused in names: control characters, characters that make a name look like another (of no width, turning the
# direction), halves of characters, ends of lines. Joiners are allowed: Malayalam, Persian and others write with them.
_UNSEEN = {"Cc", "Cf", "Cs", "Zl", "Zp"}
_JOINERS = set("\u200c\u200d")
_LARGEST_ERROR = 1e-5  # of a vector's length, 1


@dataclass(frozen=True)
class Origin:
    """The origin of a voice. Voices can be compared where their origins are equal.

    file: name of the model's file, for messages; it plays no part in equality. network: a digest of the network, the
    same for a packed file and its exports. arithmetic: `float32`, or a text that tells an INT8 file from others. dim:
    number of values of an embedding. mean: the mean embedding that was subtracted, as
    svq.backend.calibration.mean_text writes it.
    """

    file: str = field(compare=False)
    network: str
    arithmetic: str
    dim: int
    mean: str

    def check(self, verifier: Origin, name: str, mend: str = "enrol again with it") -> None:
        """Checks that a verifier of the origin `verifier` can use voices of this origin; UserError where it cannot.

        name: of the voice or the store, for the message. mend: how to mend it, for the message.
        """
        why = self._difference(verifier)
        if why is not None:
            raise UserError(f"{name}: {why}; {mend}, or use the model that it was made with")

    def _difference(self, other: Origin) -> str | None:
        if (self.network, self.dim) != (other.network, other.dim):
            return (f"made with {self.file} (network {self.network[:8]}), and {other.file} has another network "
                    f"({other.network[:8]})")
        if self.arithmetic != other.arithmetic:
            return (f"made with {self.file} ({_short(self.arithmetic)}), and {other.file} computes the same network in "
                    f"other arithmetic ({_short(other.arithmetic)})")
        if self.mean != other.mean:
            return (f"made with {self.file} and {_mean_words(self.mean)}, and here {other.file} goes with "
                    f"{_mean_words(other.mean)}: another calibration, or --mean")
        return None


def _short(arithmetic: str) -> str:
    precision, _, digest = arithmetic.partition(":")
    return f"{precision} {digest[:8]}".strip()


def _mean_words(text: str) -> str:
    return "no mean embedding" if text == PLAIN else f"the mean embedding {hashlib.sha256(text.encode()).hexdigest()[:8]}"


@dataclass(frozen=True, eq=False)
class Enrollment:
    """A voice, made by `Verifier.enroll` and compared by `Verifier.score`; `save` keeps it and `load` brings it back.

    origin: network and mean that it belongs to. recordings: how many it was made of. seconds: of sound in them; None
    where it was made of embeddings. For use elsewhere take `embedding`; the vector itself is private.
    """

    origin: Origin
    _unit: np.ndarray = field(repr=False)  # (D,) float32: centred, of length 1
    recordings: int = 1
    seconds: float | None = None

    @property
    def embedding(self) -> np.ndarray:
        """An embedding (D,) float32 of this voice, as `Verifier.embed` gives one: the mean is not subtracted.

        `Verifier.score` gives the same for it as for the voice, within float rounding. Its distance from the mean
        embedding has no meaning.
        """
        mean = mean_of(self.origin.mean)
        if mean is None:
            return self._unit.copy()
        mean = mean.astype(np.float64)
        # Put as far from the mean as the mean is from 0: there rounding does least harm.
        return (mean + (np.linalg.norm(mean) or 1.0) * self._unit).astype(np.float32)

    def cosine(self, other: Enrollment) -> float:
        """Computes the cosine of this voice and another, in [-1, 1]. UserError where their origins differ."""
        other.origin.check(self.origin, f"a voice of {other.origin.file}")
        return float(np.clip(self._unit.astype(np.float64) @ other._unit.astype(np.float64), -1, 1))

    def save(self, path, name: str, replace: bool = False) -> None:
        """Puts the voice into the store `path` (.svs) under `name`; makes the store where there is none.

        replace: whether it may replace a voice of that name. UserError where it may not and the name is taken, for a
        name that `checked_name` refuses, and for a store of another origin. Processes that save at once wait for each
        other.
        """
        with changed(path, self.origin) as voices:
            voices.add(name, self, replace)

    @classmethod
    def load(cls, path, name: str) -> Enrollment:
        """Loads the voice of that name from the store `path`. UserError where there is none, and as `Voices.load`."""
        return Voices.load(path)[name]


def checked_name(name: str) -> str:
    """Checks the name of a voice; gives it in Unicode's form NFC, in which accents typed in two ways are the same.

    UserError for a name that is empty, begins or ends with a blank, holds a newline or another invisible character, or
    has more than 255 bytes.
    """
    if not isinstance(name, str):
        raise UserError(f"the name of a voice is {name!r}; it must be text")
    found = unicodedata.normalize("NFC", name)
    shown = ascii(name[:40])
    if not found or found != found.strip():
        raise UserError(f"the name {shown} of a voice is empty, or begins or ends with a blank; write it without")
    if any(unicodedata.category(c) in _UNSEEN and c not in _JOINERS for c in found):
        raise UserError(f"the name {shown} of a voice holds a newline or another control character, or one of no width; leave "
                        "that out")
    if len(found.encode()) > MAX_KEY:
        raise UserError(f"the name {shown}... of a voice has {len(found.encode())} bytes; at most {MAX_KEY}")
    return found


class Voices:
    """The voices of a store: of one origin, by name, in the order of their names. path: of the store, for messages."""

    def __init__(self, origin: Origin, path="voices"):
        self.origin, self.path = origin, os.fspath(path)
        self._held: dict[str, Enrollment] = {}

    def __len__(self) -> int:
        return len(self._held)

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._held))

    def __contains__(self, name: str) -> bool:
        return unicodedata.normalize("NFC", name) in self._held

    def __getitem__(self, name: str) -> Enrollment:
        """Finds the voice of that name; UserError where there is none."""
        found = checked_name(name)
        if found not in self._held:
            there = f"it has {some_of(self)}" if self._held else "it has no voices"
            raise UserError(f"{self.path}: no voice is named {found!r}; {there}")
        return self._held[found]

    def add(self, name: str, voice: Enrollment, replace: bool = False) -> None:
        """Adds a voice under `name`. UserError for another origin, and for a name that is taken unless `replace`."""
        name = checked_name(name)
        self.origin.check(voice.origin, self.path, "name another store")
        if not replace:
            self.require_free(name)
        self._held[name] = voice

    def require_free(self, name: str) -> None:
        """Checks that no voice has that name; UserError where one has."""
        if name in self:
            raise UserError(f"{self.path}: a voice is named {checked_name(name)!r} already; --replace true (replace=True) "
                            "puts the new one in its place, another name keeps both")

    def remove(self, name: str) -> None:
        """Removes the voice of that name; UserError where there is none."""
        self[name]
        del self._held[checked_name(name)]

    def save(self, path) -> None:
        """Writes the store to `path`, whole or not at all.

        Changes that others made since it was loaded are lost; `changed` loses none.
        """
        origin = self.origin
        about = {
            "format": FORMAT_VERSION, "backend": BACKEND, "dim": origin.dim, "mean": origin.mean,
            "model": {"file": origin.file, "network": origin.network, "arithmetic": origin.arithmetic},
            "voices": {name: {"recordings": voice.recordings, "seconds": voice.seconds, "vector": _text(voice._unit)}
                       for name, voice in self._held.items()},
        }
        write_json(path, about | {"digest": _digest(about)})

    @classmethod
    def load(cls, path) -> Voices:
        """Loads a store. UserError where it is missing, damaged, altered, cut short or of a newer version."""
        about = _read(path)
        try:
            model = about["model"]
            origin = Origin(*(_word(model[key]) for key in ("file", "network", "arithmetic")), about["dim"], about["mean"])
            mean = mean_of(origin.mean)
            if type(origin.dim) is not int or origin.dim < 1 or (mean is not None and len(mean) != origin.dim):
                raise ValueError(f"a mean that does not fit embeddings of {origin.dim} values")
            if about["backend"] != BACKEND:
                raise ValueError(f"a back end {about['backend']!r} that is not {BACKEND}")
            voices = cls(origin, path)
            for name, row in about["voices"].items():
                if checked_name(name) != name:
                    raise ValueError(f"the name {name!r}, which is not in form NFC")
                voices._held[name] = _voice(row, origin, name)
        except (KeyError, TypeError, ValueError, AttributeError, UserError) as error:
            why = f"no {error}" if isinstance(error, KeyError) else error
            raise UserError(f"{path}: not a store of voices that can be used ({why}); enrol again") from None
        return voices


@contextlib.contextmanager
def changed(path, origin: Origin | None = None) -> Iterator[Voices]:
    """Opens the store `path` to be changed: yields its voices, writes them if the block ends without an exception.

    origin: of the store that is made where there is none; None: UserError then. Others who change the store wait.
    """
    behind = os.path.realpath(path)  # a link stays one
    with locked(behind):
        remove_leftovers(behind)
        voices = Voices(origin, path) if origin is not None and not os.path.lexists(behind) else Voices.load(path)
        yield voices
        voices.save(behind)


def _read(path) -> dict:
    """Reads the content of a store's file and checks its version and its digest; UserError where one is wrong."""
    try:
        about = read_json(path)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; {_MAKE}") from None
    except ValueError as error:
        raise UserError(f"{path}: not a whole store of voices ({error}); copy it again, or enrol again") from None
    if not isinstance(about, dict) or not {"format", "voices", "digest"} <= about.keys():
        raise UserError(f"{path}: JSON, but not a store of voices; {_MAKE}")
    version = about["format"]
    if type(version) is not int or version != FORMAT_VERSION:
        mend = "update svq" if type(version) is int and version > FORMAT_VERSION else "enrol again"
        raise UserError(f"{path}: format version {version}, this svq reads {FORMAT_VERSION}; {mend}")
    if about.pop("digest") != _digest(about):
        raise UserError(f"{path}: its content does not match its digest: damaged or altered; copy it again, or enrol "
                        "again")
    return about


def _digest(about: dict) -> str:
    return hashlib.sha256(json.dumps(about, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _text(vector: np.ndarray) -> str:
    return base64.b64encode(np.asarray(vector, dtype="<f4").tobytes()).decode()


def _word(value) -> str:
    if not isinstance(value, str) or not value.isprintable():
        raise ValueError(f"{ascii(value)[:40]}, where a text must stand")
    return value


def _voice(row: dict, origin: Origin, name: str) -> Enrollment:
    """Makes a voice from its entry in the file; KeyError, TypeError or ValueError where the entry is not valid."""
    vector = np.frombuffer(base64.b64decode(row["vector"], validate=True), dtype="<f4").astype(np.float32)
    if len(vector) != origin.dim or not np.isfinite(vector).all():
        raise ValueError(f"the vector of {name!r} is not {origin.dim} finite numbers")
    if not abs(np.linalg.norm(vector.astype(np.float64)) - 1) <= _LARGEST_ERROR:
        raise ValueError(f"the vector of {name!r} is not of length 1")
    recordings, seconds = row["recordings"], row["seconds"]
    if type(recordings) is not int or recordings < 1:
        raise ValueError(f"{recordings!r} recordings of {name!r}")
    if seconds is not None and not (is_number(seconds) and seconds >= 0 and math.isfinite(seconds)):
        raise ValueError(f"{seconds!r} seconds of {name!r}")
    return Enrollment(origin, vector, recordings, seconds)
