"""A ladder's YAML: what is wrong is said in a line; scores of all rungs come onto one scale."""

import dataclasses

import numpy as np
import pytest

from svq.backend.calibration import Calibration
from svq.backend.score_map import AffineMap, save_map
from svq.cascade.choose import fit_maps
from svq.cascade.cost import storage
from svq.cascade.ladder import Operating, load_ladder, load_maps, to_scale
from svq.errors import UserError
from svq.models import save_model
from svq.network import ModelConfig
from svq.quant import QuantConfig, quantize_

GOOD = "rungs:\n- {name: a, model: a.svq, delta: 1.5}\n- {name: b, model: b}\n"


def written(tmp_path, text):
    path = tmp_path / "ladder.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("text, words", [
    ("rungs:\n- {name: a, model: m}\n", "a cascade has two at least"),
    (GOOD.replace("name: b", "name: a"), "names must differ"),
    (GOOD.replace("b, model: b", "b, model: b, delta: 1"), "b is the last and settles every trial"),
    (GOOD.replace("1.5", "-1"), "delta is -1.0"),
    (GOOD.replace("name: a", "name: a/b"), "give one word"),
    (GOOD.replace("b, model: b", "b, model: b, map: isotonic"), "b is the last; its map"),
    (GOOD.replace("b, model: b", "b, model: b, map: none"), "a is calibrated and the last rung is not"),
    (GOOD + "operating: {p_target: 2}\n", "prior probability of a target is 2"),
    (GOOD + "operating: {p_goal: 2}\n", "unknown key 'operating.p_goal'"),
    (GOOD.replace("delta: 1.5", "bytes: 0"), "bytes is 0"),
    ("rungs:\n- {name: a, model: m, map: affine}\n- {name: b, model: b, map: none}\n", "no Bayes' threshold"),
])
def test_what_is_wrong_is_said(tmp_path, text, words):
    with pytest.raises(UserError, match=words) as error:
        load_ladder(written(tmp_path, text))
    assert "\n" not in str(error.value) and "ladder.yaml" in str(error.value)


def test_good_ones_and_where_their_files_are(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path.parent)
    (tmp_path / "a.svq").write_text("")
    ladder = load_ladder(written(tmp_path, GOOD))
    assert ladder.deltas().tolist() == [1.5] and ladder.threshold() == pytest.approx(np.log(99))
    assert [rung.model for rung in ladder.rungs] == [str(tmp_path / "a.svq"), "b"]
    assert load_ladder(written(tmp_path, GOOD.replace("1.5", ".inf"))).deltas().tolist() == [np.inf]


def test_one_scale(tmp_path):
    affine, low, high = AffineMap(2.0, 0.1), Calibration(3.0, 1.0), Calibration(10.0, -4.0)
    scores = np.array([-0.2, 0.5])
    assert to_scale([affine, high], 0, scores) == pytest.approx(10 * (2 * scores + 0.1) - 4)
    assert to_scale([low, high], 0, scores) == pytest.approx(3 * scores + 1)
    assert to_scale([None, high], 0, scores) == pytest.approx(10 * scores - 4)
    assert to_scale([affine, None], 0, scores) == pytest.approx(2 * scores + 0.1)
    assert to_scale([affine, None], 1, scores) == pytest.approx(scores)
    for name, each in (("low", low), ("affine", affine.of("plda_none")), ("high", affine)):
        save_map(each, tmp_path / f"{name}.json")
    text = "rungs:\n" + "".join(f"- {{name: {name}, model: m, map: {tmp_path}/{name}.json}}\n"
                                 for name in ("low", "high"))
    with pytest.raises(UserError, match="map of the last rung is affine"):
        load_maps(load_ladder(written(tmp_path, text)))
    with pytest.raises(UserError, match="a map of plda_none scores"):
        load_maps(load_ladder(written(tmp_path, text.replace("low.json", "affine.json"))))
    plain = text.replace(f"{tmp_path}/high.json", "none") + "operating: {eer: true}\n"
    with pytest.raises(UserError, match="two scales"):
        load_maps(load_ladder(written(tmp_path, plain)))


@pytest.mark.parametrize("kind", ["logistic", "affine"])
def test_scores_without_a_map_are_said_to_be_whose(tmp_path, kind):
    ladder = load_ladder(written(tmp_path, GOOD.replace("delta: 1.5", f"map: {kind}")))
    scores = np.array([[0.5] * 4, [0.1, 0.7, 0.2, 0.9]])
    with pytest.raises(UserError, match=f"rung a: no {kind} map of its scores .* not all equal"):
        fit_maps(ladder, scores, np.array([False, True, False, True]))


def test_a_map_of_another_score_is_not_taken_by_choose_either(tmp_path):
    save_map(Calibration(3.0, 1.0).of("plda_none"), tmp_path / "a.json")
    ladder = load_ladder(written(tmp_path, GOOD.replace("delta: 1.5", f"map: {tmp_path}/a.json")))
    with pytest.raises(UserError, match="a map of plda_none scores"):
        fit_maps(ladder, np.zeros((2, 4)), np.array([False, True, False, True]))


def test_the_operating_point_is_described_as_it_is():
    bayes = Operating(p_target=0.05)
    assert "target prior of 0.05" in bayes.describe()
    assert dataclasses.replace(bayes, threshold=float(np.log(19))).describe() == bayes.describe()
    assert dataclasses.replace(bayes, threshold=0.3).describe() == "a threshold that the ladder gives"
    assert "EER" in Operating(eer=True, threshold=0.3).describe()


def test_storage_without_a_packed_file_is_what_the_rung_says(tmp_path):
    config = ModelConfig("ResNet18", {"width": 4}, 16, quant=QuantConfig(bits=2))
    save_model(tmp_path / "m", quantize_(config.build(), config.quant), config)
    text = GOOD.replace("a.svq, delta: 1.5", f"{tmp_path}/m, bytes: 7").replace("model: b", "model: b.onnx")
    (tmp_path / "b.onnx").write_bytes(b"12345")
    assert storage(load_ladder(written(tmp_path, text)).rungs) == 12
