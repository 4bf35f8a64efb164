"""The space of a search against the settings that a training has."""

import pytest
import yaml
from torch import nn

from svq.errors import UserError
from svq.search.config import load_search, most_epochs
from svq.search.storage import distributions
from tests.conftest import ROOT

LR = {"low": 0.01, "high": 0.1}


def load(tmp_path, space, train=None, **settings):
    (tmp_path / "train.yaml").write_text(yaml.safe_dump(train or {"quant": {"bits": 4}}))
    (tmp_path / "search.yaml").write_text(yaml.safe_dump({"space": space, **settings}))
    return load_search(tmp_path / "search.yaml", tmp_path / "train.yaml")


@pytest.mark.parametrize("space, expected", [
    ({"schedule.lrr": LR}, "no setting 'schedule.lrr'; did you mean 'schedule.lr'"),
    ({"bits": {"choices": [2]}}, "no setting 'bits'; known: model, data"),
    ({"schedule": LR}, "not a single setting but a group"),
    ({"schedule.lr.x": LR}, "no setting 'schedule.lr.x'"),
    ({"quant.bits": {"choices": [2, 9]}}, "space with quant.bits=9 is not possible: .*bits is 9; it must be a whole number from 1 to"),
    ({"quant.retention": {"low": 0.5, "high": 1.5}}, "quant.retention=1.5 is not possible"),
    ({"schedule.lr": {"low": 1e-6, "high": 0.1}}, "final_lr is 5e-05"),
    ({"schedule.lr": {"low": 0.1, "high": 0.01}}, "low is 0.1 and high 0.01; low must be below high"),
    ({"schedule.lr": {"low": 0.0, "high": 0.01, "log": True}}, "on a logarithmic scale it must be above 0"),
    ({"schedule.lr": {"low": 0.1}}, "give low and high, or choices"),
    ({"schedule.lr": {"low": 0.1, "choices": [1]}}, "choices stand alone"),
    ({"schedule.lr": {"from": 0.1}}, "unknown key 'space.schedule.lr: from'"),
    ({"schedule.lr": 3}, "must be a mapping"),
    ({"epochs": {"low": 1.5, "high": 3}}, "takes whole numbers"),
    ({"optimizer.name": LR}, "takes no numbers between low and high; give choices"),
    ({"quant.bits": {"choices": []}}, "name one at least"),
    ({"quant.bits": {"choices": [2, 2]}}, "none twice"),
    ({"quant.method": {"choices": ["kmqat", "none"]}}, "quant.method=none is not possible"),
    ({}, "space is empty"),
])
def test_what_a_training_does_not_have_is_one_line(tmp_path, space, expected):
    with pytest.raises(UserError, match=expected) as refusal:
        load(tmp_path, space)
    assert "\n" not in str(refusal.value) and "search.yaml" in str(refusal.value)


@pytest.mark.parametrize("settings, expected", [
    ({"trials": 0}, "trials is 0; it must be at least 1"), ({"size_weight": -1}, "size_weight is -1"),
    ({"pruner": "best"}, "'pruner' is 'best'; it must be one of median, hyperband, none"),
    ({"retries": -1}, "retries is -1"),
    ({"trails": 3}, "unknown key 'trails'; did you mean 'trials'"),
    ({"identification": {"probes": 0}}, "identification.probes is 0"),
])
def test_settings_of_the_search_are_checked(tmp_path, settings, expected):
    with pytest.raises(UserError, match=expected):
        load(tmp_path, {"schedule.lr": LR}, **settings)


def test_a_training_that_does_not_quantize_is_refused(tmp_path):
    with pytest.raises(UserError, match="train.yaml: no `quant` in the config"):
        load(tmp_path, {"schedule.lr": LR}, {"epochs": 3})


@pytest.mark.parametrize("part", [{"allocate": {"average_bits": 3}}, {"select": {"preset": "first"}}])
def test_a_training_with_bits_by_layer_is_refused(tmp_path, part):
    (name,) = part
    with pytest.raises(UserError, match=f"train.yaml: `{name}` gives layers bits of their own"):
        load(tmp_path, {"schedule.lr": LR}, {"quant": {"bits": 4}, **part})
    load(tmp_path, {"schedule.lr": LR}, {"quant": {"bits": 4}, name: None})


def test_parameters_become_distributions(tmp_path):
    _, parameters = load(tmp_path, {"schedule.lr": {**LR, "log": True}, "epochs": {"low": 1, "high": 3},
                                    "quant.bits": {"choices": [2, 4]}, "quant.per_channel": {"choices": [True, False]}})
    found = distributions(parameters)
    assert {key: type(each).__name__.removesuffix("Distribution") for key, each in found.items()} == {
        "schedule.lr": "Float", "epochs": "Int", "quant.bits": "Categorical", "quant.per_channel": "Categorical"}
    assert found["schedule.lr"].log and (found["epochs"].low, found["epochs"].high) == (1, 3)


@pytest.mark.parametrize("space, expected", [
    ({"schedule.lr": LR}, 6), ({"epochs": {"low": 2, "high": 40}}, 6), ({"quant.bits": {"choices": [2, 3, 4]}}, 9),
    ({"stage_epochs": {"choices": ["[2, 5]", "[4]"]}}, 8), ({"stage_epochs": {"choices": ["null"]}, "epochs": {"low": 2,
                                                                                                    "high": 40}}, 40)])
def test_the_most_epochs_are_those_of_all_stages(tmp_path, space, expected):
    training = {"quant": {"bits": 4, "layers": {"0": 2, "1": 4}}, "multi_stage": True, "stage_epochs": [3]}
    _, parameters = load(tmp_path, space, training)
    net = nn.Sequential(*[nn.Linear(3, 3) for _ in range(3)])
    assert most_epochs(tmp_path / "train.yaml", parameters, (), net) == expected


def test_stages_that_the_network_has_not_are_one_line(tmp_path):
    space = {"stage_epochs": {"choices": ["[2]", "[2, 3]"]}}
    _, parameters = load(tmp_path, space, {"quant": {"bits": 4}, "multi_stage": True})
    with pytest.raises(UserError, match=r"stage_epochs is \[2, 3\], but the bit widths of the layers are 4"):
        most_epochs(tmp_path / "train.yaml", parameters, (), nn.Sequential(nn.Linear(3, 3)))


@pytest.mark.parametrize("recipe", ["mini", "speechocean762", "voxceleb"])
def test_the_recipes_searches_fit_their_rows(recipe):
    conf = ROOT / "egs" / recipe / "conf"
    search, parameters = load_search(conf / "search.yaml", f"{conf}/finetune.yaml:kmqat4")
    assert search.trials >= 3 and {"quant.bits", "schedule.lr"} <= {parameter.key for parameter in parameters}
