"""Lists of these tests may run commands; tests/inputs has those that may not."""

import pytest


@pytest.fixture(autouse=True)
def pipes(monkeypatch):
    monkeypatch.setenv("SVQ_ALLOW_PIPES", "true")
