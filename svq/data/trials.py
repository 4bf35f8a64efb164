"""Makes trial lists of a data directory: all target pairs and a seeded draw of non-target pairs."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from svq.atomic import atomic_write
from svq.data.datadir import DataDir, index_speakers, is_trials
from svq.errors import UserError, some_of


def draw_pairs(group_of: np.ndarray, stratum_of: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Draws `count` distinct pairs i < j of items of different groups in one stratum, uniformly: (count, 2), sorted.

    group_of, stratum_of: (N,) int, of each item. UserError if there are fewer such pairs.
    """
    total = count_pairs(group_of, stratum_of)
    if count > total:
        raise UserError(f"{count} non-target trials are asked for, but there are only {total} such pairs")
    rng = np.random.default_rng(seed)
    n = len(group_of)
    if 2 * count > total:  # most of them: draw from the list of all
        every = np.concatenate([_partners(group_of, stratum_of, i) for i in range(n)])
        return every[np.sort(rng.permutation(total)[:count])]
    drawn = np.zeros(0, dtype=np.int64)
    while len(drawn) < count:  # in order of drawing, so that cutting at `count` favours no pair
        i, j = rng.integers(0, n, size=(2, 2 * count + 1024))
        i, j = np.minimum(i, j), np.maximum(i, j)
        good = (group_of[i] != group_of[j]) & (stratum_of[i] == stratum_of[j])
        both = np.concatenate([drawn, i[good] * n + j[good]])
        _, first = np.unique(both, return_index=True)
        drawn = both[np.sort(first)]
    chosen = np.sort(drawn[:count])
    return np.stack([chosen // n, chosen % n], axis=1)


def _partners(group_of, stratum_of, i: int) -> np.ndarray:
    j = i + 1 + np.flatnonzero((group_of[i + 1 :] != group_of[i]) & (stratum_of[i + 1 :] == stratum_of[i]))
    return np.stack([np.full(len(j), i), j], axis=1)


def count_pairs(group_of: np.ndarray, stratum_of: np.ndarray) -> int:
    """Counts the pairs of items of different groups in the same stratum (a group may span strata); both (N,) int."""

    def pairs(sizes):
        sizes = sizes.astype(np.int64)
        return int(np.sum(sizes * (sizes - 1) // 2))

    both = np.unique(np.stack([group_of, stratum_of]), axis=1, return_counts=True)[1]
    return pairs(np.bincount(stratum_of)) - pairs(both)


def available(path, same_gender: bool = False) -> int:
    """Counts a data directory's pairs of utterances of different speakers; with `same_gender`, of one gender only."""
    folder = DataDir(path)
    return count_pairs(folder.speaker_index, _strata(folder, same_gender)[folder.speaker_index])


def _strata(folder: DataDir, same_gender: bool) -> np.ndarray:
    """Gives the stratum of each speaker, which both sides of a non-target pair must share: (speakers,) int."""
    if not same_gender:
        return np.zeros(len(folder.speakers), dtype=np.int64)
    if not folder.has("spk2gender"):
        raise UserError(f"{folder.path}: same-gender trials take a spk2gender, which is not there")
    table = folder.table("spk2gender")
    names = np.array([s.encode() for s in folder.speakers], dtype=np.bytes_)
    rows, found = table.positions(names)
    if not found.all():
        raise UserError(f"{table.path}: lacks the speakers {some_of(s.decode() for s in names[~found])}")
    return np.unique(table.value_array()[rows], return_inverse=True)[1]


def make_trials(
    path, name: str = "", num_nontarget: int | None = None, same_gender: bool = False, enroll_utts: int = 0,
    seed: int = 0, once: bool = False, max_tests: int = 0,
) -> tuple[int, int]:
    """Writes `trials` (or `trials_<name>`) of a data directory; gives the numbers of target and non-target trials.

    Every pair of utterances of one speaker is a target trial. num_nontarget: how many pairs of different speakers are
    drawn, None for all of them. same_gender: takes only pairs of speakers of one gender.

    enroll_utts above 0: the first so many utterances of each speaker make its model in enroll.spk2utt, named as the
    speaker. The trials are then models against the utterances that are in no model.

    once: tests every utterance in no model once, as a service is used. Of the utterances whose speaker has a model,
    half meet that model and half a drawn model of another speaker. All others meet another speaker's model. Where there
    is no other speaker (of the gender), the utterance is left out. Without enroll_utts, a speaker's first utterance is
    its model. max_tests above 0: only so many utterances, drawn, are tested.

    The same seed gives the same list. UserError if there are no such trials.
    """
    folder = DataDir(path)
    out = folder.path / (f"trials_{name}" if name else "trials")
    if not is_trials(out.name) or len(out.name.split()) != 1 or "/" in name:
        raise UserError(f"`{name}` is no name for a trial list: letters, digits, - and _ only")
    stratum = _strata(folder, same_gender)
    if num_nontarget is not None and num_nontarget < 1:
        raise UserError(f"{num_nontarget} non-target trials make no list")
    if max_tests < 0 or (max_tests and not once):
        raise UserError("a number of utterances to test, above 0, goes with testing each once")
    if once and num_nontarget is not None:
        raise UserError("where each utterance is tested once, half of the trials are non-target; leave their number out")
    if enroll_utts or once:
        return _model_trials(folder, out, stratum, num_nontarget, enroll_utts, seed, once, max_tests)
    return _pair_trials(folder, out, stratum, num_nontarget, seed)


def without_targets(path, enroll_utts: int = 0) -> list[str]:
    """Lists the speakers of a data directory that have too few utterances for a target trial; arguments as of `make_trials`."""
    names, numbers = index_speakers(DataDir(path).utt2spk.value_array())
    counts = np.bincount(numbers, minlength=len(names))
    return [name.decode() for name in names[counts <= max(1, enroll_utts)].tolist()]


def _write_rows(out: Path, enroll, test, rows, need=("target", "nontarget")) -> tuple[int, int]:
    """Writes the lines of enroll[i] against test[j] for each (i, j (K,), is_target (K,)) of `rows`; gives both counts.

    need: the kinds of trials that must be there; UserError otherwise, and then no file.
    """
    counts = [0, 0]
    with atomic_write(out, "wb") as file:
        for i, j, is_target in rows:
            head = enroll[i] + b" "
            labels = (b" nontarget\n", b" target\n")
            file.write(b"".join([head + test[b] + labels[t] for b, t in zip(j.tolist(), is_target.tolist())]))
            counts[1] += int(np.sum(is_target))
            counts[0] += int(np.sum(~is_target))
        for kind, number in zip(need[::-1], counts):
            if number == 0:
                raise UserError(f"{out}: there is no {kind} trial to make; nothing was written")
    return counts[1], counts[0]


def _pair_trials(folder, out, stratum, num_nontarget, seed) -> tuple[int, int]:
    speaker, names = folder.speaker_index, folder.utt2spk.key_array.tolist()
    of_utt = stratum[speaker]
    drawn = None if num_nontarget is None else draw_pairs(speaker, of_utt, num_nontarget, seed)

    order = np.argsort(speaker, kind="stable")
    bounds = np.searchsorted(speaker[order], np.arange(len(folder.speakers) + 1))

    def rows():
        for i in range(len(names)):
            if drawn is None:
                later = i + 1 + np.flatnonzero((speaker[i + 1 :] == speaker[i]) | (of_utt[i + 1 :] == of_utt[i]))
            else:
                own = order[bounds[speaker[i]] : bounds[speaker[i] + 1]]
                begin, end = np.searchsorted(drawn[:, 0], [i, i + 1])
                later = np.sort(np.concatenate([own[own > i], drawn[begin:end, 1]]))
            if len(later):
                yield i, later, speaker[later] == speaker[i]

    return _write_rows(out, names, names, rows())


def _model_trials(folder, out, stratum, num_nontarget, enroll_utts, seed, once, max_tests) -> tuple[int, int]:
    speaker, keys = folder.speaker_index, folder.utt2spk.key_array
    order = np.argsort(speaker, kind="stable")
    sizes = np.bincount(speaker)
    rank = np.empty(len(speaker), dtype=np.int64)
    rank[order] = np.arange(len(order)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    number = max(enroll_utts, 1)
    models = np.flatnonzero(sizes > number)  # a speaker with no utterance left to test makes no model
    enrolled = np.isin(speaker, models) & (rank < number)
    tests = np.flatnonzero(~enrolled)
    if 0 < max_tests < len(tests):
        tests = np.sort(np.random.default_rng(seed).permutation(tests)[:max_tests])
    of_test = speaker[tests]
    if once:
        chosen = _draw_once(models, stratum, of_test, seed)
    elif num_nontarget is not None:
        drawn = _draw_grid(models, stratum, of_test, num_nontarget, seed)

    def rows():
        for row, s in enumerate(models.tolist()):
            target = of_test == s
            if once:
                j = np.flatnonzero(chosen == row)
            elif num_nontarget is None:
                j = np.flatnonzero(target | (stratum[of_test] == stratum[s]))
            else:
                begin, end = np.searchsorted(drawn, [row * len(tests), (row + 1) * len(tests)])
                j = np.union1d(np.flatnonzero(target), drawn[begin:end] - row * len(tests))
            yield s, tests[j], target[j]

    if enroll_utts:
        names = [s.encode() for s in folder.speakers]
        _write_models(folder, out, names, {s: keys[enrolled & (speaker == s)].tolist() for s in models.tolist()})
    else:
        names = dict(zip(speaker[enrolled].tolist(), keys[enrolled].tolist()))
    return _write_rows(out, names, keys.tolist(), rows())


def _draw_once(models, stratum, of_test, seed: int) -> np.ndarray:
    """Draws for each test (J,) the row of `models` that it meets, -1 where there is none.

    Half of the tests whose speaker has a model meet that one. All others meet another speaker's of their stratum.
    """
    rng = np.random.default_rng(seed)
    own = np.full(len(stratum), -1)
    own[models] = np.arange(len(models))
    found = own[of_test]
    known = rng.permutation(np.flatnonzero(found >= 0))
    for k in [*np.flatnonzero(found < 0), *known[: len(known) // 2]]:
        others = np.flatnonzero((stratum[models] == stratum[of_test[k]]) & (models != of_test[k]))
        found[k] = others[rng.integers(len(others))] if len(others) else -1
    return found


def _draw_grid(models, stratum, of_test, count: int, seed: int) -> np.ndarray:
    """Draws `count` distinct non-target cells of the grid models x tests, and gives their flat positions, sorted."""
    total = sum(int(np.sum((of_test != s) & (stratum[of_test] == stratum[s]))) for s in models.tolist())
    if count > total:
        raise UserError(f"{count} non-target trials are asked for, but there are only {total} such pairs")
    rng = np.random.default_rng(seed)
    if 2 * count > total:
        cells = [
            row * len(of_test) + np.flatnonzero((of_test != s) & (stratum[of_test] == stratum[s]))
            for row, s in enumerate(models.tolist())
        ]
        return np.sort(np.concatenate(cells)[rng.permutation(total)[:count]])
    drawn = np.zeros(0, dtype=np.int64)
    while len(drawn) < count:
        row = rng.integers(0, len(models), 2 * count + 1024)
        test = rng.integers(0, len(of_test), 2 * count + 1024)
        a, b = models[row], of_test[test]
        good = (a != b) & (stratum[a] == stratum[b])
        both = np.concatenate([drawn, (row * len(of_test) + test)[good]])
        _, first = np.unique(both, return_index=True)
        drawn = both[np.sort(first)]
    return np.sort(drawn[:count])


def _write_models(folder: DataDir, out: Path, names: list[bytes], utterances: dict[int, list[bytes]]) -> None:
    """Writes enroll.spk2utt: the utterances of each model, which is named as its speaker."""
    path = folder.path / "enroll.spk2utt"
    clash = [names[s] for s in utterances if folder.utt2spk.positions([names[s]])[1][0]]
    if clash:
        raise UserError(f"{folder.path}: `{clash[0].decode()}` names a speaker and an utterance, so no model")
    text = b"".join(names[s] + b" " + b" ".join(utts) + b"\n" for s, utts in utterances.items())
    others = [n for n in folder.names() if is_trials(n) and n != out.name]
    if path.exists() and others and path.read_bytes() != text:
        raise UserError(f"{path}: {some_of(others)} may use its models, and the new ones differ; make both lists with "
                        "one --enroll-utts")
    with atomic_write(path, "wb") as file:
        file.write(text)
