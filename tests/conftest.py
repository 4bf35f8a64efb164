"""What every test shares: the repository on the path, one thread, hypothesis without a deadline."""

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(name, "1")
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

import pytest  # noqa: E402
from hypothesis import settings  # noqa: E402

# A machine under load makes any deadline fail; derandomized, a run of the tests is the same every time.
settings.register_profile("svq", deadline=None, max_examples=50, derandomize=True)
settings.load_profile("svq")


# Tests that take seconds, by file and function: tests/run.sh leaves them to tests/run.sh --all.
SLOW = frozenset((ROOT / "tests" / "slow.txt").read_text().split())

# Groups of tests that take longest: they begin first, so that no process waits for them in the end.
LONGEST = ("mini", "tests/recipes/test_compress.py", "tests/recipes/test_voxceleb.py", "tests/inputs/test_inputs.py")


@pytest.hookimpl(tryfirst=True)  # before xdist puts the groups into the names
def pytest_collection_modifyitems(items):
    """Tests of one file, and those that share the run of the mini recipe, go to one process: what they share is made once."""
    group = {}
    for item in items:
        shared = "mini" if "mini" in item.fixturenames else item.nodeid.split("::")[0]
        group[item] = LONGEST.index(shared) if shared in LONGEST else len(LONGEST)
        item.add_marker(pytest.mark.xdist_group(shared))
        if shared == "mini" or item.nodeid.partition("[")[0] in SLOW:
            item.add_marker(pytest.mark.slow)
    items.sort(key=group.get)


@pytest.fixture(autouse=True)
def one_thread():
    """A test that runs a worker in this process may leave torch at two threads, which then wait for each other for ever."""
    yield
    torch = sys.modules.get("torch")
    if torch is not None and torch.get_num_threads() != 1:
        torch.set_num_threads(1)


def pytest_collection_finish(session):
    """pytest-xdist writes groups into names in a way that not every pytest lets it; without them, all is spread silently."""
    lost = getattr(session.config.option, "loadgroup", False) and any("@" not in item.nodeid for item in session.items)
    if lost:
        raise pytest.UsageError("this pytest-xdist cannot group tests of this pytest; take the versions of "
                                "utils/requirements-test.txt")
