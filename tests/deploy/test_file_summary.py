"""The summary of a model that is a file: parameters, bits and bytes are those of the network that it was made from."""

import json

import pytest

from svq.bin import export, pack
from svq.data.frontend import FrontEndConfig
from svq.deploy.summary import file_summary
from svq.errors import UserError
from svq.models import save_model
from svq.network import ModelConfig
from svq.quant import QuantConfig, quantize_
from tests.deploy.small_nets import small_config, small_net
from tests.helpers import run_worker


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A float network and the same at 2 bits with one float layer: folders, summaries, exports and a packed file."""
    folder = tmp_path_factory.mktemp("files")
    config = small_config("XVector", num_mels=80)
    save_model(folder / "float", small_net(config), config)
    quant = QuantConfig("kmqat", 2, layers={"frame1.conv": 32})
    low = ModelConfig(config.arch, config.net, config.embed_dim, FrontEndConfig(num_mels=80), quant)
    save_model(folder / "low", quantize_(small_net(config), quant), low)
    for name in ("float", "low"):
        run_worker(pack.main, folder / name)
        run_worker(export.main, "--model", folder / name, "--out", folder / f"{name}.onnx")
    return folder


def summary(made, name, file):
    run_worker(pack.main, made / name, "--file", file)
    return json.loads((made / name / "summary.json").read_text())


@pytest.mark.parametrize("name, file", [("float", "float.onnx"), ("low", "low.onnx"), ("low", "low/model.svq")])
def test_it_is_that_of_the_folder_but_for_the_bytes(made, name, file):
    (made / "of" / name).mkdir(parents=True, exist_ok=True)
    found, folder = summary(made, f"of/{name}", made / file), json.loads((made / name / "summary.json").read_text())
    assert (found["params"], found["avg_bits"]) == (folder["params"], pytest.approx(folder["avg_bits"]))
    assert found["size_bytes"] == (made / file).stat().st_size and found["given"] is True
    assert (found["avg_bits"] == 32) == (name == "float")


def test_of_an_int8_file_the_layers_in_int8_have_8_bits(made):
    run_worker(export.main, "--model", made / "float", "--out", made / "dynamic.onnx", "--int8", "true", "--dynamic", "true")
    found = file_summary(made / "dynamic.onnx")
    assert 8 <= found["avg_bits"] < 32 and found["params"] == file_summary(made / "float.onnx")["params"]


def test_what_is_no_model_is_one_line_and_leaves_no_summary(made, tmp_path):
    (tmp_path / "x.onnx").write_bytes((made / "float.onnx").read_bytes()[:-40])
    (tmp_path / "text.svq").write_text("hello")
    for name in ("x.onnx", "text.svq", "gone.onnx"):
        with pytest.raises(UserError, match=name) as error:
            run_worker(pack.main, tmp_path, "--file", tmp_path / name)
        assert "\n" not in str(error.value) and not (tmp_path / "summary.json").exists()
