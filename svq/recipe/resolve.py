"""Works out all that a run.sh needs to know before stage 0, from its options, its folder of settings and what is made.

`resolve_recipe` checks it all, the configs against their schema, too, and gives a `Recipe`: lists of names, fields by kind
and key, and notes on what is left out. svq.bin.systems prints it for the shell. Stages are numbered as in every run.sh.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
from collections.abc import Iterable, Mapping

from svq.config_files import row_tables
from svq.errors import UserError
from svq.names import FLOAT_ROW, NAME, PTQ, list_name
from svq.recipe.options import RUNTIMES, Options, read_options, refuse
from svq.recipe.settings import AGGREGATION, SEARCH, Conf
from svq.recipe.systems import (EXPORTED, FILE, FINETUNED, FLOAT_KINDS, IMPORTED, MEMBER, ROUNDED, ROW_KINDS, STUDENT, TEACHER,
                                Resolved, model_of, needs_dictionary, resolve)
from svq.rows import unknown_row

TRAINING, DISTILLATION, QUANTIZATION, SEARCHING, ANALYSIS, CASCADES = 3, 4, 5, 13, 14, 15  # stages
TRAINED_IN = {TEACHER: TRAINING, STUDENT: DISTILLATION, FINETUNED: QUANTIZATION}  # by kind of system


@dataclasses.dataclass
class Recipe:
    """A resolved recipe.

    lists: name -> names of systems, data sets or others, in the order in which they are worked on. fields: (field, key) ->
    text. notes: (stage, what it leaves out).
    """

    lists: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    fields: dict[tuple[str, str], str] = dataclasses.field(default_factory=dict)
    notes: list[tuple[int, str]] = dataclasses.field(default_factory=list)

    def lines(self) -> Iterable[str]:
        """Yields the lines that svq.bin.systems prints: fields separated by tabs, the last one perhaps empty."""
        for name, words in self.lists.items():
            yield f"list\t{name}\t{' '.join(words)}"
        for (field, key), value in self.fields.items():
            yield f"of\t{field}\t{key}\t{value}"
        for stage, text in self.notes:
            yield f"note\t{stage}\t{text}"


def resolve_recipe(given: Mapping[str, str]) -> Recipe:
    """Resolves the recipe with the options `given`, name -> text.

    Raises UserError with a line for each mistake that can be seen before anything runs.
    """
    options, problems = read_options(given)
    conf = Conf(options.conf, options.exp, options.files)
    systems = {}
    for name in filter(NAME.match, options.systems):
        try:
            systems[name] = resolve(name, conf, options)
        except UserError as error:
            problems.append(str(error))
    refuse(problems)
    refuse(_missing(systems, conf, options))
    plan = _Plan(options, conf, systems)
    refuse(plan.check() + plan.check_schema())
    return plan.recipe()


def _missing(systems: dict[str, Resolved], conf: Conf, options: Options) -> list[str]:
    """Lists the systems whose teacher or float network is neither among the systems nor made already, a line each."""
    if options.from_elsewhere or options.stage > QUANTIZATION:
        return []
    problems = []
    for each in systems.values():
        for name in each.needs:
            if name not in systems and not conf.is_made(name):
                problems.append(f"{each.name} {'learns from' if each.kind == STUDENT else 'is made from'} {name}, which is "
                                f"neither among --systems nor made already ({conf.exp}/{name}/model.safetensors)"
                                f"{_no_network(each, name, conf)}")
            elif each.kind == STUDENT and name in systems and systems[name].kind not in (TEACHER, IMPORTED, FILE):
                problems.append(f"{each.name} learns from {name}, which is made in the same stage or later; a teacher is a "
                                "network that is trained from scratch or was made elsewhere")
    return problems


def _no_network(each: Resolved, name: str, conf: Conf) -> str:
    """Words an addition to the message for where `name`, which `each` is made from, is no network at all; else ""."""
    if each.kind in (MEMBER, EXPORTED) or conf.names.parse(name).student or conf.is_network(name):
        return ""
    told = f", and no network: there is neither {conf.path(name)}.yaml nor {conf.exp}/{name}/config.yaml"
    if each.system.row is not None and conf.is_network(each.name) and not conf.is_made(name):
        found = conf.file_of(each.name) or f"{conf.exp}/{each.name}"
        told += (f"; if {found} is a network that was made elsewhere, give {'it' if conf.file_of(each.name) else 'the folder'} "
                 f"a name that does not end in _{each.system.row}, a row")
    return told


class _Plan:
    """Works out the lists and fields of a recipe from its resolved systems."""

    def __init__(self, options: Options, conf: Conf, systems: dict[str, Resolved]):
        self.options, self.conf, self.systems = options, conf, systems
        self.notes: list[tuple[int, str]] = []
        self.starts = self._starts()

    def of_kind(self, *kinds: str) -> list[Resolved]:
        return [each for each in self.systems.values() if each.kind in kinds]

    def _starts(self) -> dict[str, Resolved]:
        """Finds the NAME-ptq systems that finetuning starts from and that are not in --systems; one serves all seeds."""
        found = {}
        for each in self.of_kind(FINETUNED):
            if each.start.endswith(PTQ) and each.start not in self.systems and each.start not in found:
                found[each.start] = resolve(each.start, self.conf, self.options)
        return found

    # ---- checks that need all systems

    def check(self) -> list[str]:
        return self._check_search() + self._check_analysis() + self._check_cascades()

    def _check_float(self, option: str, stage: int, names: Iterable[str]) -> list[str]:
        """Lists what is wrong with names given to an option that takes float networks; nothing if its stage does not run."""
        problems = []
        for name in names if self.options.runs(stage) else ():
            try:
                known = self.systems.get(name) or resolve(name, self.conf, self.options)
            except UserError as error:
                problems.append(f"{option}: {error}")
                continue
            if known.kind == FILE:
                problems.append(f"{option}: {name} is a file that runs ({known.file}); this takes a model folder")
            elif known.kind not in FLOAT_KINDS:
                problems.append(f"{option}: {name} is no float system; name the one that it comes from, {known.system.net}")
        return problems

    def _check_rows(self, option: str, rows: Iterable[str], nets: Iterable[str]) -> list[str]:
        """Lists the rows given to an option that the tables of its networks do not have, or that cannot be read."""
        problems = []
        for file, row in itertools.product(dict.fromkeys(map(self.conf.finetuning_of, nets)), rows):
            if not os.path.isfile(file):
                return [f"{option}: {file}, which names the tables of rows, is missing"]
            if row not in self.conf.names.quant:
                problems.append(f"{option}: {unknown_row(file, row_tables(file), row)}")
                continue
            try:
                self.conf.read(f"{file}:{row}").part("distill")
            except UserError as error:
                problems.append(f"{option}: {error}")
        return problems

    def _check_search(self) -> list[str]:
        options = self.options
        if not options.search or not options.runs(SEARCHING):
            return []
        problems = self._check_float("--search", SEARCHING, options.search)
        problems += [f"--search: {name} is neither among --systems nor made already ({options.exp}/{name}/model.safetensors)"
                     for name in options.search if not problems and name not in self.systems and not self.conf.is_made(name)]
        if not os.path.isfile(self.conf.path(SEARCH)):
            problems.append(f"--search: {self.conf.path(SEARCH)}, which says what is searched, is missing")
        return problems + self._check_rows("--search-row", [options.search_row], options.search)

    def _check_analysis(self) -> list[str]:
        options = self.options
        if not options.runs(ANALYSIS):
            return []
        rows = self._check_rows("--analysis-rows", options.analysis_rows, self.layers_analysed())
        return self._check_float("--analysis", ANALYSIS, options.analysis) + rows

    def _check_cascades(self) -> list[str]:
        if self.options.runs(CASCADES) and self.ladders() and len(self.options.trials) < 2:
            return ["--ladders needs a second list in --trials: the deltas are chosen on the first; --ladders= leaves "
                    "cascades out"]
        return []

    def check_schema(self) -> list[str]:
        """Checks every config that something is trained by against its schema; gives a line for each mistake.

        Notes where a config is sound but trains without its margin.
        """
        if self.options.from_elsewhere or self.options.stage > QUANTIZATION:
            return []
        from svq.config import load_config
        from svq.train.config import AggregationTrainConfig, TrainConfig

        configs = {each.config: TrainConfig for each in self.systems.values() if each.config}
        if any(map(needs_dictionary, self.level_teachers().values())):
            configs[self.conf.path(AGGREGATION)] = AggregationTrainConfig
        trained = {each.config: TRAINED_IN[each.kind] for each in self.of_kind(*TRAINED_IN)}
        problems = []
        for config, schema in configs.items():
            try:
                said = load_config(config, schema).without_margin()
            except UserError as error:
                problems.append(str(error))
                continue
            if said and config in trained:
                self.notes.append((trained[config], f"{config}: {said}"))
        return problems

    # ---- what stages work on

    def parents(self, meets) -> list[str]:
        """Lists the float networks of the quantized systems that meet a condition, sorted."""
        return sorted({each.system.net for each in self.of_kind(*ROW_KINDS) if meets(each)})

    def level_teachers(self) -> dict[str, list[str]]:
        """Gives, for each teacher, the levels that are cached for its students; both sorted."""
        found: dict[str, set[str]] = {}
        for each in self.of_kind(STUDENT):
            if each.levels:
                found.setdefault(each.teacher, set()).update(each.levels)
        return {teacher: sorted(found[teacher]) for teacher in sorted(found)}

    def file_teachers(self) -> list[str]:
        """Lists the files whose embeddings students learn, sorted."""
        return sorted({each.teacher for each in self.of_kind(STUDENT) if each.taught_by_file})

    def block_tables(self) -> dict[str, Resolved]:
        """Gives, for each NET:ROW, a system whose blocks are measured: NET_ROW and NET_ROW-ptq share one table."""
        found: dict[str, Resolved] = {}
        for each in self.of_kind(*ROW_KINDS):
            if each.measures_blocks:
                found.setdefault(f"{each.system.net}:{each.system.row}", each)
        return found

    def rounded(self) -> list[str]:
        return sorted({*(each.name for each in self.of_kind(ROUNDED)), *self.starts})

    def control(self, net: str) -> str:
        """Names the system that others are compared with: the float one with the same finetuning, where there is one."""
        control = f"{net}_{FLOAT_ROW}"
        return control if control in self.systems else net

    def compared(self, net: str) -> list[str]:
        """Lists the other systems made from a float network."""
        return [name for name, each in self.systems.items()
                if each.system.net == net and name not in (net, self.control(net))]

    def analysed(self) -> list[str]:
        found = []
        for net in self.options.analysis:
            if self.control(net) in self.systems and self.compared(net):
                found.append(net)
            else:
                self.notes.append((ANALYSIS, f"leave out the analysis of {net}: {net} and systems made from it are not both "
                                             "in --systems"))
        return found

    def layers_analysed(self) -> list[str]:
        return [net for net in self.options.analysis if net in self.systems]

    def ladders(self) -> list[str]:
        return [ladder for ladder in self.options.ladders if not self._gone(ladder)]

    def _gone(self, ladder: str) -> str:
        """Names the first rung that is not among the systems; "" if all are."""
        return next((rung for rung in ladder.split(":") if rung not in self.systems), "")

    def bits(self, each: Resolved) -> str:
        """Gives the path of a system's table of bits. An unlisted system that others are finetuned from has theirs."""
        if not (each.allocates or each.selects):
            return each.given_bits
        name = each.name
        if name in self.starts:
            name = next(other.name for other in self.of_kind(FINETUNED) if other.start == name)
        return os.path.join(self.options.exp, name, "bits.tsv")

    def blocks(self, each: Resolved) -> str:
        if not each.measures_blocks:
            return ""
        return os.path.join(self.options.exp, each.system.net, f"blocks_{each.system.row}")

    # ---- what the shell gets

    def recipe(self) -> Recipe:
        made = Recipe(self._lists(), self._values(), self.notes)
        for each in (*self.systems.values(), *self.starts.values()):
            made.fields.update({(field, each.name): value for field, value in self._fields(each).items()})
        self._keyed(made.fields)
        for ladder in self.options.ladders:
            if self._gone(ladder):
                self.notes.append((CASCADES, f"leave out the cascade {ladder}: {self._gone(ladder)} is not in --systems"))
        return made

    def _lists(self) -> dict[str, list[str]]:
        options = self.options
        levels = self.level_teachers()

        def names(*kinds: str, when=lambda each: True) -> list[str]:
            return [each.name for each in self.of_kind(*kinds) if when(each)]

        return {
            "teachers": names(TEACHER), "imported": names(IMPORTED), "students": names(STUDENT),
            "file_teachers": self.file_teachers(),
            "level_teachers": list(levels),
            "dictionaries": [teacher for teacher in levels if needs_dictionary(levels[teacher])],
            "sensitive": self.parents(lambda each: each.allocates),
            "allocated": names(*ROW_KINDS, when=lambda each: each.allocates),
            "block_tables": list(self.block_tables()),
            "selected": names(*ROW_KINDS, when=lambda each: each.selects),
            "rounded": self.rounded(), "finetuned": names(FINETUNED), "members": names(MEMBER), "exported": names(EXPORTED),
            "packed": [name for name, each in self.systems.items() if each.kind != EXPORTED],
            "quantized_parents": [net for net in self.parents(lambda each: True) if net in self.systems],
            "list_names": [list_name(path) for path in options.trials],
            "sets": sorted({*(() if options.means_only else (options.cohort,)), *map(os.path.dirname, options.trials)}),
            "analysed": self.analysed(), "layers_analysed": self.layers_analysed(), "ladders": self.ladders(),
            "searched": list(options.search)}

    def _values(self) -> dict[tuple[str, str], str]:
        options = self.options
        return {("value", "cohort"): options.cohort, ("value", "report"): options.report or options.exp,
                ("value", "means_only"): "true" if options.means_only else "false",
                ("value", "int8_suffix"): RUNTIMES[options.int8_runtime]}

    def _fields(self, each: Resolved) -> dict[str, str]:
        """Gives the fields of a system; one that does not apply to it is empty."""
        system, exp = each.system, self.options.exp
        model = each.file or model_of(system, self.options)
        of_row = each.kind in ROW_KINDS
        return {
            "kind": each.kind, "net": system.net, "row": system.row or "", "start": each.start,
            "teacher": "" if each.taught_by_file else each.teacher, "given": each.teacher if each.taught_by_file else "",
            "levels": " ".join(each.levels), "config": each.config, "input": each.settings.input if each.config else "",
            "seed": "" if system.seed is None else str(system.seed),
            "bits": self.bits(each), "blocks": self.blocks(each),
            "speech": "true" if of_row and each.settings.takes_speech else "false",
            "whole": system.whole if each.kind == MEMBER else "",
            "member_bits": str(system.bits) if each.kind == MEMBER else "",
            "exported": system.exported_from if system.int8 else "",
            "file": each.file, "model": model,
            "model_file": model if each.file or system.int8 else os.path.join(exp, each.name, "model.safetensors")}

    def _keyed(self, fields: dict[tuple[str, str], str]) -> None:
        """Adds the fields of teachers of levels, tables of blocks, float systems, trial lists and ladders."""
        options = self.options
        for teacher, levels in self.level_teachers().items():
            fields["levels", teacher] = " ".join(levels)
        for teacher in self.file_teachers():
            fields["model", teacher] = self.conf.file_of(teacher)
        for key, each in self.block_tables().items():
            fields.update({("net", key): each.system.net, ("row", key): each.system.row, ("config", key): each.config,
                           ("blocks", key): self.blocks(each), ("speech", key): fields["speech", each.name]})
        nets = dict.fromkeys((*(each.name for each in self.of_kind(*FLOAT_KINDS)), *options.analysis, *options.search))
        fields.update({("control", net): self.control(net) for net in nets})
        fields.update({("finetuning", net): self.conf.finetuning_of(net) for net in nets})
        fields.update({("compared", net): " ".join(self.compared(net)) for net in options.analysis})
        fields.update({("rungs", ladder): ladder.replace(":", " ") for ladder in options.ladders})
        for path in options.trials:
            fields["list_name", path], fields["set", path] = list_name(path), os.path.dirname(path)
        self._search_fields(fields)

    def _search_fields(self, fields: dict[tuple[str, str], str]) -> None:
        if not self.options.search or not self.options.runs(SEARCHING):
            return
        for net in self.options.search:
            taught = self.conf.read(f"{self.conf.finetuning_of(net)}:{self.options.search_row}").part("distill") is not None
            made = [name for name, each in self.systems.items() if each.system.net == net and name != net]
            fields["traded", net], fields["search_teacher", net] = " ".join(made), net if taught else ""
