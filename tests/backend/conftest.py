"""Property tests here: no deadline on a loaded machine, the same examples in every run."""

from hypothesis import settings

settings.register_profile("backend", deadline=None, derandomize=True)
settings.load_profile("backend")
