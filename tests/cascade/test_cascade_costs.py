"""What embeddings cost: against closed forms, the counter itself and slow loops."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from svq.cascade.cost import ACCOUNTINGS, LIST, STREAMING, count, knots_of, operations, packed_size, rung_cost
from svq.cascade.ladder import Rung, reached
from svq.evaluation.operations import count_flops
from svq.models import save_model
from svq.network import ModelConfig
from svq.pack.file import save_packed
from svq.quant import QuantConfig, quantize_

CONFIG = ModelConfig("ResNet18", {"width": 4}, 16)


def with_bits(bits, layers=None):
    return ModelConfig("ResNet18", {"width": 4}, 16, quant=QuantConfig(bits=bits, layers=layers))


def test_bit_operations_are_products_of_bits():
    macs, bits = operations(CONFIG, 120)
    assert macs == count_flops(CONFIG.build(), 80, 120) / 2
    assert bits == macs * 32 * 32
    assert operations(with_bits(2), 120) == (macs, bits / 16)
    assert operations(with_bits(4), 120, activation_bits=8) == (macs, bits / 32)
    assert operations(with_bits(2), 120, weight_bits=8, activation_bits=8) == (macs, bits / 16)
    first = 9 * 4 * 80 * 120  # the first convolution: 3 x 3 of one channel into 4, at each place
    assert operations(with_bits(2, {"conv1": 32}), 120)[1] == pytest.approx(bits / 16 + first * 30 * 32)


def test_between_the_counted_lengths(tmp_path):
    net = CONFIG.build()
    save_model(tmp_path / "m", net, CONFIG)
    frames = np.arange(101, 900, 3)
    assert len(knots_of(frames)) == 9
    cost = rung_cost(Rung("float", str(tmp_path / "m")), knots_of(frames))
    some = frames[[37, 101, 200, 250]]
    exact = [operations(CONFIG, int(t)) for t in some]
    np.testing.assert_allclose(cost(some)[:, :2], exact, rtol=2e-2)
    low = dataclasses.replace(Rung("low", str(tmp_path / "m")), weight_bits=2)
    np.testing.assert_allclose(rung_cost(low, cost.frames)(some)[:, 1] / cost(some)[:, 1], 2 / 32)
    assert set(cost(frames)[:, 2]) == {(tmp_path / "m/model.safetensors").stat().st_size}
    assert knots_of([300, 100, 300]).tolist() == [100, 300]


def test_packed_size(tmp_path):
    config = with_bits(4)
    net = quantize_(config.build(), config.quant)
    save_model(tmp_path / "m", net, config)
    with pytest.raises(Exception, match="model.svq: no such file; steps/pack.sh"):
        packed_size(str(tmp_path / "m"))
    save_packed(tmp_path / "m/model.svq", net, config)
    size = (tmp_path / "m/model.svq").stat().st_size
    assert packed_size(str(tmp_path / "m")) == packed_size(str(tmp_path / "m/model.svq")) == size
    assert rung_cost(Rung("4", str(tmp_path / "m"), bytes=7), [50]).weight_bytes == 7


@st.composite
def lists(draw):
    """A list of 10 trials of 3 models of one or two utterances each, of 6 utterances; rungs; a table of costs."""
    members = draw(st.lists(st.lists(st.integers(0, 5), min_size=1, max_size=2, unique=True), min_size=3, max_size=3))
    whole = lambda high: np.array(draw(st.lists(st.integers(0, high), min_size=10, max_size=10)))  # noqa: E731
    listed = SimpleNamespace(test=whole(5), model=whole(2), member=np.concatenate(members).astype(int),
                             member_model=np.repeat(np.arange(3), [len(m) for m in members]))
    table = np.random.default_rng(draw(st.integers(0, 9))).integers(1, 99, (3, 6, 3)).astype(float)
    return listed, members, whole(2), table


@given(lists())
def test_counting_as_a_loop_would(example):
    listed, members, rung, table = example
    for accounting in ACCOUNTINGS:
        spent, made, ready = np.zeros(3), np.zeros(3, dtype=int), set()
        for i, test in enumerate(listed.test):
            for r in range(rung[i] + 1):
                wanted = [(r, test, "list" if accounting == LIST else i)]
                if accounting != STREAMING:
                    wanted += [(r, u, "list" if accounting == LIST else "enrolled") for u in members[listed.model[i]]]
                for key in wanted:
                    if key not in ready:
                        ready.add(key)
                        made[r] += 1
                        spent += table[r, key[1]]
        found = count(listed, reached(rung, 3), table, accounting)
        assert found.embeddings.tolist() == made.tolist()
        np.testing.assert_allclose(found.costs.sum(axis=0), spent)
