"""Reads a recipe's folder of settings: which file or row belongs to which system, and the parts that the stages go by."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Mapping

from svq.config_files import read_tree, row_tables
from svq.errors import UserError
from svq.names import Names, System, compose
from svq.rows import row_names

FINETUNE = "finetune.yaml"    # settings of finetuned systems, naming the tables of rows; NET.finetune.yaml: for those of NET
STUDENTS = "students.yaml"    # settings of students, naming the tables of distillation rows
AGGREGATION = "aggregation.yaml"  # settings of the dictionary that makes levels of pooling lde
SEARCH = "search.yaml"        # settings of a search
# No network can have one of these names, or a name such as NET.finetune: the folder has other files of these names.
RESERVED = ("finetune", "students", "aggregation", "search", "quant", "distill")


def is_reserved(name: str) -> bool:
    """Says whether conf/NAME.yaml, for this name, is a file other than the settings of a network."""
    return name.rpartition(".")[2] in RESERVED


@dataclasses.dataclass(frozen=True)
class Settings:
    """The merged settings of one config, `file` (perhaps FILE.yaml:ROW). A part that is missing or null is None."""

    file: str
    tree: dict

    def part(self, key: str) -> dict | None:
        """Gives a part such as `quant`, None where there is none. UserError for one that is no mapping."""
        value = self.tree.get(key)
        if value is not None and not isinstance(value, dict):
            raise UserError(f"{self.file}: '{key}' must be a mapping of keys to values, not {value!r}")
        return value

    def value(self, key: str, word: str):
        """Gives a value in a part; None where either is missing."""
        return (self.part(key) or {}).get(word)

    @property
    def calibrates(self) -> bool:
        """Whether codes and levels are chosen on speech."""
        return self.value("ptq", "calibrate") is True

    @property
    def takes_speech(self) -> bool:
        """Whether quantization without finetuning measures on speech."""
        return self.calibrates or self.value("ptq", "bias_correction") is True

    @property
    def levels(self) -> tuple[str, ...]:
        """The teacher's cached levels that a student learns from; () for one that computes its teacher."""
        targets = self.value("distill", "targets")
        if targets is None:
            return ()
        levels = targets.get("levels", ["utterance"]) if isinstance(targets, dict) else None
        if not isinstance(levels, list) or not all(isinstance(level, str) and not level.split()[1:] for level in levels):
            raise UserError(f"{self.file}: 'distill.targets.levels' must be a list of levels' names")
        return tuple(levels)

    @property
    def precisions(self) -> tuple[int, ...]:
        """The bits of the members of one file; () unless the method is nested."""
        bits = self.value("quant", "bits") or 4
        if self.value("quant", "method") != "nested":
            return ()
        return tuple(self.value("quant", "precisions") or (-(-bits // 2), bits))

    @property
    def input(self) -> str:
        """The input that a training reads: wav or feats."""
        return str(self.value("data", "input") or "wav")


class Conf:
    """A folder of settings, `conf`, and the folder of systems, `exp`, that it is used with.

    files: name -> file of systems that are files wherever they lie.
    """

    def __init__(self, conf: str, exp: str, files: Mapping[str, str] | None = None):
        self.folder, self.exp, self.files = conf.rstrip("/") or "/", exp, dict(files or {})
        self.finetune, self.students = self.path(FINETUNE), self.path(STUDENTS)
        self._settings: dict[str, Settings] = {}

    def path(self, name: str) -> str:
        """Gives the path of a file of the folder."""
        return os.path.join(self.folder, name)

    @functools.cached_property
    def names(self) -> Names:
        """The grammar with this folder's rows. UserError for a table that cannot be read."""
        return Names(frozenset(self.rows(self.finetune)), frozenset(self.rows(self.students)), self.is_network)

    def rows(self, file: str) -> list[str]:
        """Lists the rows of the tables that config `file` names; nothing where there is no such file."""
        return row_names(row_tables(file)) if os.path.isfile(file) else []

    def read(self, file: str) -> Settings:
        """Reads the settings of a config or of FILE.yaml:ROW, once. UserError for what is wrong with it."""
        if file not in self._settings:
            self._settings[file] = Settings(file, read_tree(file))
        return self._settings[file]

    def own_file(self, stem: str, seed: int | None) -> str:
        """Finds conf/STEM-sSEED.yaml or else conf/STEM.yaml; gives "" where neither is there."""
        for name in dict.fromkeys((compose(stem, seed), stem)):
            if not is_reserved(name) and os.path.isfile(self.path(f"{name}.yaml")):
                return self.path(f"{name}.yaml")
        return ""

    def finetuning_of(self, net: str) -> str:
        """Gives the file that says how systems of float network `net` are finetuned.

        That is conf/NET.finetune.yaml, for all seeds of NET, or else conf/finetune.yaml.
        """
        own = self.path(f"{self.names.parse(net).stem}.{FINETUNE}")
        return own if os.path.isfile(own) else self.finetune

    def is_network(self, name: str) -> bool:
        """Says whether `name` has settings here, a model folder or a file."""
        return self._has_settings(name) or self.is_made_elsewhere(name) or bool(self.file_of(name))

    def _has_settings(self, name: str) -> bool:
        found = Names(frozenset()).parse(name)
        return bool(self.own_file(found.stem, found.seed))

    def file_of(self, name: str) -> str:
        """Finds the file of a model that is no folder, given by name or as exp/NAME/NAME.onnx; "" where there is none.

        A network with settings here or a model folder is what these say; an .onnx in its folder is an export of it.
        """
        if name in self.files:
            return self.files[name]
        path = os.path.join(self.exp, name, f"{name}.onnx")
        ours = self._has_settings(name) or self.is_made_elsewhere(name)
        return path if not ours and os.path.isfile(path) else ""

    def networks(self) -> list[str]:
        """Lists the networks that have settings here, sorted."""
        files = os.listdir(self.folder) if os.path.isdir(self.folder) else []
        names = {file[:-len(".yaml")] for file in files if file.endswith(".yaml")}
        return sorted(name for name in names if not is_reserved(name))

    def is_made_elsewhere(self, name: str) -> bool:
        """Says whether there is a model folder of that name, with its config."""
        return os.path.isfile(os.path.join(self.exp, name, "config.yaml"))

    def is_made(self, name: str) -> bool:
        """Says whether the model of a system is there already."""
        return bool(self.file_of(name)) or os.path.isfile(os.path.join(self.exp, name, "model.safetensors"))

    def config_of(self, system: System) -> str:
        """Gives the config by which a system is trained or quantized; "" for a network that was made elsewhere."""
        if system.row is not None:
            return f"{self.finetuning_of(system.net)}:{system.row}"
        own = self.own_file(system.stem, system.seed)
        if own or system.level_row is None:
            return own
        return f"{self.students}:{system.level_row}"

    def given_bits(self, system: System) -> str:
        """Finds a table of bits made by hand or elsewhere: conf/SYSTEM.bits.tsv or conf/ROW.bits.tsv; "" where none is."""
        for name in dict.fromkeys((system.name, system.stem, system.row)):
            if os.path.isfile(self.path(f"{name}.bits.tsv")):
                return self.path(f"{name}.bits.tsv")
        return ""
