"""Configs: what fits the schema comes back typed; all else is one line that names file and key."""

import dataclasses
import importlib
import math
import os
import pkgutil
import re
import typing
from dataclasses import dataclass, field
from typing import Literal

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

import svq
from svq.config import check_choices, dump_config, from_dict, load_config, to_dict, write_provenance
from svq.config_files import config_files, read_tree
from svq.errors import UserError
from svq.train.config import TrainConfig


@dataclass(frozen=True)
class Inner:
    rate: float = 0.5
    kind: Literal["a", "b"] = "a"
    pair: tuple[float, float] = (0.0, 1.0)

    def __post_init__(self):
        if self.rate > 10:
            raise ValueError(f"rate is {self.rate}; it must be at most 10")


@dataclass(frozen=True)
class Outer:
    size: int
    inner: Inner = field(default_factory=Inner)
    extra: Inner | None = None
    name: str | None = None
    flag: bool = False
    options: dict = field(default_factory=dict)
    seed: int = 0


def written(tmp_path, text):
    path = tmp_path / "my conf.yaml"
    path.write_text(text)
    return path


def test_values_defaults_and_overrides(tmp_path):
    path = written(tmp_path, "size: 3\ninner: {rate: 1e-4, pair: [1, 2]}\noptions: {width: 8, floor: 1e-8}\n")
    overrides = ["inner.kind=b", "extra.rate=2", "flag=true", "options.width=16", "options.step=-2.5E+3"]
    config = load_config(path, Outer, overrides)
    options = {"width": 16, "floor": 1e-8, "step": -2500.0}
    assert config == Outer(3, Inner(1e-4, "b", (1.0, 2.0)), Inner(2.0), None, True, options)
    assert isinstance(config.inner.pair, tuple) and isinstance(config.extra.rate, float)


@pytest.mark.parametrize("text, words", [
    ("sise: 3", ["unknown key 'sise'", "did you mean 'size'"]),
    ("size: 3\ninner: {rat: 1}", ["unknown key 'inner.rat'", "inner.rate"]),
    ("size: 3\nzzz: 1", ["unknown key 'zzz'", "known: size"]),
    ("size: 3\n1: 1", ["unknown key '1'"]),
    ("{}", ["'size' is missing"]),
    ("size: three", ["'size' must be of type int", "'three'"]),
    ("size: 3.5", ["'size' must be of type int"]),
    ("size: true", ["'size' must be of type int"]),
    ("size: null", ["'size' must be of type int"]),
    ("size: 3\ninner: {rate: fast}", ["'inner.rate' must be of type float", "'fast'"]),
    ("size: 3\ninner: {rate: .nan}", ["'inner.rate' must be of type float"]),
    ("size: 3\ninner: {rate: -.inf}", ["'inner.rate' must be a finite number"]),
    ("size: 3\ninner: {rate: 1e999}", ["'inner.rate' must be a finite number"]),
    ("size: 3\ninner: {rate: true}", ["'inner.rate'"]),
    ("size: 3\nflag: true\nsize: 4", [":3: not valid YAML: 'size' is given twice, in line 1, too"]),
    ("size: 3\ninner: {kind: a, rate: 1, kind: b}", [":2: not valid YAML: 'kind' is given twice"]),
    ("size: 3\noptions: !!map [1]", [":2: not valid YAML"]),
    ("size: 3\noptions: &x {a: *x}", ["lies within what it names"]),
    ("size: 3\noptions: {a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1], b: &b [*a, *a, *a, *a, *a, *a, *a, *a, *a], "
     "c: &c [*b, *b, *b, *b, *b, *b, *b, *b, *b], d: &d [*c, *c, *c, *c, *c, *c, *c, *c, *c], "
     "e: [*d, *d, *d, *d, *d, *d, *d, *d, *d], f: [*d, *d, *d, *d, *d, *d, *d, *d, *d]}", ["more than 100,000 values, its aliases"]),
    ("size: 3\nseed: -1", ["'seed' is -1; a seed must not be negative"]),
    ("size: 3\ninner: {rate: 11}", ["inner.rate is 11.0; it must be at most 10"]),
    ("size: 3\ninner: {kind: c}", ["'inner.kind' is 'c'", "a, b"]),
    ("size: 3\ninner: {pair: 4}", ["'inner.pair' must be a list"]),
    ("size: 3\ninner: {pair: [1, x]}", ["'inner.pair[1]'"]),
    ("size: 3\ninner: 4", ["'inner' must be a mapping"]),
    ("size: 3\ninner: null", ["'inner' must be a mapping"]),
    ("size: 3\nflag: 1", ["'flag' must be of type bool"]),
    ("size: 3\nname: 4", ["'name' must be of type str"]),
    ("size: 3\noptions: [1]", ["'options' must be a mapping"]),
    ("- 1", ["a config is a mapping", "list"]),
    ("size: 3\n bad: [", [":2: not valid YAML"]),
])
def test_mistakes_name_file_and_key_in_one_line(tmp_path, text, words):
    path = written(tmp_path, text)
    with pytest.raises(UserError) as error:
        load_config(path, Outer)
    message = str(error.value)
    assert message.startswith(str(path)) and "\n" not in message
    for word in words:
        assert word in message


@pytest.mark.parametrize("override, words", [
    ("size", "key.sub=value"), ("=3", "key.sub=value"), ("size=[", "not valid YAML"),
    ("inner.nope=1", "'inner.nope'"), ("size.deep=1", "not a mapping"), ("inner.pair.x=1", "inner.pair"),
])
def test_wrong_overrides(tmp_path, override, words):
    path = written(tmp_path, "size: 3\ninner: {pair: [0, 1]}")
    with pytest.raises(UserError, match=words.replace("[", r"\[")):
        load_config(path, Outer, [override])


def test_aliases_and_merge_keys_are_read(tmp_path):
    path = written(tmp_path, "size: 3\ninner: &it {rate: 1, kind: b}\nextra: {<<: *it, rate: 2}\n")
    assert load_config(path, Outer) == Outer(3, Inner(1.0, "b"), Inner(2.0, "b"))


def test_unreadable_files(tmp_path):
    with pytest.raises(UserError, match="no such config file"):
        load_config(tmp_path / "none.yaml", Outer)
    with pytest.raises(UserError, match="cannot be read"):
        load_config(tmp_path, Outer)
    (tmp_path / "latin.yaml").write_bytes(b"size: \xe9")
    with pytest.raises(UserError, match="not valid YAML"):
        load_config(tmp_path / "latin.yaml", Outer)
    (tmp_path / "code.yaml").write_text("size: !!python/object/apply:os.getpid []")
    with pytest.raises(UserError, match="not valid YAML"):
        load_config(tmp_path / "code.yaml", Outer)


def test_no_file_is_an_empty_one():
    assert load_config(None, Outer, ["size=1"]) == Outer(1)
    with pytest.raises(UserError, match="^defaults: key 'size' is missing"):
        load_config(None, Outer)


def tree_of_files(folder, files):
    for name, text in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    return folder


def test_a_base_is_taken_over_and_the_nearer_file_wins(tmp_path):
    folder = tree_of_files(tmp_path, {
        "far.yaml": "size: 1\nflag: true\nname: far\nextra: {rate: 3}\ninner: {rate: 1, kind: b}\noptions: {a: 1, b: {c: 1, d: 2}}\n",
        "conf/mid.yaml": "base: ../far.yaml\nsize: 2\nname: mid\ninner: {pair: [5, 6]}\noptions: {b: {d: 3}}\n",
        "conf/q/near.yaml": "base: ../mid.yaml\nsize: 3\nextra: null\ninner: {rate: 2}\n"})
    expected = Outer(3, Inner(2.0, "b", (5.0, 6.0)), None, "mid", True, {"a": 1, "b": {"c": 1, "d": 3}})
    near = folder / "conf" / "q" / "near.yaml"
    assert load_config(near, Outer) == expected
    assert load_config(near, Outer, ["inner.kind=a", "name=set"]) == dataclasses.replace(
        expected, inner=Inner(2.0, "a", (5.0, 6.0)), name="set")
    files = config_files(near)
    assert [os.path.realpath(file) for file in files] == [
        os.path.realpath(folder / name) for name in ("conf/q/near.yaml", "conf/mid.yaml", "far.yaml")]
    assert read_tree(near)["inner"] == {"rate": 2, "kind": "b", "pair": [5, 6]} and "base" not in read_tree(near)
    assert config_files(folder / "far.yaml") == [str(folder / "far.yaml")]


def test_a_base_by_its_absolute_path_and_an_empty_file(tmp_path):
    tree_of_files(tmp_path, {"far.yaml": "size: 1", "near.yaml": f"base: {tmp_path / 'far.yaml'}\n"})
    assert load_config(tmp_path / "near.yaml", Outer) == Outer(1)


@pytest.mark.parametrize("files, words", [
    ({"a.yaml": "base: b.yaml"}, ["b.yaml: no such config file", "a.yaml names"]),
    ({"a.yaml": "base: b.yaml", "b.yaml": "base: no.yaml"}, ["no.yaml: no such config file", "b.yaml names"]),
    ({"a.yaml": "base: a.yaml"}, ["a.yaml: its base", "a.yaml builds on"]),
    ({"a.yaml": "base: b.yaml", "b.yaml": "base: ./a.yaml"}, ["b.yaml: its base", "a.yaml builds on", "must end"]),
    ({"a.yaml": "base: [b.yaml]"}, ["a.yaml: 'base' must be the name", "['b.yaml']"]),
    ({"a.yaml": "base: b.yaml", "b.yaml": "x: ["}, ["b.yaml:1: not valid YAML", "a.yaml names"]),
    ({"a.yaml": "base: b.yaml", "b.yaml": "size: 3\nnam: x"}, ["a.yaml (base: ", "b.yaml): unknown key 'nam'"]),
])
def test_mistakes_with_bases_name_both_files_in_one_line(tmp_path, files, words):
    with pytest.raises(UserError) as error:
        load_config(tree_of_files(tmp_path, files) / "a.yaml", Outer)
    message = str(error.value)
    assert "\n" not in message
    for word in words:
        assert word in message


trees = st.recursive(st.none() | st.integers() | st.lists(st.integers(), max_size=2),
                     lambda inner: st.dictionaries(st.sampled_from("abc"), inner, max_size=3), max_leaves=9)
mappings = st.dictionaries(st.sampled_from("abc"), trees, max_size=3)


def paths_of(tree, prefix=()):
    """{path: leaf}; a mapping without keys is a leaf."""
    leaves = {}
    for key, value in tree.items():
        leaves.update(paths_of(value, (*prefix, key)) if isinstance(value, dict) and value else {(*prefix, key): value})
    return leaves


@given(mappings, mappings)
def test_merging_keeps_every_leaf_of_the_nearer_file_and_all_others_of_the_base(tmp_path_factory, far, near):
    folder = tmp_path_factory.getbasetemp()
    (folder / "far.yaml").write_text(yaml.safe_dump(far))
    (folder / "near.yaml").write_text(yaml.safe_dump({**near, "base": "far.yaml"}))
    merged = paths_of(read_tree(folder / "near.yaml"))
    ours, theirs = paths_of(near), paths_of(far)
    for path, value in ours.items():
        if value != {}:
            assert merged[path] == value
    for path, value in theirs.items():
        prefixes = {path[:i] for i in range(1, len(path) + 1)}
        covered = any(p in ours and ours[p] != {} for p in prefixes) or any(o[:len(path)] == path for o in ours)
        if not covered:
            assert merged[path] == value


numbers = st.floats(-1e6, 10, allow_nan=False)


@given(st.builds(Outer, st.integers(), st.builds(Inner, numbers, st.sampled_from("ab"), st.tuples(numbers, numbers)),
                 st.none() | st.builds(Inner, numbers), st.none() | st.text(), st.booleans(),
                 st.dictionaries(st.text(), st.integers())))
def test_dumped_and_read_back(tmp_path_factory, config):
    path = tmp_path_factory.getbasetemp() / "dumped.yaml"
    dump_config(config, path)
    assert load_config(path, Outer) == config


def test_training_config_round_trip(tmp_path):
    config = from_dict({"augment": {"prob": 0.5}, "quant": {"bits": 2}, "distill": {}}, TrainConfig)
    dump_config(config, tmp_path / "config.yaml")
    assert load_config(tmp_path / "config.yaml", TrainConfig) == config


@pytest.mark.parametrize("key, value", [
    ("epochs", 0), ("batch_size", 0), ("average", 0), ("scale", 0), ("data.crop_seconds", 0), ("data.num_workers", -1),
    ("optimizer.momentum", 1), ("optimizer.weight_decay", -1), ("optimizer.grad_clip", 0), ("schedule.final_lr", 0),
    ("schedule.final_lr", 1), ("schedule.warmup_epochs", -1), ("schedule.margin", 2), ("schedule.margin_start_epoch", 50),
    ("quant.bits", 0), ("quant.bits", 9), ("quant.retention", 0), ("distill.label_weight", -1), ("model.embed_dim", 0),
    ("model.quant.bits", 4), ("model.front_end.num_mels", 0), ("spec_augment.prob", 2)])
def test_values_out_of_range_name_their_key(key, value):
    with pytest.raises(UserError) as error:
        load_config(None, TrainConfig, [f"{key}={value}"])
    assert key.rsplit(".", 1)[-1] in str(error.value) or "model.quant" in str(error.value)


@pytest.mark.parametrize("settings, said", [
    ({"epochs": 20}, "after epoch 20 of 20"), ({"epochs": 21}, ""), ({"epochs": 2, "schedule": {"margin": 0}}, ""),
    ({"epochs": 2, "distill": {"label_weight": 0}}, ""), ({"epochs": 2, "distill": {}}, "of 2"),
    ({"epochs": 1, "schedule": {"margin_start_epoch": 1, "margin_full_epoch": 1}}, "of 1"),
    ({"quant": {}, "multi_stage": True, "stage_epochs": [30, 5]}, "of 5")])
def test_a_margin_that_is_never_used(settings, said):
    found = from_dict(settings, TrainConfig).without_margin()
    assert said in found and bool(said) == bool(found)


def test_augmentation_needs_waveforms():
    with pytest.raises(UserError, match="augment works on waveforms"):
        load_config(None, TrainConfig, ["augment.prob=0.5", "data.input=feats"])


def dataclasses_of_svq():
    for module in pkgutil.walk_packages(svq.__path__, "svq."):
        for found in vars(importlib.import_module(module.name)).values():
            if isinstance(found, type) and dataclasses.is_dataclass(found) and found.__module__ == module.name:
                yield found


def has_literal(hint):
    return typing.get_origin(hint) is Literal or any(map(has_literal, typing.get_args(hint)))


def test_words_that_are_no_choice_are_refused_wherever_a_config_is_made():
    """Fails for a dataclass with a field of Literal whose __post_init__ does not begin with check_choices."""
    seen = set()
    for schema in dataclasses_of_svq():
        fields, hints = dataclasses.fields(schema), typing.get_type_hints(schema)
        needed = {f.name: None for f in fields if f.default is f.default_factory is dataclasses.MISSING and f.init}
        for name in (name for name, hint in hints.items() if has_literal(hint)):
            allowed = "must be one of [a-z]"
            for wrong in ("no such word", 1, True, ["a", "list"]):
                with pytest.raises(ValueError, match=rf"^{name} is {re.escape(repr(wrong))}; it {allowed}"):
                    schema(**{**needed, name: wrong})
                    pytest.fail(f"{schema.__module__}.{schema.__name__} takes {name}={wrong!r}: check_choices(self) is "
                                "to be the first line of its __post_init__")
            seen.add((schema.__name__, name))
    assert {("QuantConfig", "method"), ("FrontEndConfig", "window"), ("DataConfig", "input"), ("Int8Config", "range"),
            ("AggregationTrainConfig", "precision")} <= seen


@dataclass(frozen=True)
class Choices:
    kind: Literal["a", "b"] = "a"
    number: Literal[0, 2] = 0
    maybe: Literal["c"] | None = None

    def __post_init__(self):
        check_choices(self)


def test_choices_are_checked_with_their_types():
    Choices("b", 2, "c")
    for wrong in ({"kind": None}, {"number": False}, {"number": 2.0}, {"maybe": "a"}):
        with pytest.raises(ValueError, match="it must be one of"):
            Choices(**wrong)
    with pytest.raises(ValueError, match="^maybe is 'd'; it must be one of c, None$"):
        Choices(maybe="d")


def test_provenance_says_what_made_a_result(tmp_path):
    write_provenance(tmp_path, Outer(3), seed=7)
    tree = yaml.safe_load((tmp_path / "provenance.yaml").read_text())
    assert tree["seed"] == 7 and tree["config"] == to_dict(Outer(3))
    assert tree["versions"]["torch"][0].isdigit() and tree["git"]
    assert tree["config"]["inner"]["pair"] == [0.0, 1.0]


def test_configs_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Outer(3).size = 4
    assert math.isinf(from_dict({"optimizer": {"grad_clip": math.inf}}, TrainConfig).optimizer.grad_clip)
