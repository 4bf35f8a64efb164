"""What stands behind lists, code, and other experiments: results that look finished and are not."""

import errno
import os
import shutil

import pytest

OLD = 1_500_000_000 * 1_000_000_000


@pytest.fixture
def once(shell):
    def call(*args, **kw):
        return shell("python3", "-I", "-S", shell.root / "utils/once.py", *args, **kw)
    return call


@pytest.fixture
def speech(shell, monkeypatch):
    """A data directory `speech` whose two recordings and one archive are there."""
    monkeypatch.chdir(shell.folder)
    for name in ("a.wav", "b b.wav", "arks/x.ark"):
        shell.write(name, "data")
        os.utime(name, ns=(OLD, OLD))
    shell.write("speech/utt2spk", "a a\nb b\n")
    shell.write("speech/wav.scp", "a a.wav\nb b b.wav\n")
    shell.write("settings.yaml", "data: {input: feats}\n")
    return shell


def with_features(shell):
    shell.write("speech/feats.scp", "a arks/x.ark:2\nb arks/x.ark:3[0:4]\n")


def change(name):
    """Write over a file of the same size, which a list's own text does not tell."""
    with open(name, "r+") as file:
        file.write("DATA")


@pytest.mark.parametrize("options, features, changed, why", [
    ([], False, "a.wav", "recordings of speech/wav.scp changed"),
    ([], True, "a.wav", None),
    ([], True, "arks/x.ark", "archives of speech/feats.scp changed"),
    (["--reads", "wav"], True, "b b.wav", "recordings of speech/wav.scp changed"),
    (["--reads", "wav"], True, "arks/x.ark", None),
    (["--reads", "feats"], True, "arks/x.ark", "archives of speech/feats.scp changed"),
    (["--reads", "settings", "--config", "settings.yaml"], True, "arks/x.ark", "archives of speech/feats.scp changed"),
    (["--reads", "settings", "--config", "settings.yaml"], True, "a.wav", None),
    (["--reads", "settings"], True, "a.wav", "recordings of speech/wav.scp changed")])
def test_what_is_read_counts_by_size_and_time(once, speech, options, features, changed, why):
    if features:
        with_features(speech)
    args = ["--speech", "speech", *options, "--out", "y", "--", "touch", "y"]
    once(*args)
    assert "up to date" in once(*args)[0]
    change(changed)
    assert (why or "up to date") in once(*args)[0]
    assert "up to date" in once(*args)[0]


@pytest.mark.parametrize("settings, counts", [
    ("augment: {prob: 0.6}", True), ("augment:\n  prob: 0.6", True), ("spec_augment: {prob: 1}", False),
    ("augment: null", False), ("# augment: {prob: 1}", False), ("base: other.yaml", True),
    ("base: other.yaml\naugment: ~", False)])
def test_noise_counts_where_the_settings_augment(once, speech, settings, counts):
    speech.write("it.yaml", settings + "\n")
    speech.write("other.yaml", "augment: {prob: 1}\n")
    args = ["--config", "it.yaml", "--noise", "speech", "--out", "y", "--", "touch", "y"]
    once(*args)
    change("a.wav")
    assert ("recordings of speech/wav.scp changed" if counts else "up to date") in once(*args)[0]


def test_an_older_file_in_place_of_a_recording_counts(once, speech):
    args = ["--speech", "speech", "--out", "y", "--", "touch", "y"]
    once(*args)
    speech.write("other.wav", "else")
    os.utime("other.wav", ns=(OLD - 10**9, OLD - 10**9))
    os.replace("other.wav", "a.wav")
    assert "recordings of speech/wav.scp changed" in once(*args)[0]


@pytest.mark.parametrize("features, gone, listed", [
    (False, "a.wav", "speech/wav.scp"), (True, "arks/x.ark", "speech/feats.scp")])
def test_what_is_gone_is_one_line_and_nothing_is_touched(once, speech, features, gone, listed):
    if features:
        with_features(speech)
    args = ["--speech", "speech", "--out", "y", "--said", "steps/it.sh", "--", "bash", "-c", "echo >> ran; touch y"]
    once(*args)
    os.unlink(gone)
    note = speech.folder / "note"
    for env in ({}, {"SVQ_DRY_RUN": "1"}):
        assert once(*args, code=1, **env)[1] == f"steps/it.sh: {gone} is missing, which {listed} names\n"
    assert speech.read("ran") == "\n" and os.path.exists(".done.y")
    once(*args, code=3 if features else 1, SVQ_TELL="1", SVQ_MISSING=str(note))
    assert not features or note.read_text() == str(speech.folder / "speech" / "feats.scp")


def test_segments_and_channels_count_where_waveforms_are_read(once, speech):
    args = ["--speech", "speech", "--out", "y", "--", "touch", "y"]
    once(*args)
    for name in ("segments", "reco2file_and_channel"):
        speech.write(f"speech/{name}", "x")
        assert f"speech/{name} is new" in once(*args)[0]
    with_features(speech)
    assert "feats.scp is new" in once(*args)[0]
    speech.write("speech/segments", "other")
    assert "up to date" in once(*args)[0]


def test_a_list_that_is_made_is_no_input(once, speech):
    args = ["--recordings", "speech/wav.scp", "--out", "speech/wav.scp", "--", "touch", "speech/wav.scp"]
    once(*args)
    change("a.wav")
    assert "up to date" in once(*args)[0]


@pytest.mark.parametrize("value, files", [
    ("a.wav", ["a.wav"]), ("a.wav:17", ["a.wav"]), ("a.wav:17[2:5]", ["a.wav"]), ("b b.wav", ["b b.wav"]),
    ("sox ./a.wav -t wav - |", ["./a.wav"]), ("cat './no such/' ./a.wav |", ["./a.wav"]), ("", [])])
def test_files_of_a_list(speech, monkeypatch, value, files):
    monkeypatch.syspath_prepend(str(speech.root / "utils"))
    import listed
    speech.write("list", f"id {value}\nid2 {value}\n")
    assert listed.files_behind("list") == files


def test_of_a_long_list_lines_from_all_over_are_looked_at(speech, monkeypatch):
    monkeypatch.syspath_prepend(str(speech.root / "utils"))
    import listed
    names = [f"folder{i // 100}/{i:05}.wav" for i in range(2000)]
    speech.write("list", "".join(f"{i:05} {name}\n" for i, name in enumerate(names)))
    monkeypatch.setattr(listed, "LONG", 10_000)
    monkeypatch.setattr(listed, "LINES", 200)
    found = listed.files_behind("list")
    assert 190 <= len(found) <= 200 and set(found) <= set(names)
    assert {name.partition("/")[0] for name in found} == {f"folder{i}" for i in range(20)}


def test_archives_of_an_output_are_outputs(once, speech):
    command = "echo data > arks/x.ark; echo 'a arks/x.ark:2' > out.scp"
    args = ["--out", "out.scp", "--", "bash", "-c", command]
    once(*args)
    assert "up to date" in once(*args)[0]
    speech.write("arks/x.ark", "da")
    assert "arks/x.ark has 2 bytes where it was made with 5" in once(*args)[0]
    os.unlink("arks/x.ark")
    assert "arks/x.ark is gone" in once(*args)[0]
    assert "up to date" in once(*args)[0]


def test_what_an_output_folder_held_must_stay(once, speech):
    """Its lists may be changed, or more come; none may be lost."""
    args = ["--out", "made", "--", "bash", "-c", "mkdir -p made/log; echo a > made/utt2spk; echo a > made/wav.scp; touch made/log/x"]
    once(*args)
    speech.write("made/utt2spk", "fixed\n")
    speech.write("made/feats.scp", "more\n")
    os.unlink("made/log/x")
    assert "up to date" in once(*args)[0]
    os.unlink("made/wav.scp")
    assert "made/wav.scp is gone" in once(*args)[0]
    assert "up to date" in once(*args)[0]


def test_half_written_files_of_a_killed_run_go(once, speech):
    left = (".model.ab12.tmp.svq", ".done.model.svq.tmp17", ".model.ab.tmp", "model.tmp.svq", ".model.b.ab12.tmp.svq")
    for name in left:
        speech.write("exp/" + name, "x")
    once("--out", "exp/model.svq", "--", "touch", "exp/model.svq")
    assert sorted(os.listdir("exp")) == sorted([*left[2:], "model.svq", ".done.model.svq"])


def test_what_was_made_besides_must_stay(once, speech):
    args = ["--out", "y", "--also", "head", "--also", "none", "--", "touch", "y", "head"]
    once(*args)
    os.unlink("head")
    assert "head is gone" in once(*args)[0]
    assert "up to date" in once(*args)[0]


def test_no_figure_of_a_page_may_be_lost(once, speech):
    """A folder that is made besides: its files at the top must stay, hidden ones, logs and caches need not."""
    make = "mkdir -p p/log p/cache; touch p/index.html p/a.svg p/.x p/log/l p/cache/c"
    args = ["--out", "p/index.html", "--also", "p", "--", "bash", "-c", make]
    once(*args)
    for name in ("p/.x", "p/log/l", "p/cache/c"):
        os.unlink(name)
    assert "up to date" in once(*args)[0]
    os.unlink("p/a.svg")
    assert "p/a.svg is gone" in once(*args)[0]
    assert os.path.exists("p/a.svg") and "up to date" in once(*args)[0]


def test_a_stamp_for_which_there_is_no_space_is_named(shell, monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(shell.root / "utils"))
    import stamps

    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError) as raised:
        stamps.write_stamp(str(tmp_path / "full" / ".done.x"), ["x"], {}, {}, {}, 0)
    assert raised.value.filename == str(tmp_path / "full" / ".done.x") and os.listdir(tmp_path / "full") == []


def test_what_a_killed_run_left_is_known_by_what_went_in(once, speech):
    """SVQ_INPUTS is the same until a recording or the code changes; SVQ_ANEW says that nothing is to be taken up."""
    args = ["--speech", "speech", "--out", "y", "--", "bash", "-c", 'echo "$SVQ_INPUTS $SVQ_ANEW" >> told; touch y']
    once(*args)
    os.unlink("y")
    once(*args)
    change("a.wav")
    once(*args)
    os.unlink(".done.y")                       # killed
    once(*args)
    once(*args, "--more")
    once(*args, SVQ_FORCE="1")
    first, again, changed, killed, more, forced = (line.split(" ") for line in speech.read("told").splitlines())
    assert first == again and first[1] == "" and len(first[0]) == 32
    assert changed[0] != first[0] and changed[1] == "1"
    assert killed == more == [changed[0], ""] and forced == [changed[0], "1"]


@pytest.mark.parametrize("force, left", [("", True), ("1", False)])
def test_a_forced_training_begins_anew(shell, force, left):
    """... and one that was killed goes on: its checkpoints are there."""
    for name in ("data/utt2spk", "data/wav.scp", "exp/checkpoints/last.pt", "conf.yaml"):
        shell.write(name, "")
    cmd = shell.write("fake.sh", 'touch exp/model.safetensors exp/config.yaml; ls exp/checkpoints > seen || true\n', True)
    shell("bash", shell.root / "steps/train.sh", "--cmd", f"bash {cmd.name}", "conf.yaml", "data", "exp", SVQ_FORCE=force)
    assert shell.read("seen") == ("last.pt\n" if left else "")


# --- code ---

STEP = """#!/usr/bin/env bash
# Counts.
cmd=run.py  # dispatcher
rate=1      # how much
. "${0%/*}/../utils/parse_options.sh"
step_of_its_own   # a comment
python3 -m svq.bin.count
. "$SVQ_ROOT/steps/common.sh"
"""
FILES = {
    "steps/count.sh": STEP, "steps/common.sh": "# Common.\nx=1\n",
    "svq/__init__.py": 'def __getattr__(name):\n    from svq.heavy import it\n    return it\n', "svq/bin/__init__.py": "",
    "svq/bin/count.py": '"""Count."""\n\n\ndef main():\n    """Count."""\n    from svq.deep import count\n    return count(1)\n',
    "svq/deep.py": "import svq.other.leaf as leaf\n\n\ndef count(x):\n    # one more\n    return leaf.n + x\n",
    "svq/other/__init__.py": "", "svq/other/leaf.py": "n = 1\n", "svq/heavy.py": "it = 1\n", "svq/other/away.py": "m = 1\n"}


@pytest.fixture
def tree(shell):
    """A small tree like ours, with once.py in it, and a call of it for steps/count.sh."""
    for name, text in FILES.items():
        shell.write(name, text)
        os.utime(shell.folder / name, ns=(OLD, OLD))
    (shell.folder / "utils").mkdir()
    for path in (shell.root / "utils").glob("*.py"):
        shutil.copy(path, shell.folder / "utils")
    shell.write("work", "touch y\n")

    def call(*options, **kw):
        return shell("python3", "-I", "-S", shell.folder / "utils/once.py", "--out", "y", "--said", "count.sh", *options,
                     "--", "bash", "steps/count.sh", **kw)[0]
    shell.write("steps/count.sh", STEP.replace("python3", "touch y; true python3").replace(
        "step_of_its_own", "true").replace('. "$SVQ_ROOT', ': "$SVQ_ROOT').replace('. "${0', ': "${0'))
    return call


@pytest.mark.parametrize("name, old, new, counts", [
    ("svq/bin/count.py", "count(1)", "count(2)", True),
    ("svq/deep.py", "leaf.n + x", "leaf.n - x", True),
    ("svq/other/leaf.py", "n = 1", "n = 2", True),
    ("svq/other/__init__.py", "", "x = 1\n", True),
    ("steps/count.sh", "true   #", "true now   #", True),
    ("steps/common.sh", "x=1", "x=2", True),
    ("svq/deep.py", "# one more", "# one more than that", False),
    ("svq/bin/count.py", '"""Count."""', '"""Count once more."""', False),
    ("svq/bin/count.py", "\n\n\ndef", "\n\n\n\ndef", False),
    ("svq/other/away.py", "m = 1", "m = 2", False),
    ("svq/heavy.py", "it = 1", "it = 2", False),
    ("steps/count.sh", "# a comment", "# another one", False),
    ("steps/count.sh", "# Counts.", "# Counts what there is.", False),
    ("steps/count.sh", "# dispatcher", "# what dispatches", False)])
def test_code_counts_and_what_is_said_of_it_does_not(tree, shell, name, old, new, counts):
    tree()
    assert "up to date" in tree()
    text = shell.read(name)
    shell.write(name, text.replace(old, new) if old else new)
    assert shell.read(name) != text
    assert ("its code has changed" if counts else "up to date") in tree()
    assert "up to date" in tree()


def test_code_that_was_just_written_is_read_again(tree, shell):
    """As fast as the clock's grain, of the same size: what is kept of a file is not trusted then."""
    shell.write("svq/deep.py", FILES["svq/deep.py"])
    tree()
    times = os.stat(shell.folder / "svq/deep.py").st_mtime_ns
    shell.write("svq/deep.py", FILES["svq/deep.py"].replace("+", "-"))
    os.utime(shell.folder / "svq/deep.py", ns=(times, times))
    assert "its code has changed" in tree()


def test_dear_work_of_other_code_is_kept_and_said(tree, shell):
    tree("--dear")
    shell.write("svq/other/leaf.py", "n = 2\n")
    for options in ((), ("--dry-run",), ()):
        assert tree("--dear", *options) == "  skip y (made by other code than now; --force redoes it)\n"
    shell.write("more", "x")
    assert "more is new" in tree("--dear", "--in", "more")
    shell.write("svq/other/leaf.py", "n = 3\n")
    assert "forced" in tree("--dear", "--in", "more", "--force") and "up to date" in tree("--dear", "--in", "more")


def test_code_is_found_where_nothing_can_be_kept(tree, shell):
    kept = shell.folder / "utils" / "__pycache__"
    shutil.rmtree(kept, ignore_errors=True)
    kept.write_text("in the way")
    shell.write("notes/x", "")
    tree(SVQ_MISSING=str(shell.folder / "notes" / "missing"))
    assert (shell.folder / "notes" / "code").read_text().count("svq/deep.py") == 2
    assert "up to date" in tree()
    shell.write("svq/deep.py", FILES["svq/deep.py"].replace("+", "-"))
    assert "its code has changed" in tree()


def test_a_module_that_cannot_be_parsed_counts_as_it_stands(tree, shell):
    tree()
    shell.write("svq/deep.py", "def (\n")
    assert "its code has changed" in tree() and "up to date" in tree()


def test_every_step_has_code_of_its_own(shell, monkeypatch):
    """Each script that says what it makes is found with its worker, and a worker with what it imports."""
    monkeypatch.syspath_prepend(str(shell.root / "utils"))
    from code_text import Code
    code = Code(str(shell.root))
    steps = [path for path in (shell.root / "steps").glob("*.sh") if "\nstep " in path.read_text()]
    assert len(steps) > 25
    for path in steps:
        assert code.digest(["bash", str(path)])
        workers = {name for name in code._reached([f"steps/{path.name}"]) if name.startswith("svq/bin/")}
        assert workers - {"svq/bin/__init__.py"} or path.name == "make_ladder.sh", path.name
    assert "svq/train/loop.py" in code._reached(["steps/train.sh"])
    assert not {"svq/train/loop.py", "svq/data/fbank.py"} & code._reached(["steps/score.sh"])
    assert "local/mini/voice.py" in code._reached(["local/prepare_mini.sh"])
    assert "utils/run.py" not in code._reached(["steps/train.sh"])


# --- experiments that share a folder ---

@pytest.fixture
def share(shell, once):
    for name in "AB":
        (shell.folder / name).mkdir()

    def call(owner, mels=80, *options, out="data/feats.scp", code=0, **kw):
        made = once("--out", out, *options, "--said", "fbank.sh", "--said", f"--num-mels={mels}", "--", "bash", "-c",
                    f"mkdir -p data A; echo {mels} > {out}", code=code, SVQ_OWNER=str(shell.folder / owner), **kw)
        return made[1] if code else made[0]
    return call


def test_what_another_experiment_made_with_the_same_settings_is_taken(share):
    share("A")
    assert "up to date" in share("B")


def test_what_another_experiment_made_with_other_settings_is_not_overwritten(share, shell):
    share("A")
    for env in ({}, {"SVQ_DRY_RUN": "1"}):
        said = share("B", 40, code=1, **env)
        assert said.count("\n") == 1 and f"data/feats.scp was made for {shell.folder}/A with other settings" in said
        assert "--num-mels: '80' -> '40'" in said and shell.read("data/feats.scp") == "80\n"
    assert "--num-mels: '80' -> '40'" in share("A", 40)          # its own
    assert "forced" in share("B", 80, "--force")
    shell.write("data/feats.scp", "")
    assert "has 0 bytes" in share("A", 40)                       # there is nothing to overwrite
    shutil.rmtree(shell.folder / "A")
    assert "--num-mels: '40' -> '80'" in share("B", 80)          # nobody to take it from


def test_a_shared_folder_that_cannot_be_written_into_needs_no_lock(share, shell):
    """A corpus that is only checked."""
    share("A", out="data/checked")
    (shell.folder / "data" / ".lock.wav").mkdir()
    shell.write("data/wav", "")
    assert "made" in share("A", 80, "--stamp", "A/.done.wav", out="data/wav")


def test_what_lies_in_the_experiment_is_its_own(share):
    share("A", out="A/feats.scp")
    assert "--num-mels: '80' -> '40'" in share("A", 40, out="A/feats.scp")


def test_two_runs_do_not_make_a_shared_file_at_once(shell, once):
    """The second waits, and finds it made."""
    shell.write("go", "")
    args = ["--out", "y", "--", "bash", "-c", "echo run >> runs; until [[ -e ready ]]; do sleep 0.02; done; touch y"]
    call = ["python3", "-I", "-S", shell.root / "utils/once.py", *args]
    first = shell.start(*call, SVQ_OWNER=str(shell.folder / "A"))
    shell.until(lambda: (shell.folder / "runs").exists(), "the first works")
    second = shell.start(*call, SVQ_OWNER=str(shell.folder / "B"))
    assert "make y" in first.stdout.readline() and "wait for another run" in second.stdout.readline()
    shell.write("ready", "")
    first.communicate(timeout=60)
    assert "skip y (up to date)" in second.communicate(timeout=60)[0]
    assert shell.read("runs") == "run\n"
