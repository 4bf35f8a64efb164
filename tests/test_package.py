"""The package: its ranges hold the versions that the recipes pin, and what it says where something is not installed."""

import ast
import re
import subprocess
import sys
import zipfile

import pytest

import svq
from svq import errors
from svq.errors import UserError, one_line, require
from tests.conftest import ROOT

tomllib = pytest.importorskip("tomllib", reason="Python 3.10 has no tomllib")
requirements = pytest.importorskip("packaging.requirements")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
EXTRAS = PROJECT["project"]["optional-dependencies"]
MODULES = {"pyyaml": "yaml", "espeakng-loader": "espeakng_loader", "kaldi-native-fbank": "kaldi_native_fbank",
           "pytest-xdist": "xdist"}


def of_pip(extra: str = "") -> dict:
    """Package -> Requirement of an extra, of those that it names, and of svq itself."""
    found = {}
    for line in [*PROJECT["project"]["dependencies"], *EXTRAS.get(extra, ())]:
        need = requirements.Requirement(line)
        if need.name == "svq":
            for other in need.extras:
                found.update(of_pip(other))
        else:
            found[need.name] = need
    return found


def pinned(name: str) -> list:
    lines = (ROOT / "utils" / f"requirements{name}.txt").read_text().splitlines()
    return [requirements.Requirement(line) for line in lines if line and not line.startswith("#")]


@pytest.mark.parametrize("listed, extras", [("", ["train", "mini"]), ("-deploy", ["export", "search"]), ("-test", ["test"])])
def test_ranges_hold_what_the_recipes_pin(listed, extras):
    ranges = {name: need for extra in extras for name, need in of_pip(extra).items()}
    for pin in pinned(listed):
        (one,) = pin.specifier
        assert one.operator == "==" and one.version in ranges[pin.name].specifier, pin
    assert pinned(listed)


def test_ranges_are_ranges():
    """Nothing that using a model needs is pinned, and torch is not among it."""
    for extra in ["", *EXTRAS]:
        for need in of_pip(extra).values():
            assert {one.operator for one in need.specifier} == {">="}, need
    assert not of_pip().keys() & {"torch", "scipy", "matplotlib", "onnx", "openvino"}
    assert of_pip("train").keys() >= {"torch", "scipy", "matplotlib", "safetensors"}


def test_every_import_of_the_package_is_in_an_extra():
    known = {MODULES.get(name, name) for extra in EXTRAS for name in of_pip(extra)}
    found = set()
    for path in (ROOT / "svq").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found.update(alias.name.partition(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                found.add(node.module.partition(".")[0])
    found -= set(sys.stdlib_module_names) | {"svq"}
    assert found <= known and found > {"numpy", "torch"}
    assert found - {"numpy", "yaml", "tqdm"} <= errors._EXTRAS.keys()


@pytest.mark.parametrize("package, of_recipes, pip", [
    ("torch", "bash utils/setup.sh", 'pip install "svq[train]"'),
    ("onnx", "bash utils/setup.sh --extras deploy", 'pip install "svq[export]"'),
    ("onnxruntime", "bash utils/setup.sh", "pip install svq"),
    ("optuna", "bash utils/setup.sh --extras deploy", 'pip install "svq[search]"')])
def test_what_is_missing_is_said_with_what_installs_it(monkeypatch, package, of_recipes, pip):
    monkeypatch.setitem(sys.modules, package, None)
    for in_recipes, line in ((True, of_recipes), (False, pip)):
        monkeypatch.setattr(errors, "_in_recipes", lambda: in_recipes)
        expected = f"this needs {package}, which is not installed: {line}"
        with pytest.raises(UserError) as caught:
            require(package)
        assert str(caught.value) == expected
        with pytest.raises(ModuleNotFoundError) as caught:
            __import__(package)
        assert one_line(caught.value) == expected
    extra = re.search(r"svq\[(\w+)\]", pip)
    assert package in of_pip(extra[1] if extra else "")


def test_a_module_that_is_missing_by_a_fault_of_the_program_has_no_line():
    assert one_line(ModuleNotFoundError("No module named 'svq.nothing'", name="svq.nothing")) is None


def test_what_a_checkout_is(tmp_path, monkeypatch):
    """A checkout in its own .venv; not an installed package, nor a checkout in another environment."""
    assert not errors._in_recipes(str(tmp_path))
    (tmp_path / "utils").mkdir()
    (tmp_path / "utils" / "setup.sh").touch()
    assert not errors._in_recipes(str(tmp_path))
    (tmp_path / ".venv").mkdir()
    assert not errors._in_recipes(str(tmp_path))
    monkeypatch.setattr(sys, "prefix", str(tmp_path / ".venv"))
    assert errors._in_recipes(str(tmp_path))


def test_one_version():
    assert "version" not in PROJECT["project"] and PROJECT["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "svq.__version__"}
    assert f"version: {svq.__version__}\n" in (ROOT / "CITATION.cff").read_text()


def test_the_wheel(tmp_path):
    """It holds all modules, py.typed, what lies in svq/ready, and the command."""
    source = tmp_path / "source"
    copy = subprocess.run(["bash", "-c", 'mkdir "$1" && cp -r svq pyproject.toml README.md LICENSE "$1"', "", source], cwd=ROOT)
    assert copy.returncode == 0
    for name in ("verifier.onnx", "CARD.md"):
        (source / "svq" / "ready" / name).write_text("x")
    done = subprocess.run([sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", tmp_path, source],
                          capture_output=True, text=True)
    if done.returncode and "setuptools" in done.stderr:
        pytest.skip("pip has no index to take setuptools from")
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob(f"svq-{svq.__version__}-*.whl")
    with zipfile.ZipFile(wheel) as held:
        names = set(held.namelist())
        scripts = held.read(f"svq-{svq.__version__}.dist-info/entry_points.txt").decode()
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "svq").rglob("*.py")}
    assert names >= modules | {"svq/py.typed", "svq/ready/verifier.onnx", "svq/ready/CARD.md"}
    assert not any(name.startswith(("tests", "utils", "egs")) for name in names)
    assert "svq = svq.__main__:main" in scripts
