import shlex
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from svq.data.rxfilename import Rx, parse, quote_path, speed_command
from svq.errors import UserError

paths = st.text(st.characters(exclude_categories=["Cc", "Cs", "Z"]), min_size=1).filter(
    lambda p: p != "-" and p[0] != "|" and p[-1] not in "|0123456789"
)


@given(paths)
def test_a_path_is_a_file(path):
    assert parse(path) == Rx("file", path)


@given(paths, st.integers(0, 2**62))
def test_a_path_with_an_offset(path, offset):
    assert parse(f"{path}:{offset}") == Rx("offset", path, offset)


def test_pipe_and_what_cannot_be_read():
    assert parse("sox 'a b.wav' -t wav - | ") == Rx("pipe", "sox 'a b.wav' -t wav -")
    for bad in ("", "-", "|", "| cat"):
        with pytest.raises(UserError):
            parse(bad)


@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1))
def test_quoted_path_is_one_word_that_is_no_option(path):
    (word,) = shlex.split(quote_path(path))
    assert word in (path, "./" + path)
    assert word[0] not in "-|" and "://" not in word.removeprefix("./").partition("/")[0]


@pytest.mark.parametrize("name", ["x$(touch pwned).wav", "x;touch pwned;.wav", "x'`touch pwned`.wav", "x\"$(touch pwned).m4a"])
def test_names_are_never_run(tmp_path, name):
    command = parse(speed_command(name, "0.9")).path
    subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True)
    assert not (tmp_path / "pwned").exists()
