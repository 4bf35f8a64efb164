"""Resolves the systems of a recipe one at a time: what kind each is, what it is made from and with which settings."""

from __future__ import annotations

import dataclasses
import os

from svq.config_files import row_tables
from svq.errors import UserError
from svq.names import ENDS, System
from svq.recipe.options import RUNTIMES, Options, nearest
from svq.recipe.settings import AGGREGATION, Conf, Settings, is_reserved
from svq.rows import unknown_row

TEACHER, IMPORTED, STUDENT = "teacher", "imported", "student"       # float networks
FILE = "file"                                                       # a model that runs, and that nothing else is made of
ROUNDED, FINETUNED = "rounded", "finetuned"                         # quantized by a row: without, or with training
MEMBER, EXPORTED = "member", "exported"
FLOAT_KINDS = (TEACHER, IMPORTED, STUDENT)
ROW_KINDS = (ROUNDED, FINETUNED)


@dataclasses.dataclass(frozen=True)
class Resolved:
    """A system and what the stages need to know of it. A field that does not apply is empty: "" or ().

    kind: one of the words above. config: its settings, FILE.yaml or FILE.yaml:ROW. teacher: the system that it learns from;
    levels: the cached levels that it learns; taught_by_file: whether the teacher is a file, whose embeddings it learns.
    needs: the systems that must be there before it can be made. file: of a system that is one.
    """

    system: System
    kind: str
    config: str = ""
    settings: Settings = Settings("", {})
    teacher: str = ""
    levels: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    given_bits: str = ""
    file: str = ""
    taught_by_file: bool = False

    @property
    def name(self) -> str:
        """The name of the system."""
        return self.system.name

    @property
    def allocates(self) -> bool:
        """Whether the bits of its layers are to be allocated."""
        return self.kind in ROW_KINDS and not self.given_bits and self.settings.part("allocate") is not None

    @property
    def selects(self) -> bool:
        """Whether a choice is to be made of the blocks that stay in float."""
        return self.kind in ROW_KINDS and not self.given_bits and self.settings.part("select") is not None

    @property
    def measures_blocks(self) -> bool:
        """Whether that choice goes by measured blocks, not by a preset."""
        return self.selects and self.settings.value("select", "preset") is None

    @property
    def start(self) -> str:
        """The system that finetuning starts from: the float network, or NAME-ptq where the row chooses levels on speech."""
        if self.kind != FINETUNED:
            return ""
        return self.system.start if self.settings.calibrates else self.system.net


def resolve(name: str, conf: Conf, options: Options) -> Resolved:
    """Resolves the system called `name`.

    UserError where there can be no such system: an unknown row, no network, ends of the name that do not go with it, or
    settings that cannot be read.
    """
    system = conf.names.parse(name)
    if system.int8:
        of = resolve(system.exported_from, conf, options)
        if of.kind == FILE:
            raise UserError(f"{name}: {_only_runs(of.name, conf)}; its arithmetic is what it is")
        return Resolved(system, EXPORTED, needs=(of.name,))
    if system.bits is not None:
        return _member(system, conf, options)
    if system.row is not None:
        return _of_row(system, conf)
    if system.ptq:
        raise UserError(f"{name}: {system.net} has no row to be quantized by; -ptq goes with NETWORK_ROW-ptq"
                        + _unknown_row(system, conf))
    return _student(system, conf, options) if system.student else _network(system, conf, options)


def model_of(system: System, options: Options) -> str:
    """Gives the path of the model that computes a system's embeddings: a model folder, or an exported file in it."""
    folder = os.path.join(options.exp, system.name)
    return os.path.join(folder, f"model.{RUNTIMES[options.int8_runtime]}") if system.int8 else folder


def _member(system: System, conf: Conf, options: Options) -> Resolved:
    whole = resolve(system.whole, conf, options)
    precisions = whole.settings.precisions if whole.kind in ROW_KINDS else ()
    if system.bits not in precisions:
        what = (f"the members of {whole.name} have {' and '.join(map(str, precisions))} bits" if precisions else
                f"{whole.name} has no members; those of a row of method nested have")
        raise UserError(f"{system.name}: no member of {system.bits} bits: {what}")
    return Resolved(system, MEMBER, needs=(whole.name,))


def _of_row(system: System, conf: Conf) -> Resolved:
    if conf.file_of(system.net):
        raise UserError(f"{system.name}: {_only_runs(system.net, conf)}; to quantize and finetune that network, import it or its "
                        f"checkpoint to a model folder (python3 -m svq.bin.import_checkpoint)")
    own = conf.path(f"{system.stem}.yaml")
    if os.path.isfile(own):
        raise UserError(f"{system.name}: {own} makes {system.stem} a network, and {system.row} is a row that makes it "
                        f"{system.net} quantized; rename the file, or the row")
    net = conf.names.parse(system.net)
    if net.row is not None:
        raise UserError(f"{system.name}: {system.net} is {net.net} finetuned by row {net.row}; rows are for networks as they "
                        f"were trained, such as {net.net}_{system.row}")
    if net.ptq or net.int8 or net.bits is not None:
        raise UserError(f"{system.name}: {system.net} is no float network; write {ENDS} at the end")
    config = conf.config_of(system)
    settings = conf.read(config)
    quantizes = settings.part("quant") is not None
    if system.ptq and not quantizes:
        raise UserError(f"{system.name}: row {system.row} quantizes nothing; -ptq is for rows that do")
    for key in ("ptq", "distill", "select", "allocate", "data"):
        settings.part(key)
    given = conf.given_bits(system)
    if settings.part("allocate") is not None and settings.part("select") is not None:
        raise UserError(f"{config}: `allocate` and `select` both say which layers get which bits; keep one")
    taught = settings.part("distill") is not None and not system.ptq
    return Resolved(system, ROUNDED if system.ptq else FINETUNED, config, settings, system.net if taught else "",
                    needs=(system.net,), given_bits=given)


def _student(system: System, conf: Conf, options: Options) -> Resolved:
    config = conf.config_of(system)
    if not config and options.from_elsewhere:
        return Resolved(system, STUDENT)
    if not config:
        raise UserError(_no_student(system, conf))
    settings = conf.read(config)
    distils = settings.part("distill") is not None
    if system.level_row is not None and distils and system.teacher is None:
        raise UserError(f"{system.name}: row {system.level_row} learns from a teacher; name it, "
                        f"student-TEACHER-{system.level_row}")
    if config.startswith(f"{conf.students}:") and not distils and system.teacher is not None:
        raise UserError(f"{system.name}: row {system.level_row} learns from no teacher; write student-{system.level_row}")
    if not distils:
        return Resolved(system, STUDENT, config, settings)
    levels = settings.levels
    if conf.file_of(system.teacher):
        _check_taught_by_file(system, config, levels, conf)
        return Resolved(system, STUDENT, config, settings, system.teacher, needs=(system.teacher,), taught_by_file=True)
    if needs_dictionary(levels) and not os.path.isfile(conf.path(AGGREGATION)):
        raise UserError(f"{system.name}: its levels need the dictionary of pooling lde, and {conf.path(AGGREGATION)}, which "
                        "says how that is trained, is missing")
    return Resolved(system, STUDENT, config, settings, system.teacher or "", levels, needs=(system.teacher,))


def _check_taught_by_file(system: System, config: str, levels, conf: Conf) -> None:
    """Raises UserError where a student of a file is to learn anything but the file's embeddings of whole utterances."""
    if not levels:
        raise UserError(f"{system.name}: {config} has its teacher compute each crop, and {_only_runs(system.teacher, conf)}; let "
                        "it learn embeddings of utterances: distill: {targets: {levels: [utterance]}}")
    if levels != ("utterance",):
        raise UserError(f"{system.name}: it learns levels {' '.join(levels)}, and {_only_runs(system.teacher, conf)}, so it has "
                        "the level utterance alone; take a row that learns that")


def _only_runs(name: str, conf: Conf) -> str:
    return f"{name} is a file that runs ({conf.file_of(name)}), no model folder"


def needs_dictionary(levels) -> bool:
    """Says whether any of a teacher's levels goes through the learned dictionary (svq/distill/levels.py)."""
    return any(level == "lde_aggr" or level.endswith(":lde") for level in levels)


def _no_student(system: System, conf: Conf) -> str:
    own = conf.path(f"{system.stem}.yaml")
    row = system.stem.removeprefix(f"student-{system.teacher}").removeprefix("-")
    if not os.path.isfile(conf.students):
        return f"{system.name}: neither {own} nor {conf.students} says how it is trained"
    if system.stem == "student":
        return f"{system.name}: {own}, which says how it is trained, is missing"
    told = unknown_row(conf.students, row_tables(conf.students), row or system.stem.removeprefix("student-"))
    return f"{system.name}: there is no {own}, and {told}"


def _network(system: System, conf: Conf, options: Options) -> Resolved:
    config, file = conf.config_of(system), conf.file_of(system.name)
    if file and (config or conf.is_made_elsewhere(system.name)):
        other = config or os.path.join(conf.exp, system.name, "config.yaml")
        raise UserError(f"--models: {system.name} is {file}, and {other} makes it another network; give the file another name")
    if file:
        return Resolved(system, FILE, file=file)
    if config:
        return Resolved(system, TEACHER, config, conf.read(config))
    if options.from_elsewhere:
        return Resolved(system, IMPORTED)
    if is_reserved(system.stem):
        raise UserError(f"{system.name}: {conf.path(system.stem)}.yaml holds no network's settings; a network is called "
                        "something else")
    if not conf.is_made_elsewhere(system.name):
        folder = os.path.join(conf.exp, system.name)
        told = _unknown_row(system, conf) or nearest(system.stem, conf.networks())
        raise UserError(f"{system.name}: there is no such network: neither {conf.path(system.stem)}.yaml nor "
                        f"{folder}/config.yaml{told}")
    if _unknown_row(system, conf) and conf.read(os.path.join(conf.exp, system.name, "config.yaml")).tree.get("quant"):
        raise UserError(f"{system.name}: exp has such a model, quantized{_unknown_row(system, conf)}")
    return Resolved(system, IMPORTED)


def _unknown_row(system: System, conf: Conf) -> str:
    """Words an addition to a message: the name may be meant as NETWORK_ROW, or has its ends in the wrong order; else ""."""
    again = conf.names.parse(system.stem)
    if again.stem != system.stem:
        return f"; the ends of a name come in the order {ENDS}"
    net, _, row = system.stem.rpartition("_")
    if not net or not conf.is_network(net):
        if net and row in conf.names.quant:
            return f"; {row} is a row, but {net} is no network"
        return ""
    if not os.path.isfile(conf.finetune):
        return f"; {row} could be a row, but {conf.finetune}, which names the tables of rows, is missing"
    return f"; and {unknown_row(conf.finetune, row_tables(conf.finetune), row)}"
