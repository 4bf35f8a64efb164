"""Bit allocation: never worse than trying everything, within the size of the real file, and clear when it cannot be."""

import dataclasses
import itertools
import os

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from svq.backend.calibration import mean_text
from svq.bin import allocate as worker
from svq.bits.config import AllocateConfig
from svq.bits.allocation import Allocator, Problem, allocate, choose, make_problem, pareto, sections_of, uniform_choice
from svq.bits.table import LayerBits, bits_by_layer, check_bits, read_bits
from svq.config import from_dict
from svq.errors import UserError
from svq.models import save_model
from svq.network import ModelConfig
from svq.pack.file import save_packed
from svq.quant import QuantConfig, quantize_
from svq.quant.api import average_bits, float_weight, quantizable
from tests.helpers import run_worker

CANDIDATES = (1, 2, 3, 4)


@st.composite
def tables(draw, rows=5, columns=4):
    """Costs (L, C) of up to sixteen orders of magnitude, zeros among them, sizes (L, C), and a budget."""
    rows, columns = draw(st.integers(1, rows)), draw(st.integers(1, columns))
    numbers = st.one_of(st.just(0.0), st.floats(1e-12, 1e4), st.floats(0.5, 2))
    costs = draw(st.lists(numbers, min_size=rows * columns, max_size=rows * columns))
    sizes = draw(st.lists(st.integers(1, 5000), min_size=rows * columns, max_size=rows * columns))
    costs, sizes = np.reshape(costs, (rows, columns)), np.reshape(sizes, (rows, columns))
    return costs, sizes, draw(st.integers(0, int(sizes.max(axis=1).sum())))


def brute_force(costs, sizes, budget, ordered=False):
    """The least total cost over all choices within the budget, and its least size; None where there is none."""
    rows, columns = costs.shape
    best = None
    for choice in itertools.product(range(columns), repeat=rows):
        if ordered and any(a < b for a, b in itertools.pairwise(choice)):
            continue
        cost, size = sum(costs[range(rows), choice]), sum(sizes[range(rows), choice])
        if size <= budget and (best is None or cost < best):
            best = cost
    return best


@settings(max_examples=150, deadline=None)
@given(tables(), st.booleans())
def test_the_choice_is_as_good_as_the_best_of_all(case, ordered):
    costs, sizes, budget = case
    choice = choose(costs, sizes, budget, ordered)
    best = brute_force(costs, sizes, budget, ordered)
    assert (choice is None) == (best is None)
    if choice is not None:
        rows = range(len(costs))
        assert sizes[rows, choice].sum() <= budget
        assert not ordered or all(np.diff(choice) <= 0)
        # The solver's tolerance is relative to the largest cost that is at stake.
        assert costs[rows, choice].sum() <= best + 1e-9 * costs.max()


def test_bytes_that_buy_nothing_are_not_spent():
    costs, sizes = np.array([[3.0, 1.0], [0.0, 0.0]]), np.array([[10, 20], [1, 500]])
    assert choose(costs, sizes, 1000).tolist() == [1, 0]


@pytest.mark.parametrize("layers, count, expected", [(8, 4, [2, 2, 2, 2]), (10, 4, [3, 3, 2, 2]), (3, 4, [1, 1, 1]),
                                                     (5, 1, [5]), (3, None, [1, 1, 1])])
def test_sections_are_as_equal_as_they_can_be(layers, count, expected):
    traces = np.random.default_rng(0).permutation(layers).astype(float)
    sections = sections_of(traces, count)
    assert [len(rows) for rows in sections] == expected
    assert traces[np.concatenate(sections)].tolist() == sorted(traces, reverse=True)


def test_pareto_keeps_what_nothing_beats():
    assert pareto([(5, 2.0, 1.0), (3, 1.0, 2.0), (4, 1.5, 2.0), (5, 2.1, 0.5), (6, 3.0, 0.5), (3, 1.0, 2.5)]) == [
        (3, 1.0, 2.0), (5, 2.1, 0.5)]


def random_problem(seed=0, layers=12, candidates=CANDIDATES):
    """Layers of a hundred to many thousand weights; errors fall fourfold with each bit, traces span four decades."""
    rng = np.random.default_rng(seed)
    weights = (10 ** rng.uniform(2, 4.5, layers)).astype(np.int64)
    bits = np.array(candidates)
    data = -(-weights[:, None] * bits // 8) + 4 * 2**bits
    perturbation = 0.25 ** bits * rng.uniform(0.5, 2, (layers, 1)) * weights[:, None] * 1e-3

    def file_bytes(choice):  # a header whose length depends a little on the bits, and is filled up to eight bytes
        columns = [candidates.index(b) for b in choice]
        own = data[range(layers), columns]
        return int(own.sum()) + -(-(900 + sum(len(str(end)) for end in own.cumsum())) // 8) * 8

    return Problem(tuple(f"l{i}" for i in range(layers)), tuple((int(n),) for n in weights), candidates,
                   perturbation, data, weights, 10 ** rng.uniform(-4, 0, layers), file_bytes)


@pytest.mark.parametrize("seed", range(3))
def test_every_layer_for_itself_is_never_worse_than_sections(seed):
    problem = random_problem(seed)
    sizes = [problem.size(np.full(12, k)) for k in range(4)]
    for target in np.linspace(sizes[0], sizes[-1], 7).astype(int):
        found = {}
        for sections, ordered in itertools.product((None, 4), (False, True)):
            choice = Allocator(problem, sections, ordered).within_bytes(int(target))
            assert problem.size(choice) <= target
            found[sections, ordered] = problem.objective(choice)
            if sections:
                assert all(len(set(choice[rows])) == 1 for rows in sections_of(problem.traces, 4))
            if ordered:
                assert all(np.diff(choice[np.argsort(-problem.traces)]) <= 0)
        uniform = min(problem.objective(np.full(12, k)) for k in range(4) if sizes[k] <= target)
        assert found[None, False] <= found[4, False] <= found[4, True] <= uniform * (1 + 1e-12)
        assert found[None, False] <= found[None, True] <= uniform * (1 + 1e-12)


def test_four_sections_are_the_best_of_all_256():
    problem = random_problem(3)
    sections = sections_of(problem.traces, 4)
    for average in (1.1, 1.7, 2, 3.3):
        best = np.inf
        for bits in itertools.product(range(4), repeat=4):
            choice = np.empty(12, int)
            for rows, column in zip(sections, bits):
                choice[rows] = column
            if problem.average_bits(choice) <= average:
                best = min(best, problem.objective(choice))
        choice = Allocator(problem, 4).within_average(average)
        assert problem.average_bits(choice) <= average
        assert problem.objective(choice) == pytest.approx(best, rel=1e-9)


def test_the_size_of_the_file_is_used_up():
    """No other allocation of a file that fits, by trying all, has a smaller objective; whatever the header does."""
    problem = random_problem(1, layers=6)
    choices = [np.array(choice) for choice in itertools.product(range(4), repeat=6)]
    table = sorted((problem.size(choice), problem.objective(choice)) for choice in choices)
    sizes = np.array([size for size, _ in table])
    best = np.minimum.accumulate([objective for _, objective in table])
    for target in np.linspace(sizes[0], sizes[-1], 40).astype(int):
        choice = Allocator(problem).within_bytes(int(target))
        assert problem.objective(choice) == pytest.approx(best[np.searchsorted(sizes, target, "right") - 1], rel=1e-9)


def test_the_frontier_falls_from_the_smallest_to_the_largest_file():
    problem = random_problem(2)
    points = Allocator(problem).frontier(40)
    assert len(points) > 20
    for (size, bits, objective), (size2, bits2, objective2) in itertools.pairwise(points):
        assert size < size2 and objective > objective2
    assert points[0][0] == problem.size(np.zeros(12, int)) and points[0][1] == 1
    assert points[-1][:2] == (problem.size(np.full(12, 3)), 4)
    for size, _, objective in [*points[::8], *Allocator(problem, 4).frontier(20)[::4]]:
        assert problem.objective(Allocator(problem).within_bytes(size)) <= objective * (1 + 1e-9)


def test_an_average_in_decimal_is_met_to_the_last_weight():
    problem = dataclasses.replace(random_problem(0, 2), weights=np.array([3, 7]), traces=np.array([1.0, 1e-6]))
    assert Allocator(problem).within_average(2.3).tolist() in ([3, 0], [2, 1])  # 23 bits less at most
    problem = dataclasses.replace(problem, perturbation=np.array([[9.0, 5, 1, 0.5], [9, 1, 1, 1]]), traces=np.ones(2))
    assert Allocator(problem).within_average(2.3).tolist() == [2, 1]  # exactly 3 x 3 + 7 x 2 = 23 bits


def test_targets_out_of_reach_say_both_numbers():
    problem = random_problem()
    least = problem.size(np.zeros(12, int))
    with pytest.raises(UserError, match=f"a file of 100 bytes .* 1 bits for every layer, has {least} bytes; raise"):
        Allocator(problem).within_bytes(100)
    config = AllocateConfig(CANDIDATES, bytes=least + 10, reserve=50)
    with pytest.raises(UserError, match=f"has {least} bytes and needs 50 for the calibration; .* to {least + 50}"):
        allocate(problem, config)
    assert allocate(problem, dataclasses.replace(config, bytes=least + 50)).tolist() == [0] * 12
    with pytest.raises(UserError, match="an average of 0.5 bits cannot be met: the fewest are 1,"):
        Allocator(problem).within_average(0.5)


@pytest.mark.parametrize("settings_, words", [
    ({}, "allocate.no target given; give one of average_bits, bytes and megabytes"),
    ({"bytes": 10, "average_bits": 2}, "average_bits and bytes given"),
    ({"average_bits": 2, "candidates": [0, 2]}, "candidates are [0, 2]; they must be from 1 to 8"),
    ({"average_bits": 2, "candidates": [32]}, "candidates are [32]"),
    ({"average_bits": 2, "candidates": []}, "candidates are []"),
    ({"average_bits": -1}, "average_bits is -1.0; it must be positive"),
    ({"megabytes": ".inf"}, "megabytes"),
    ({"bytes": 10, "reserve": -1}, "reserve is -1"),
    ({"bytes": 10, "sections": 0}, "sections is 0"),
    ({"bytes": 10, "section": 4}, "did you mean 'allocate.sections'?"),
])
def test_settings_are_checked(settings_, words):
    with pytest.raises(UserError) as error:
        from_dict(settings_, AllocateConfig, "c.yaml", "allocate.")
    assert words in str(error.value)


# ---- with real networks and files


def network(seed=0, arch="ResNet18", width=4):
    torch.manual_seed(seed)
    config = ModelConfig(arch, {"width": width}, 16)
    return config.build().eval(), config


def sensitivities(net, seed=0):
    rng = np.random.default_rng(seed)
    return [LayerBits(name, tuple(float_weight(module).shape), float(10 ** rng.uniform(-3, 0)), 32)
            for name, module in quantizable(net)]


def test_tables_of_a_network_against_their_definition():
    net, config = network()
    rows = sensitivities(net)
    rows[3] = dataclasses.replace(rows[3], trace=-0.5)
    problem = make_problem(net, QuantConfig(per_channel=False), config, rows, [4, 1, 32, 2], "s.tsv")
    assert problem.candidates == (1, 2, 4, 32) and problem.perturbation.shape == (21, 4)
    for column, bits in enumerate((1, 2, 4)):
        quantized, _ = network()
        quantize_(quantized, QuantConfig(bits=bits, per_channel=False))
        for i, (name, module) in enumerate(quantizable(quantized)):
            difference = float_weight(module).detach().double() - module.weight.detach().double()
            assert problem.perturbation[i, column] == pytest.approx(float((difference**2).sum()), rel=1e-12)
    assert (problem.perturbation[:, 3] == 0).all()
    assert (problem.sensitivity()[3] == 0).all() and problem.traces[3] == -0.5
    assert problem.objective(np.full(21, 3)) == 0
    i, choice = 7, np.full(21, 1)
    expected = sum(max(row.trace, 0) * problem.perturbation[j, 1] for j, row in enumerate(rows))
    assert problem.objective(choice) == pytest.approx(expected, rel=1e-12)


def packed_size(tmp_path, net, config, quant, calibration=None):
    model = dataclasses.replace(config, quant=quant)
    return save_packed(tmp_path / "model.svq", quantize_(net, quant), model, calibration)


def assert_used_up(problem, choice, target):
    """More bits for any one layer would not fit."""
    assert problem.size(choice) <= target
    for i in range(len(choice)):
        if choice[i] + 1 < len(problem.candidates):
            more = choice.copy()
            more[i] += 1
            assert problem.size(more) > target


@pytest.mark.parametrize("sections", [None, 4])
@pytest.mark.parametrize("quant", [QuantConfig(per_channel=False), QuantConfig(per_channel=True), QuantConfig(binary="adaptive", per_channel=False)])
def test_the_real_file_meets_the_target(tmp_path, sections, quant):
    net, config = network(width=8)
    problem = make_problem(net, quant, config, sensitivities(net), CANDIDATES, "s.tsv")
    uniform = problem.size(np.full(21, 1))
    longest = {"offset": -2.2250738585072014e-308, "prior": 2.2250738585072014e-308, "slope": 2.2250738585072014e-308,
               "score": "cosine_none", "mean": mean_text(np.full(config.embed_dim, np.pi))}
    for target in (uniform, uniform + 777, uniform + 3001):
        choice = allocate(problem, AllocateConfig(CANDIDATES, bytes=target, sections=sections))
        chosen = dataclasses.replace(quant, layers=dict(zip(problem.layers, problem.bits(choice))))
        assert packed_size(tmp_path, network(width=8)[0], config, chosen) == problem.size(choice)
        size = packed_size(tmp_path, network(width=8)[0], config, chosen, longest)
        assert size <= target
        if sections is None:
            assert_used_up(problem, choice, target - problem.calibration)


def test_layers_may_stay_in_float(tmp_path):
    net, config = network()
    problem = make_problem(net, QuantConfig(per_channel=False), config, sensitivities(net), (2, 32), "s.tsv")
    target = (problem.size(np.zeros(21, int)) * 2 + problem.size(np.array([1] * 20 + [0]))) // 3
    choice = Allocator(problem).within_bytes(target)
    assert 0 < choice.sum() < 21
    chosen = QuantConfig(layers=dict(zip(problem.layers, problem.bits(choice))), per_channel=False)
    quantized, _ = network()
    assert packed_size(tmp_path, quantized, config, chosen) == problem.size(choice)
    assert_used_up(problem, choice, target)
    assert average_bits(quantized) == pytest.approx(problem.average_bits(choice))
    with pytest.raises(UserError, match="room for every layer in float: nothing is quantized; lower the target"):
        allocate(problem, AllocateConfig((2, 32), megabytes=1))


def test_uniform_of_the_nearest_size():
    problem = random_problem()
    for column in range(4):
        assert uniform_choice(problem, problem.size(np.full(12, column)) + 9).tolist() == [column] * 12


def test_sensitivities_of_another_network_are_refused():
    net, config = network()
    rows = sensitivities(net)
    with pytest.raises(UserError, match="s.tsv: no row for layer conv1"):
        make_problem(net, QuantConfig(per_channel=False), config, rows[1:], CANDIDATES, "s.tsv")
    with pytest.raises(UserError, match="quant.layers gives layers their bits"):
        make_problem(net, QuantConfig(layers={"conv1": 4}, per_channel=False), config, rows, CANDIDATES, "s.tsv")
    with pytest.raises(UserError, match="candidates 1, 2 do not go with `quant`: .*method twn quantizes to 2 bits"):
        make_problem(net, QuantConfig(method="twn", bits=2, per_channel=False), config, rows, (1, 2), "s.tsv")


# ---- the worker


@pytest.fixture
def folder(tmp_path):
    """A model folder with its sensitivities, and a config that allocates 1.7 bits in four sections."""
    net, config = network()
    path = tmp_path / "my model"
    save_model(path, net, config)
    lines = [f"{row.layer}\t{'x'.join(map(str, row.shape))}\t{row.trace:.6g}\t0.001\t8" for row in sensitivities(net)]
    (path / "sensitivity.tsv").write_text("\n".join(["layer\tshape\ttrace\tstd_error\tsamples", *lines, ""]))
    (tmp_path / "mixed.yaml").write_text(
        "quant: {method: kmqat, per_channel: false}\nallocate: {candidates: [1, 2, 3, 4], average_bits: 1.7, sections: 4}\n")
    return path


def run(folder, *options):
    out = folder.parent / "sys"
    run_worker(worker.main, "--model", folder, "--sensitivity", folder / "sensitivity.tsv", "--config",
               folder.parent / "mixed.yaml", "--out", out / "bits.tsv", "--frontier", out / "frontier.tsv",
               "--frontier-points", 10, *options)
    return read_bits(out / "bits.tsv")


def test_worker_writes_bits_and_frontier(folder, capsys):
    rows = run(folder)
    net, config = network()
    check_bits(rows, net, "bits.tsv")
    assert [row.layer for row in rows] == [name for name, _ in quantizable(net)]
    quantize_(net, QuantConfig(layers=bits_by_layer(rows), per_channel=False))
    assert 1 < average_bits(net) <= 1.7
    assert all(len({row.bits for row in part}) == 1 for part in np.array_split(
        np.array(sorted(rows, key=lambda row: -row.trace), dtype=object), 4))
    out = capsys.readouterr().out.splitlines()[-1]
    assert out.startswith(f"{folder.parent}/sys/bits.tsv: ") and "; uniform: " in out
    table = np.loadtxt(folder.parent / "sys" / "frontier.tsv", skiprows=1)
    assert table.shape[1] == 3 and len(table) > 3
    first = (folder.parent / "sys" / "bits.tsv").read_bytes()
    run(folder)
    assert (folder.parent / "sys" / "bits.tsv").read_bytes() == first


def test_command_line_goes_before_the_config(folder):
    rows = run(folder, "--candidates", "2,3", "--megabytes", "0.023", "--sections", 0)
    assert {row.bits for row in rows} == {2, 3}
    net, config = network()
    quant = QuantConfig(layers=bits_by_layer(rows), per_channel=False)
    assert 22_500 < packed_size(folder, net, config, quant, {"slope": 2.5}) <= 23_000


def test_worker_refuses_in_one_line(folder):
    with pytest.raises(UserError, match="average of 0.3 bits cannot be met"):
        run(folder, "--average-bits", 0.3)
    with pytest.raises(UserError, match="--candidates 2;3: write it like 2,3,4"):
        run(folder, "--candidates", "2;3")
    with pytest.raises(UserError, match="average_bits and bytes given"):
        run(folder, "--average-bits", 2, "--bytes", 100)
    with pytest.raises(UserError, match="at least 2"):
        run(folder, "--frontier-points", 1)
    (folder.parent / "mixed.yaml").write_text("quant: {method: kmqat}\n")
    with pytest.raises(UserError, match="mixed.yaml: allocate.no target given"):
        run(folder)
    (folder.parent / "mixed.yaml").write_text("allocate: {bytes: 100}\n")
    with pytest.raises(UserError, match="mixed.yaml: has no `quant`"):
        run(folder)
    assert not os.path.exists(folder.parent / "sys")


def test_worker_wants_the_float_model(folder, tmp_path):
    net, config = network()
    quant = QuantConfig(bits=2, per_channel=False)
    save_model(tmp_path / "q", quantize_(net, quant), dataclasses.replace(config, quant=quant))
    with pytest.raises(UserError, match="is quantized already; allocate bits to the float model"):
        run(folder, "--model", tmp_path / "q")


def test_negative_traces_are_told(folder, capsys):
    path = folder / "sensitivity.tsv"
    lines = path.read_text().splitlines()
    fields = lines[5].split("\t")
    lines[5] = "\t".join([fields[0], fields[1], "-0.25", *fields[3:]])
    path.write_text("\n".join(lines) + "\n")
    rows = run(folder, "--sections", 0)
    assert f"1 traces are negative and count as 0 ({fields[0]})" in capsys.readouterr().err
    assert {row.layer: (row.trace, row.bits) for row in rows}[fields[0]] == (-0.25, 1)
