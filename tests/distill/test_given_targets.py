"""Students of embeddings in files: what they learn, whatever file it comes from, and what is refused."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from svq.backend.archive import read_archive
from svq.backend.embeddings import write_embeddings
from svq.bin import train
from svq.config import load_config
from svq.data.dataset import TrainSet
from svq.data.speeds import write_speeds
from svq.distill.config import TargetsConfig
from svq.distill.given import GivenTargets
from svq.errors import UserError
from svq.models import load_model
from svq.train.config import TrainConfig
from tests.distill.test_distill_runs import losses, weights
from tests.helpers import run_worker


@pytest.fixture(scope="module")
def teachers(place):
    """{utterance: vector} of two teachers of 10 and 6 values, the first one that of the cached levels."""
    train_set = TrainSet(place.data, crop_seconds=0.4)
    keys = [train_set.utterance(i) for i in range(len(train_set))]
    rng = np.random.default_rng(5)
    first = {key: place.net(place.feats[key][None])[0].detach().numpy() for key in keys}
    return keys, first, {key: (3 + rng.standard_normal(6)).astype(np.float32) for key in keys}


def save(path, vectors, ids=None):
    """Writes {id: vector} in the form that the file's suffix says, or as a folder; gives the path."""
    ids = list(vectors) if ids is None else ids
    matrix = np.array([vectors[key] for key in ids])
    if path.suffix == ".npz":
        np.savez(path, ids=np.array(ids), embeddings=matrix)
    elif path.suffix == ".ark":
        path.write_bytes(b"".join(key.encode() + b" \0BFV \4" + np.int32(matrix.shape[1]).tobytes() +
                                  row.astype("<f4").tobytes() for key, row in zip(ids, matrix)))
    elif path.suffix == ".txt":
        path = path.with_suffix(".ark")
        path.write_text("".join(f"{key}  [ {' '.join(map(repr, map(float, row)))} ]\n" for key, row in zip(ids, matrix)))
    else:
        write_embeddings(path.parent, ids, matrix, path.stem)
    return path


def learn(place, name, *files, settings=(), **options):
    """Trains a student of embeddings in files into a folder of that name; gives the folder."""
    words = [word for option, value in {"data": place.data, **options}.items() for word in (f"--{option}", value)]
    words += [word for pair in settings for word in ("--set", pair)]
    out = place.folder / name
    run_worker(train.main, "--config", place.folder / "student.yaml", *words, "--out", out, "--targets-ark", *files)
    return out


# ---- targets

@pytest.mark.parametrize("suffix", [".scp", ".npz", ".ark", ".txt"])
def test_every_form_gives_the_same_targets(place, teachers, tmp_path, suffix):
    keys, first, _ = teachers
    path = save(tmp_path / f"t{suffix}", first, keys[::-1])
    targets = GivenTargets([path], TargetsConfig(), np.array([key.encode() for key in keys]))
    assert targets.dim == 10 and not targets.per_frame
    for index, key in enumerate(keys):
        np.testing.assert_allclose(targets.item(index, 3, 40), first[key] / np.linalg.norm(first[key]), rtol=2e-6)


@pytest.mark.parametrize("mean", [False, True])
@pytest.mark.parametrize("length", [False, True])
def test_several_teachers_each_by_itself_less_its_mean_and_at_length_1(place, teachers, tmp_path, mean, length):
    keys, *vectors = teachers
    files = [save(tmp_path / name, each) for name, each in zip(("a.npz", "b.scp"), vectors)]
    used = keys[2:]  # the mean is that of the utterances that are trained on
    config = TargetsConfig(mean_normalize=mean, length_normalize=length)
    targets = GivenTargets(files, config, np.array([key.encode() for key in used]))
    for index, key in enumerate(used):
        parts = []
        for each in vectors:
            part = each[key].astype(float) - mean * np.mean([each[other] for other in used], axis=0, dtype=float)
            parts.append(part / np.linalg.norm(part) if length else part)
        np.testing.assert_allclose(targets.item(index, 0, 1), np.concatenate(parts), atol=3e-5)  # float32 less a mean near it
    assert targets.dim == 16


def test_cached_levels_keep_their_length_where_the_config_says_so(place):
    from svq.distill.cache import Targets

    train_set = TrainSet(place.data, crop_seconds=0.4)
    found = [Targets(place.levels, TargetsConfig(length_normalize=scaled), train_set.keys, place.teacher, place.net,
                     place.config).item(4, 0, 40) for scaled in (True, False)]
    expected = place.net(place.feats[train_set.utterance(4)][None])[0].detach().numpy()
    np.testing.assert_allclose(found[1], expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found[0], found[1] / np.linalg.norm(found[1]), rtol=1e-5)


def test_content_is_of_what_is_used_in_the_order_of_training(teachers, tmp_path):
    keys, first, second = teachers
    wanted = np.array([key.encode() for key in keys])
    path = save(tmp_path / "a.npz", first)
    digest = GivenTargets([path], TargetsConfig(), wanted).content
    other = save(tmp_path / "b.scp", {**first, "more": np.ones(10)}, ["more", *keys[::-1]])
    assert GivenTargets([other], TargetsConfig(), wanted).content == digest
    changed = {**first, keys[3]: first[keys[3]] + np.float32(1e-3)}
    assert GivenTargets([save(tmp_path / "c.npz", changed)], TargetsConfig(), wanted).content != digest
    assert GivenTargets([path, path], TargetsConfig(), wanted).content != digest


# ---- students

def test_from_a_file_it_learns_what_it_learns_from_a_cache(place, student, teachers, tmp_path):
    """The same losses: of the same size as the teacher's, its embedding needs no projection, which is drawn at random."""
    keys, first, _ = teachers
    wanted = ["epochs=2", "model.embed_dim=10"]
    cached = student("cached", *wanted)
    told = learn(place, "told", save(tmp_path / "t.scp", first), settings=wanted)
    np.testing.assert_allclose(losses(told), losses(cached), rtol=1e-4)
    assert (told / "head.safetensors").exists()  # the labels' classifier looks on


def test_two_teachers_and_labels(place, teachers, tmp_path):
    keys, first, second = teachers
    files = save(tmp_path / "a.npz", first), save(tmp_path / "b.npz", second)
    wanted = ["epochs=12", "distill.targets.mean_normalize=true"]
    both = learn(place, "both", *files, settings=wanted)
    assert losses(both)[-1] < 0.75 * losses(both)[0]
    labelled = learn(place, "both_labelled", *files, settings=[*wanted, "distill.label_weight=1"])
    assert weights(labelled) != weights(both) and load_model(labelled)[1].embed_dim == 8


def test_other_embeddings_are_another_run(place, teachers, tmp_path, capsys):
    keys, first, _ = teachers
    path, settings_ = save(tmp_path / "t.npz", first), ["epochs=1", "checkpoint_minutes=0"]
    learned = weights(learn(place, "again", path, settings=settings_))
    learn(place, "again", path, settings=settings_)
    assert "at step 4 of 4" in capsys.readouterr().out
    save(tmp_path / "t.npz", {**first, keys[0]: -first[keys[0]]})
    other = learn(place, "again", path, settings=settings_)
    assert "starting anew" in capsys.readouterr().out and weights(other) != learned


def test_copies_at_other_speeds_have_targets_of_their_own(place, teachers, tmp_path):
    keys, first, _ = teachers
    shutil.copytree(place.data, tmp_path / "data")
    write_speeds(tmp_path / "data", [0.9, 1.0])
    path = save(tmp_path / "t.npz", first)
    lost = r"t.npz: no teacher embedding for 24 ids: sp0.9-\S+ .* and 19 more \(of 48 to train on\); copies at other speeds"
    with pytest.raises(UserError, match=lost):
        learn(place, "no copies", path, data=tmp_path / "data")
    assert not (place.folder / "no copies").exists()
    all_speeds = save(tmp_path / "all.npz", {**first, **{f"sp0.9-{key}": -vector for key, vector in first.items()}})
    targets = TrainSet(tmp_path / "data", crop_seconds=0.4)
    found = GivenTargets([all_speeds], TargetsConfig(), targets.keys)
    for index in range(len(targets)):
        vector = first[targets.utterance(index).removeprefix("sp0.9-")] * (-1 if index < 24 else 1)
        np.testing.assert_allclose(found.item(index, 0, 1), vector / np.linalg.norm(vector), rtol=1e-5)
    learn(place, "with copies", all_speeds, settings=["epochs=1"], data=tmp_path / "data")


# ---- bad input

def broken(what, keys, first, tmp_path):
    """Writes embeddings with something wrong; gives the files and what the error must say."""
    matrix = np.array([first[key] for key in keys])
    if what == "missing":
        return [save(tmp_path / "t.npz", first, keys[2:])], rf"t.npz: no teacher embedding for 2 ids: {keys[0]} {keys[1]} "
    if what == "twice":
        np.savez(tmp_path / "t.npz", ids=np.array([*keys, keys[0]]), embeddings=np.vstack([matrix, matrix[:1]]))
        return [tmp_path / "t.npz"], f"t.npz: the id '{keys[0]}' is there twice"
    if what == "twice in an scp":
        path = save(tmp_path / "t.scp", first)
        path.write_text(path.read_text() + path.read_text().splitlines()[0] + "\n")
        return [path], "t.scp:25: `.*` is already on line 1"
    if what == "twice in an ark":
        path = save(tmp_path / "t.ark", first)
        path.write_bytes(path.read_bytes() * 2)
        return [path], f"t.ark: the id {keys[0]} is there twice"
    if what == "sizes":
        path = save(tmp_path / "t.ark", first)
        more = save(tmp_path / "more.ark", {"zz": np.ones(7)})
        path.write_bytes(path.read_bytes() + more.read_bytes())
        return [path], "t.ark: zz has 7 values, .* has 10"
    if what == "not finite":
        return [save(tmp_path / "t.npz", {**first, keys[5]: np.full(10, np.nan)})], f"no finite embedding for 1 id: {keys[5]}"
    if what == "zeros":
        return [save(tmp_path / "t.scp", {**first, keys[5]: np.zeros(10)})], f"of non-zero length for 1 id: {keys[5]}"
    if what == "cut short":
        path = save(tmp_path / "t.ark", first)
        path.write_bytes(path.read_bytes()[:-3])
        return [path], f"t.ark: {keys[-1]}: the archive ends in the middle of the vector"
    if what == "matrices":
        (tmp_path / "t.ark").write_bytes(b"a \0BFM \4\1\0\0\0\4\1\0\0\0\0\0\0\0")
        return [tmp_path / "t.ark"], "t.ark: a is no vector of floats"
    if what == "empty":
        (tmp_path / "t.ark").write_bytes(b"")
        return [tmp_path / "t.ark"], "t.ark: empty"
    if what == "gone":
        return [tmp_path / "gone.ark"], "gone.ark: No such file"
    if what == "a network":
        (tmp_path / "t.ark").write_bytes(bytes(range(256)) * 4)
        return [tmp_path / "t.ark"], "byte 0 begins no entry of a Kaldi archive"
    if what == "second file":
        return [save(tmp_path / "t.npz", first), save(tmp_path / "u.npz", first, keys[1:])], "u.npz: no teacher embedding for 1 id"
    raise AssertionError(what)


@pytest.mark.parametrize("what", ["missing", "twice", "twice in an scp", "twice in an ark", "sizes", "not finite", "zeros",
                                  "cut short", "matrices", "empty", "gone", "a network", "second file"])
def test_what_does_not_fit_is_one_line_and_nothing_is_written(place, teachers, tmp_path, what):
    files, words = broken(what, *teachers[:2], tmp_path)
    with pytest.raises(UserError, match=words) as error:
        learn(place, f"broken {what}", *files)
    assert "\n" not in str(error.value) and not (place.folder / f"broken {what}").exists()


@pytest.mark.parametrize("settings, options, words", [
    (["distill=null"], {}, "`distill` in the config and --teacher go together"),
    (["distill.targets=null"], {}, "`distill.targets` in the config and --targets go together"),
    (["distill.targets.levels=[utterance, narrowBN]"], {}, r"levels is \['utterance', 'narrowBN'\], but embeddings in files"),
    (["distill.logit_weight=1"], {}, "needs the class posteriors of --teacher"),
    ([], {"teacher": "exp/t"}, "--targets-ark stands in place of --teacher and --targets"),
    ([], {"targets": "levels"}, "--targets-ark stands in place of --teacher and --targets")])
def test_options_that_do_not_go_with_embeddings_in_files(place, teachers, tmp_path, settings, options, words):
    with pytest.raises(UserError, match=words) as error:
        learn(place, "no", save(tmp_path / "t.npz", teachers[1]), settings=settings, **options)
    assert "\n" not in str(error.value) and not (place.folder / "no").exists()


def test_config_says_whether_lengths_count(tmp_path):
    (tmp_path / "c.yaml").write_text("distill: {targets: {length_normalize: false}}")
    assert load_config(tmp_path / "c.yaml", TrainConfig).distill.targets == TargetsConfig(length_normalize=False)


IDS = st.text("abcXYZ012-_.é", min_size=1, max_size=8)
VECTORS = st.integers(1, 5).flatmap(lambda dim: st.dictionaries(
    IDS, st.lists(st.floats(-1e6, 1e6, width=32), min_size=dim, max_size=dim), min_size=1, max_size=6))


@settings(max_examples=25, deadline=None)
@given(VECTORS, st.booleans())
def test_an_archive_is_read_as_it_was_written(tmp_path_factory, vectors, text):
    path = save(tmp_path_factory.mktemp("ark") / ("t.txt" if text else "t.ark"),
                {key: np.array(value, np.float32) for key, value in vectors.items()})
    ids, matrix = read_archive(path)
    assert ids == list(vectors)
    np.testing.assert_array_equal(matrix, np.array(list(vectors.values()), np.float32))
    data = path.read_bytes()
    for cut in range(0, len(data), 7):  # cut anywhere, it is an error of one line or a whole number of entries
        path.write_bytes(data[:cut])
        try:
            found, _ = read_archive(path)
            assert found == ids[:len(found)] and len(found) < len(ids) + text  # a line may lack its break
        except UserError as error:
            assert "\n" not in str(error)


def test_kaldi_reads_the_same_archive(tmp_path):
    """kaldiio, an implementation of its own, writes what is read here."""
    from kaldiio import save_ark

    values = {"a": np.arange(4, dtype=np.float32), "b": np.linspace(-1, 1, 4, dtype=np.float64)}
    for text in (False, True):
        save_ark(str(tmp_path / "t.ark"), {key: value.astype(np.float32) for key, value in values.items()}, text=text)
        ids, matrix = read_archive(tmp_path / "t.ark")
        assert ids == ["a", "b"]
        np.testing.assert_allclose(matrix, list(values.values()), rtol=1e-5)
