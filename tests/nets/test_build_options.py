"""Options of networks as they come from YAML: of the type of their default, or one clear line."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from svq import nets
from svq.errors import UserError


class Net(nn.Module):
    def __init__(self, feat_dim=80, embed_dim=256, width: int = 4, rate: float = 0.5, deep: bool = False,
                 pooling: str = "mean", sizes: tuple[int, ...] = (1, 2), block=None, blocks=(1, 1)):
        super().__init__()
        self.options = dict(width=width, rate=rate, deep=deep, pooling=pooling, sizes=sizes)
        if pooling == "none":
            raise ValueError("pooling is 'none'; it must be mean")


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    monkeypatch.setitem(nets.ARCHITECTURES, "Net", Net)


@pytest.mark.parametrize("given_options, built", [
    ({}, {}), ({"width": 3}, {"width": 3}), ({"rate": 1}, {"rate": 1.0}), ({"rate": 0.25}, {"rate": 0.25}),
    ({"deep": True}, {"deep": True}), ({"pooling": "max"}, {"pooling": "max"}),
    ({"sizes": [3, 4, 5]}, {"sizes": (3, 4, 5)}), ({"sizes": (3,)}, {"sizes": (3,)})])
def test_values(given_options, built):
    defaults = dict(width=4, rate=0.5, deep=False, pooling="mean", sizes=(1, 2))
    options = nets.build("Net", **given_options).options
    assert options == defaults | built
    assert type(options["rate"]) is float and type(options["sizes"]) is tuple


@pytest.mark.parametrize("options, words", [
    ({"width": True}, "option 'width' is True; it must be a positive integer"),
    ({"width": 2.0}, "'width' is 2.0; it must be a positive integer"),
    ({"rate": "0.5"}, "'rate' is '0.5'; it must be a number"), ({"rate": True}, "'rate' is True; it must be a number"),
    ({"deep": 1}, "'deep' is 1; it must be true or false"), ({"deep": "true"}, "it must be true or false"),
    ({"pooling": None}, "'pooling' is None; it must be a string"),
    ({"sizes": 3}, "'sizes' is 3; it must be a list of positive integers"),
    ({"sizes": []}, "it must be a list of positive integers"), ({"sizes": [1, "2"]}, "a list of positive integers"),
    ({"sizes": [1, True]}, "a list of positive integers"), ({"sizes": [0]}, "a list of positive integers"),
    ({"block": 1}, "arch Net takes no option 'block'; it takes: width, rate, deep, pooling, sizes"),
    ({"blocks": [1, 1]}, "takes no option 'blocks'"), ({"pooling": "none"}, "arch Net: pooling is 'none'")])
def test_mistakes(options, words):
    with pytest.raises(UserError) as error:
        nets.build("Net", **options)
    assert words in str(error.value) and "\n" not in str(error.value)


@given(st.dictionaries(st.sampled_from(["width", "rate", "deep", "pooling", "sizes", "other"]),
                       st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(),
                                 st.lists(st.one_of(st.integers(), st.text())))))
def test_whatever_is_given_it_is_built_as_asked_or_one_line_says_why_not(options):
    try:
        built = nets.build("Net", **options).options
    except UserError as error:
        assert "arch Net" in str(error)
        return
    for name, value in options.items():
        same = built[name] == (tuple(value) if name == "sizes" else value)
        assert same or value != value  # nan is a float as well


def test_every_network_can_be_built_with_its_defaults_given():
    for arch in nets.ARCHITECTURES:
        if arch != "Net":
            with torch.device("meta"):
                nets.build(arch, *nets.usual_sizes(arch), **nets.options_of(arch))
