"""Configs: what fits the schema comes back typed; all else is one line that names file and key."""

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Literal

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from svq.config import dump_config, from_dict, load_config, to_dict, write_provenance
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


def written(tmp_path, text):
    path = tmp_path / "my conf.yaml"
    path.write_text(text)
    return path


def test_values_defaults_and_overrides(tmp_path):
    path = written(tmp_path, "size: 3\ninner: {rate: 1e-4, pair: [1, 2]}\noptions: {width: 8}\n")
    config = load_config(path, Outer, ["inner.kind=b", "extra.rate=2", "flag=true", "options.width=16"])
    assert config == Outer(3, Inner(1e-4, "b", (1.0, 2.0)), Inner(2.0), None, True, {"width": 16})
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
    ("size: 3\ninner: {rate: true}", ["'inner.rate'"]),
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


def test_augmentation_needs_waveforms():
    with pytest.raises(UserError, match="augment works on waveforms"):
        load_config(None, TrainConfig, ["augment.prob=0.5", "data.input=feats"])


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
