"""Embedding archives: agreement with kaldiio both ways, irregular archives, missing ids, means."""

import kaldiio
import numpy as np
import pytest

from svq.backend import embeddings as emb
from svq.data.words import Tokens
from svq.errors import UserError

IDS = ["b-longer-id", "a", "c/d.wav"]


@pytest.fixture
def matrix():
    return np.random.default_rng(0).normal(size=(3, 5)).astype(np.float32)


def test_written_archives_are_kaldis(tmp_path, matrix):
    folder = tmp_path / "with space"
    emb.write_embeddings(folder, IDS, matrix)
    loaded = kaldiio.load_scp(str(folder / "embedding.scp"))
    assert list(loaded) == sorted(IDS)
    for key, row in zip(IDS, matrix):
        np.testing.assert_array_equal(loaded[key], row)
    assert dict(kaldiio.load_ark(str(folder / "embedding.ark"))).keys() == set(IDS)
    ids, back = emb.read_embeddings(folder)
    assert list(ids) == sorted(IDS)
    np.testing.assert_array_equal(back, matrix[np.argsort(IDS)])
    assert sorted(p.name for p in folder.iterdir()) == ["embedding.ark", "embedding.scp"]


@pytest.mark.parametrize("dtype, text, fast", [
    (np.float32, False, True), (np.float64, False, True), (np.float32, True, False)])
def test_archives_of_kaldiio_are_read(tmp_path, matrix, dtype, text, fast):
    kaldiio.save_ark(str(tmp_path / "x.ark"), dict(zip(IDS, matrix.astype(dtype))), scp=str(tmp_path / "x.scp"), text=text)
    reader = emb.EmbeddingReader(tmp_path / "x.scp")
    assert (reader._plan is not None) is fast
    np.testing.assert_allclose(reader.read(), matrix, rtol=1e-5)
    np.testing.assert_allclose(reader.read([2, 0]), matrix[[2, 0]], rtol=1e-5)
    assert reader.dim == 5


def test_several_archives_and_one_irregular_record(tmp_path, matrix):
    for i in range(3):
        kaldiio.save_ark(str(tmp_path / f"{i}.ark"), {IDS[i]: matrix[i].astype(np.float64 if i == 2 else np.float32)},
                         scp=str(tmp_path / f"{i}.scp"))
    lines = [(tmp_path / f"{i}.scp").read_text() for i in range(3)]
    for used, fast in ((lines[:2], True), (lines, False)):
        (tmp_path / "all.scp").write_text("".join(used))
        reader = emb.EmbeddingReader(tmp_path / "all.scp")
        assert (reader._plan is not None) is fast
        np.testing.assert_array_equal(reader.read(), matrix[:len(used)])


def test_reading_crosses_blocks(tmp_path):
    x = np.random.default_rng(1).normal(size=(20_000, 3)).astype(np.float32)
    emb.write_embeddings(tmp_path, [f"{i:05d}" for i in range(len(x))], x)
    rows = np.random.default_rng(2).permutation(len(x))
    np.testing.assert_array_equal(emb.EmbeddingReader(tmp_path).read(rows), x[rows])


def test_bad_archives_are_one_clear_line(tmp_path, matrix):
    emb.write_embeddings(tmp_path, IDS, matrix)
    scp, ark = tmp_path / "embedding.scp", tmp_path / "embedding.ark"
    with pytest.raises(UserError, match=r"embedding.scp: no embedding for 2 ids: x y$"):
        emb.EmbeddingReader(tmp_path).rows(Tokens.of(["a", "x", "y", "x"]))
    whole = ark.read_bytes()
    ark.write_bytes(whole[:-4])
    with pytest.raises(UserError, match=r"embedding.scp:3: .*embedding.ark ends inside this embedding$"):
        emb.EmbeddingReader(tmp_path)
    ark.unlink()
    with pytest.raises(UserError, match=r"embedding.scp:1: a cannot be read: .*No such file"):
        emb.EmbeddingReader(tmp_path).read()
    scp.write_text("a\n")
    with pytest.raises(UserError, match=r"embedding.scp:1: nothing after a"):
        emb.EmbeddingReader(tmp_path)
    matrix[1, 2], matrix[2, 0] = np.nan, -np.inf
    emb.write_embeddings(tmp_path, IDS, matrix)
    with pytest.raises(UserError, match="no finite embedding for 2 ids: a c/d.wav$"):
        emb.EmbeddingReader(tmp_path).read()


def test_unequal_dimensions_are_named(tmp_path, matrix):
    kaldiio.save_ark(str(tmp_path / "x.ark"), {"a": matrix[0], "b": matrix[1, :4]}, scp=str(tmp_path / "x.scp"))
    with pytest.raises(UserError, match=r"x.scp:2: b has 4 values where the first embedding has 5"):
        emb.EmbeddingReader(tmp_path / "x.scp").read()


def test_speaker_means(tmp_path):
    rng = np.random.default_rng(3)
    x = rng.normal(size=(10_000, 4)).astype(np.float32)
    ids = [f"u{i:05d}" for i in range(len(x))]
    emb.write_embeddings(tmp_path, ids, x)
    who = rng.integers(0, 3, len(x))        # each speaker spans several blocks
    members = {s: rng.permutation(np.flatnonzero(who == s)) for s in range(3)}
    (tmp_path / "spk2utt").write_text("".join(f"s{s} {' '.join(ids[i] for i in rows)}\n" for s, rows in members.items()))
    groups, reader = emb.Groups(tmp_path / "spk2utt"), emb.EmbeddingReader(tmp_path)
    means, mean = emb.speaker_means(groups, reader)
    np.testing.assert_allclose(means, [x[members[s]].astype(float).mean(axis=0) for s in range(3)], atol=1e-6)
    np.testing.assert_allclose(mean, x.astype(float).mean(axis=0), atol=1e-6)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    np.testing.assert_allclose(emb.speaker_means(groups, reader, length_normalize=True)[0],
                               [unit[members[s]].mean(axis=0) for s in range(3)], atol=1e-6)


def test_groups_name_bad_lines(tmp_path):
    for content, message in (("s u\n\nt v\n", ":2: an empty line"), ("s u\nt\n", ":2: nothing after t"),
                             ("s u\ns v\n", ":2: `s` is already on line 1")):
        (tmp_path / "spk2utt").write_text(content)
        with pytest.raises(UserError, match=message):
            emb.Groups(tmp_path / "spk2utt")


def test_vectors_round_trip_through_kaldi(tmp_path, matrix):
    emb.write_vector(tmp_path / "mean.vec", matrix[0])
    np.testing.assert_array_equal(kaldiio.load_mat(str(tmp_path / "mean.vec")), matrix[0])
    np.testing.assert_array_equal(emb.read_vector(tmp_path / "mean.vec"), matrix[0])
    with pytest.raises(UserError, match="steps/speaker_means.sh makes it"):
        emb.read_vector(tmp_path / "none.vec")


def test_zero_embeddings_are_named():
    with pytest.raises(UserError, match="e: no embedding of non-zero length for 1 id: b$"):
        emb.unit_length(np.array([[1.0, 0], [0, 0]]), Tokens.of(["a", "b"]), "e")
