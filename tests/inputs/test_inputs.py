"""Hundreds of bad inputs over every road, in this process: each is refused in one line, or handled rightly."""

import pytest

from tests.inputs import archive_cases, audio_cases, list_cases
from tests.inputs.outcome import HANDLED, REFUSED, outcome, table

CASES = [case for module in (audio_cases, list_cases, archive_cases) for case in module.cases()]
KINDS = list(dict.fromkeys(case.kind for case in CASES))
LEAST = 400


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """Each case with its outcome and what was said."""
    folder = tmp_path_factory.mktemp("inputs")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("SVQ_ALLOW_PIPES", raising=False)
        return [(case, *outcome(case, folder / str(i))) for i, case in enumerate(CASES)]


@pytest.mark.parametrize("kind", KINDS)
def test_refused_in_one_line_or_handled_rightly(found, kind):
    wrong = [f"{case.what}: {seen}: {said}" for case, seen, said in found
             if case.kind == kind and seen not in (HANDLED, REFUSED)]
    assert not wrong, "\n".join(wrong)


def test_table(found, capsys):
    with capsys.disabled():
        print("\n" + table([(case, seen) for case, seen, _ in found]))
    assert len(found) >= LEAST
