"""Reads and makes the names of systems and of trial lists. Recipe and report share this one grammar.

==================== =======================================================================================
name                 what the system is
==================== =======================================================================================
NET                  a float network: trained from scratch as conf/NET.yaml says; without such a file, a model
                     folder exp/NET that was made elsewhere, or a file that runs: exp/NET/NET.onnx, or --models
student              distilled from `teacher` as conf/student.yaml says
student-TEACHER-ROW  distilled from TEACHER as row ROW says of the tables that conf/students.yaml names
student-ROW          trained as row ROW says, a row without a teacher, such as student-labels (`distill: null`)
NET_ROW              NET quantized and finetuned as row ROW says of the tables that conf/finetune.yaml names;
                     NET_float: finetuned in float
==================== =======================================================================================

Any of them may end in these, in this order:

======  ====================================================================================================
-sN     trained with seed N; NET-sN and NET_ROW-sN have the settings of NET and NET_ROW
-ptq    NET_ROW quantized without finetuning
-Nbit   the N-bit member of NET_ROW, whose file holds several precisions (method nested)
-int8   the same system in INT8 arithmetic, weights and activations
======  ====================================================================================================

The last underscore splits a name, and only where a row follows it: speechbrain_ecapa is a network, my_net_kmqat4 comes
from my_net, teacher-s2_kmqat4-s3 from teacher-s2. A student's row is what follows a hyphen and is a row; its teacher is
what stands before. Names are letters, digits and . _ + -, and begin with a letter or a digit.

In the results, trial list SET/trials of the data folder is called SET, and SET/trials_NAME is called SET_NAME. A set in
a folder of its own, such as far/test, goes by its last part, test. No two lists of a run may get the same name.

The levels at which a network is cut into parts, to be quantized together or left in float, stand here too. The code
that cuts is in svq.nets.blocks and svq.analysis.layer_subjects; whoever only names a level needs no torch.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Callable, Iterable

from svq.errors import UserError

BLOCK_LEVELS = ("block", "layer")
PART_LEVELS = ("stage", *BLOCK_LEVELS)
FLOAT_ROW = "float"  # the control: finetuned, not quantized
STUDENT = "student"
PTQ = "-ptq"
INT8 = "-int8"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*\Z")
ENDS = "-sN, -ptq, -Nbit, -int8"
_ENDS = re.compile(r"(?P<stem>.+?)(?:-s(?P<seed>0|[1-9]\d*))?(?P<ptq>-ptq)?(?:-(?P<bits>[1-9]\d*)bit)?(?P<int8>-int8)?\Z")
_LIST = re.compile(r"trials(?:_[^./]+)?\Z")


@dataclasses.dataclass(frozen=True)
class System:
    """The parts of a system's name.

    name: as written. stem: the name without its ends. net: the float network that the system comes from, with its own
    seed; a float network, or its INT8 export, comes from itself. row: the row of the quantization tables; None for a
    float network. seed, ptq, bits (of a member), int8: the ends. student: whether it is a student in float. teacher:
    the network that the student is distilled from. level_row: the row of the distillation tables that says how. Both
    are None where the name does not say.
    """

    name: str
    stem: str
    net: str
    row: str | None = None
    seed: int | None = None
    ptq: bool = False
    bits: int | None = None
    int8: bool = False
    student: bool = False
    teacher: str | None = None
    level_row: str | None = None

    @property
    def exported_from(self) -> str:
        """The system that runs in INT8 arithmetic here: teacher_kmqat4-int8 -> teacher_kmqat4."""
        return self.name.removesuffix(INT8)

    @property
    def whole(self) -> str:
        """The system whose file a member is taken from: teacher_nested4-2bit -> teacher_nested4."""
        return self.exported_from.removesuffix(f"-{self.bits}bit")

    @property
    def start(self) -> str:
        """The same row without finetuning, for all seeds: teacher_calibrated2-s3 -> teacher_calibrated2-ptq."""
        return self.stem + PTQ


def compose(stem: str, seed: int | None = None, ptq: bool = False, bits: int | None = None, int8: bool = False) -> str:
    """Makes a system's name from its stem and its ends, which follow in their order: STEM-sN-ptq-Nbit-int8."""
    ends = ["" if seed is None else f"-s{seed}", PTQ * ptq, "" if bits is None else f"-{bits}bit", INT8 * int8]
    return stem + "".join(ends)


def _nothing(name: str) -> bool:
    return False


@dataclasses.dataclass(frozen=True)
class Names:
    """The rows that names can end in, and which names are networks'.

    quant, distill: names of the rows of the quantization and the distillation tables. is_network: says whether a float
    network has this name; it is asked only where a student's name can be read in several ways.
    """

    quant: frozenset[str]
    distill: frozenset[str] = frozenset()
    is_network: Callable[[str], bool] = _nothing

    def parse(self, name: str) -> System:
        """Reads `name` into its parts; a name without a known row is a network's. UserError: empty or ambiguous."""
        found = _ENDS.match(name)
        if found is None:
            raise UserError("the name of a system is empty")
        stem, seed, bits = found["stem"], found["seed"], found["bits"]
        ends = dict(seed=None if seed is None else int(seed), ptq=found["ptq"] is not None,
                    bits=None if bits is None else int(bits), int8=found["int8"] is not None)
        net, _, row = stem.rpartition("_")
        if net and row in self.quant:
            return System(name, stem, net, row, **ends)
        net = compose(stem, ends["seed"])
        if stem != STUDENT and not stem.startswith(f"{STUDENT}-"):
            return System(name, stem, net, **ends)
        teacher, level_row = self._student(stem)
        return System(name, stem, net, **ends, student=True, teacher=teacher, level_row=level_row)

    def _student(self, stem: str) -> tuple[str | None, str | None]:
        """Gives (teacher, row) of a student's name without its ends; None for what the name does not say."""
        if stem == STUDENT:
            return "teacher", None
        rest = stem.removeprefix(f"{STUDENT}-")
        if rest in self.distill:
            return None, rest
        cuts = [(rest[:i], rest[i + 1:]) for i, letter in enumerate(rest) if letter == "-" and 0 < i < len(rest) - 1]
        read = [cut for cut in cuts if cut[1] in self.distill]
        if len(read) > 1:
            read = [cut for cut in read if self.is_network(cut[0])] or read
        if len(read) > 1:
            ways = " or ".join(f"of {teacher} by row {row}" for teacher, row in read)
            raise UserError(f"{stem} is a student {ways}; call the row or the teacher something else")
        if read:
            return read[0]
        teachers = [teacher for teacher, _ in cuts] + [rest]  # settings of its own: what stands first is the teacher
        known = [teacher for teacher in teachers if self.is_network(teacher)]
        return (known or teachers[:1])[-1], None

    def ancestry(self, name: str) -> list[str]:
        """Lists the networks that system `name` comes from, nearest first: small_float_kmqat4 -> small_float, small."""
        found: list[str] = []
        while True:
            net = self.parse(name).net
            if net == name:
                return found
            found.append(net)
            name = net


def names_in_conf(conf: str | None = None, systems: Iterable[str] = ()) -> Names:
    """Makes the grammar for the names `systems` of some results, which have no settings with them.

    The rows are those of the tables that finetune.yaml and students.yaml in folder `conf` name (None: in ./conf). Where
    such a file is missing, they are those of the repository's own tables. The networks are the systems themselves.
    """
    from svq.config_files import row_tables
    from svq.rows import row_names

    own = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "conf")

    def rows(settings: str, table: str) -> frozenset[str]:
        file = os.path.join(conf or "conf", settings)
        tables = row_tables(file) if os.path.isfile(file) else [os.path.join(own, table)]
        return frozenset(row_names([path for path in tables if os.path.isfile(path)]))

    return Names(rows("finetune.yaml", "quant.yaml"), rows("students.yaml", "distill.yaml"), frozenset(systems).__contains__)


def before_finetuning(name: str, names: Iterable[str]) -> bool:
    """Says whether `name` is NAME-ptq for a NAME among `names`."""
    return name.endswith(PTQ) and name.removesuffix(PTQ) in names


def list_name(path) -> str:
    """Gives a trial list's name in the results: data/test/trials -> test, data/test/trials_all -> test_all.

    UserError for a file that is not called as a trial list is.
    """
    folder, file = os.path.split(os.fspath(path))
    if not _LIST.match(file):
        raise UserError(f"{path}: a trial list is called 'trials' or 'trials_<name>'")
    return os.path.basename(os.path.abspath(folder or ".")) + file.removeprefix("trials")
