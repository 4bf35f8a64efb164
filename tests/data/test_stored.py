"""What features were made with: it follows them from one data directory to the next, and models heed it."""

import shutil

import pytest

from svq.bin import data_dir as tools, make_fbank
from svq.data import reshape, stored, wavark
from svq.data.datadir import DataDir
from svq.data.extraction import Utterances, calibration_features
from svq.data.frontend import FrontEndConfig, check_stored
from svq.data.validate import validate
from svq.errors import UserError
from tests.builders import data_dir
from tests.helpers import run_worker


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A data directory with features of 16 kHz and 80 mels, as svq.bin.make_fbank makes them."""
    folder = tmp_path_factory.mktemp("made")
    data = data_dir(folder, speakers=2, utts=2, seconds=0.5)
    run_worker(make_fbank.main, data, folder / "fbank")
    for name, part in (("feats.scp", "scp"), ("utt2num_frames", "num_frames"), ("feats.yaml", "yaml")):
        shutil.copy(folder / f"fbank.{part}", data / name)
    return data


@pytest.fixture
def copy(made, tmp_path):
    """The same, to be changed."""
    return shutil.copytree(made, tmp_path / "copy")


def renamed(made, path, change=lambda text: text):
    """A copy with other utterances and speakers, and what feats.yaml says changed."""
    shutil.copytree(made, path)
    for file in path.iterdir():
        file.write_text(change(file.read_text()) if file.name == "feats.yaml" else
                        "".join(line.replace("spk", "tom") if file.name.endswith(("spk", "spk2utt")) else
                                line.replace("spk", "tom", 1) for line in file.read_text().splitlines(True)))
    return path


def copied_waveforms(source, dest):
    wavark.copy_part(source, dest.parent / "wav.1.ark", 16000)
    wavark.join_parts(source, dest, [dest.parent / "wav.1.ark"])


TOOLS = {
    "subset": lambda source, dest: run_worker(tools.main, "subset", "--count", 2, source, dest),
    "split": lambda source, dest: shutil.copytree(reshape.split(source, 2) / "1", dest, dirs_exist_ok=True),
    "combine": lambda source, dest: reshape.combine(dest, [source, renamed(source, dest.parent / "tom")]),
    "copy_wav": copied_waveforms,
    "fix": lambda source, dest: (shutil.copytree(source, dest, dirs_exist_ok=True), tools.do_fix(
        tools.build_parser().parse_args(["fix", str(dest)]))),
}


@pytest.mark.parametrize("tool", TOOLS)
def test_it_goes_where_the_features_go(copy, tmp_path, tool):
    TOOLS[tool](copy, tmp_path / "out")
    assert (tmp_path / "out" / "feats.scp").exists()
    assert stored.read_made(tmp_path / "out") == stored.read_made(copy)
    assert validate(tmp_path / "out").lines() == []


@pytest.mark.parametrize("tool", ["subset", "combine", "copy_wav"])
def test_one_of_an_earlier_run_goes(copy, tmp_path, tool):
    """Features without it, such as other toolkits', must not get what was said of others."""
    (tmp_path / "out").mkdir()
    (copy / "feats.yaml").rename(tmp_path / "out" / "feats.yaml")
    TOOLS[tool](copy, tmp_path / "out")
    assert (tmp_path / "out" / "feats.scp").exists() and stored.read_made(tmp_path / "out") is None


def test_another_speed_leaves_it_out_with_the_features(made, tmp_path):
    (tmp_path / "out").mkdir()
    shutil.copy(made / "feats.yaml", tmp_path / "out")
    run_worker(tools.main, "perturb-speed", "0.9", made, tmp_path / "out")
    assert not (tmp_path / "out" / "feats.scp").exists() and not (tmp_path / "out" / "feats.yaml").exists()


def test_features_made_differently_are_not_combined(made, tmp_path, capsys):
    other = renamed(made, tmp_path / "other", lambda text: text.replace("rate: 16000", "rate: 8000"))
    with pytest.raises(UserError, match="other/feats.yaml: rate 8000, but .*feats.yaml: rate 16000; make both alike"):
        reshape.combine(tmp_path / "out", [made, other])
    (other / "feats.yaml").unlink()
    run_worker(tools.main, "combine", tmp_path / "out", made, other)
    assert "without feats.yaml, which not all sources have" in capsys.readouterr().err
    assert stored.read_made(tmp_path / "out") is None and DataDir(tmp_path / "out").has("feats.scp")


def test_files_of_before_two_settings(made, tmp_path):
    """feats.yaml of an older svq: full bands and whole frames, as it made them."""
    old = renamed(made, tmp_path / "old", lambda text: "".join(
        line for line in text.splitlines(True) if not line.startswith(tuple(stored.LATER))))
    assert stored.read_made(old) == stored.read_made(made) and Utterances(old, FrontEndConfig()).feats


@pytest.mark.parametrize("settings, words", [
    ({}, None), ({"mean_normalize": False}, None),
    ({"rate": 8000}, "holds log-mels of rate 16000, but the model takes others (rate 8000)"),
    ({"rate": 8000, "num_mels": 40}, "log-mels of rate 16000, num_mels 80, but"),
    ({"window": "hamming"}, "log-mels of window povey, but the model takes others (window hamming)"),
    ({"high_hz": -400.0, "snip_edges": False}, "high_hz 0, snip_edges True, but the model takes others"),
    ({"full_scale": 1.0}, "log-mels of full_scale 32768, but the model takes others (full_scale 1)"),
    ({"fbank": "clova"}, "log-mels of fbank kaldi, window povey, full_scale 32768, preemphasis 0.97, but")])
@pytest.mark.parametrize("read", [Utterances, calibration_features])
def test_what_models_take(made, settings, words, read):
    """By default the waveforms are read in their place; asked for, or without waveforms, they are refused."""
    config = FrontEndConfig(**settings)
    read(made, config, input="wav")
    if words is None:
        read(made, config, input="feats")
        return
    with pytest.raises(UserError, match="read the waveforms instead, with input wav") as error:
        read(made, config, input="feats")
    assert words in str(error.value) and "\n" not in str(error.value)
    assert not Utterances(made, config).feats


def test_features_that_are_normalised_already(copy):
    stored.write_made(copy / "feats.yaml", FrontEndConfig())
    check_stored(FrontEndConfig(), copy)
    with pytest.raises(UserError, match="mean_normalize True, but the model takes others .mean_normalize False"):
        check_stored(FrontEndConfig(mean_normalize=False), copy)


def test_without_waveforms_there_is_no_way_around(copy):
    (copy / "wav.scp").unlink()
    assert Utterances(copy, FrontEndConfig()).feats
    with pytest.raises(UserError, match="holds log-mels of rate 16000"):
        Utterances(copy, FrontEndConfig(rate=8000))


@pytest.mark.parametrize("times, words", [(1, None), (0.5, "4[789]"), (2, "19"), (1.25, "12"), (0, "0")])
def test_frames_of_another_shift(copy, times, words):
    """With feats.yaml or without: frames and seconds must go together."""
    frames = copy / "utt2num_frames"
    frames.write_text("".join(f"{key} {float(count) * times:.0f}\n" for key, count in
                              (line.split() for line in frames.read_text().splitlines())))
    for _ in range(2):
        if words is None:
            check_stored(FrontEndConfig(), copy)
        else:
            with pytest.raises(UserError, match=f"utt2num_frames: ({words})[0-9]* frames for every second of utt2dur"):
                check_stored(FrontEndConfig(), copy)
        (copy / "feats.yaml").unlink(missing_ok=True)
    frames.unlink()
    check_stored(FrontEndConfig(), copy)


@pytest.mark.parametrize("text, words", [
    ("rate: 16000\n", "feats.yaml: is not as steps/make_fbank.sh writes it"),
    ("a: [\n", "feats.yaml:2: not valid YAML"), ("", "is not as steps/make_fbank.sh writes it")])
def test_what_cannot_be_understood(copy, text, words):
    (copy / "feats.yaml").write_text(text)
    with pytest.raises(UserError, match=words):
        check_stored(FrontEndConfig(), copy)
    assert words in "".join(validate(copy).lines())
