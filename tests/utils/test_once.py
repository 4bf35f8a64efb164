"""utils/once.py: what is run again, what is not, and why."""

import os
import signal

import pytest


@pytest.fixture
def once(shell):
    def call(*args, **kw):
        return shell("python3", "-I", "-S", shell.root / "utils/once.py", *args, **kw)
    return call


@pytest.fixture
def copy(shell, once):
    """copy(option...): makes `out put` from `in put`, counting its runs in `runs`."""
    shell.write("in put", "1\n")
    shell.write("runs", "")

    def call(*options, words=(), **kw):
        out, err = once("--in", "in put", "--out", "out put", *options, "--", "bash", "-c",
                        'echo run >> runs; cat "$1" > "$2"', "x", "in put", "out put", *words, **kw)
        return out + err
    call.runs = lambda: shell.read("runs").count("run")
    return call


def test_skips_what_is_done(copy, shell):
    assert "not there yet" in copy()
    assert "up to date" in copy()
    assert copy.runs() == 1 and shell.read("out put") == "1\n"


def test_changed_input_is_named_and_redone(copy, shell):
    copy()
    shell.write("in put", "2\n")
    assert "in put changed" in copy()
    assert shell.read("out put") == "2\n"


def test_same_size_and_time_but_other_content(copy, shell):
    copy()
    times = os.stat(shell.folder / "in put").st_mtime_ns
    shell.write("in put", "9\n")
    os.utime(shell.folder / "in put", ns=(times, times))
    assert "changed" in copy()


@pytest.mark.parametrize("age, trusted", [(0, False), (1, False), (3, True)])
def test_recent_times_are_not_trusted(shell, monkeypatch, age, trusted):
    """A file written again within the clock's grain may keep its times: then its content counts."""
    monkeypatch.syspath_prepend(str(shell.root / "utils"))
    import stamps
    path, stamp = str(shell.write("x", "1")), str(shell.folder / "stamp")
    digests = stamps.digest_inputs([path], {})
    stamps.write_stamp(stamp, ["cp"], digests, {}, {}, stamps.state_of(path)[2] + age * 1_000_000_000)
    known = stamps.read_stamp(stamp)["in"]
    assert (known[path][0] == stamps.state_of(path)) == trusted
    monkeypatch.setattr(stamps, "content_digest", lambda path: "read")
    assert (stamps.digest_inputs([path], known)[path][1] != "read") == trusted


def test_touched_input_is_not_redone(copy, shell):
    copy()
    old = 1_000_000_000 * 1_500_000_000
    os.utime(shell.folder / "in put", ns=(old, old))
    assert "up to date" in copy() and copy.runs() == 1


def test_changed_option_is_named(copy):
    copy(words=["--lr", "0.1"])
    assert "--lr: '0.1' -> '0.3'" in copy(words=["--lr", "0.3"])
    assert "now with --more" in copy(words=["--lr", "0.3", "--more"])
    assert "now without --more" in copy(words=["--lr", "0.3"])
    assert copy.runs() == 4


def test_options_that_say_how_do_not_count(copy):
    copy(words=["--nj", "4", "--cmd", "run.py", "data"])
    assert "up to date" in copy(words=["--nj=8", "--cmd", "slurm.py --mem 4G", "data"])
    assert "up to date" in copy(words=["data"])
    assert "data" in copy(words=["--device", "cpu"])
    copy("--neutral", "device", words=["--device", "cpu"])
    assert "up to date" in copy("--neutral", "device", words=["--device", "cuda"])


def test_missing_output_is_made_again(copy, shell):
    copy()
    (shell.folder / "out put").unlink()
    assert "out put is not there" in copy() and copy.runs() == 2


def test_an_output_of_another_size_is_made_again(copy, shell):
    copy()
    shell.write("out put", "")
    assert "out put has 0 bytes where it was made with 2" in copy() and shell.read("out put") == "1\n"


def test_missing_input_is_said_and_noted_for_the_recipe(once, shell):
    args = ["--in", "no such", "--out", "y", "--", "touch", "y"]
    assert once(*args, code=1)[1] == "touch: no such is missing\n"
    assert once(*args, code=3, SVQ_TELL="1", SVQ_MISSING=str(shell.folder / "note"))[1] == "touch: no such is missing\n"
    assert shell.read("note") == str(shell.folder / "no such")


def test_failed_command_leaves_no_stamp(copy, once, shell):
    copy()
    args = ["--in", "in put", "--out", "out put", "--stamp", ".done.out put", "--"]
    _, err = once(*args, "bash", "-c", "exit 3", code=1)
    assert "code 3" in err and not (shell.folder / ".done.out put").exists()
    assert "not finished before" in copy()


def test_output_that_was_not_made(once):
    _, err = once("--out", "nothing", "--", "true", code=1)
    assert "did not make nothing" in err


def test_command_not_found(once):
    _, err = once("--out", "x", "--", "no-such-command", code=1)
    assert "no-such-command" in err and "code 127" in err


def test_force_and_dry_run(copy, shell):
    before = sorted(shell.folder.iterdir())
    assert "would make out put" in copy("--dry-run")
    assert sorted(shell.folder.iterdir()) == before and copy.runs() == 0
    copy()
    assert "forced" in copy("--force") and copy.runs() == 2
    assert "up to date" in copy("--dry-run")


def test_dry_run_counts_on_what_was_planned_before(once, shell):
    def requests(*calls):
        return shell.write("calls", "".join("\0".join(map(str, call)) + "\0\x1e\0" for call in calls))

    first = ("once", "--out", "data/train/wav.scp", "--", "bash", "steps/make_it.sh", "")
    second = ("once", "--in", "data/train", "--out", "y", "--", "touch", "y")
    once(*second[1:], code=1)
    calls = requests(("stage", 2, "data"), first, ("stage", 3, "rest"), second)
    assert once("--plan", calls)[0].splitlines() == [
        "stage 2: data", "  would make data/train/wav.scp (data/train/wav.scp is not there yet): steps/make_it.sh ''",
        "stage 3: rest", "  would make y (data/train is made again before): touch y",
        "dry run: 2 to make, 0 up to date; nothing was touched"]
    assert once("--plan", calls, shell.folder / "data/train/wav.scp")[0] == (
        "stage 2 makes it (steps/make_it.sh): go on with --stage 2\n")
    once("--plan", calls, shell.folder / "data/training", code=1)
    _, err = once("--plan", requests(("stage", 3, "rest"), second), code=1)
    assert err == "touch: data/train is missing\n" and shell.read("calls.stage") == "3"
    out, _ = once("--plan", requests(("stage", 0, "corpus"), ("need", "data/train/wav.scp", "get it"), second))
    assert "data/train/wav.scp is missing: get it" in out and "would make y" in out


def test_data_directory_as_input(once, shell):
    for name in ["wav.scp", "utt2spk", "split4/1/wav.scp", ".backup/wav.scp", "feats.scp"]:
        shell.write("data/" + name, "x\n")
    args = ["--in", "data", "--out", "data/feats.scp", "--", "bash", "-c", "date +%N > data/feats.scp"]
    once(*args)
    shell.write("data/split4/1/wav.scp", "changed\n")
    shell.write("data/.backup/wav.scp", "changed\n")
    assert "up to date" in once(*args)[0]            # its own output is no input
    shell.write("data/spk2gender", "x\n")
    assert "data/spk2gender is new" in once(*args)[0]
    (shell.folder / "data/spk2gender").unlink()
    assert "data/spk2gender is gone" in once(*args)[0]
    shell.write("data/utt2spk", "y\n")
    assert "data/utt2spk changed" in once(*args)[0]


def test_command_that_changes_its_input_is_warned_of(once, shell):
    shell.write("data/wav.scp", "x\n")
    _, err = once("--in", "data", "--out", "y", "--", "bash", "-c", "echo z >> data/wav.scp; touch y")
    assert "data/wav.scp changed while" in err


def test_damaged_stamp_means_run(copy, shell):
    copy()
    stamp = shell.folder / ".done.out put"
    stamp.write_text(stamp.read_text()[:-20])
    assert "not finished before" in copy()


def test_odd_names(once, shell):
    name = "tab\there\nnew \\n line é"
    shell.write(name, "x")
    args = ["--in", name, "--out", "y", "--", "touch", "y", name]
    once(*args)
    assert "up to date" in once(*args)[0]


@pytest.mark.parametrize("args", [
    [], ["--"], ["--out", "y"], ["--out", "y", "--"], ["--out", "--", "true"], ["--", "true"],
    ["--no-such", "--out", "y", "--", "true"], ["--out", "y", "true"]])
def test_wrong_command_line(once, args):
    _, err = once(*args, code=2)
    assert err.startswith("once.py: ") and err.count("\n") == 1


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_killed_takes_its_command_along(shell, marked, number):
    """... even what the command has put into a session of its own; and leaves no stamp."""
    shell.write("y", "old\n")
    shell.write(".done.y", "old stamp\n")
    process = shell.start("python3", shell.root / "utils/once.py", "--out", "y", "--", "bash", "-c",
                          "setsid sleep 600 & (sleep 600; true); true")
    shell.until(lambda: len(marked()) >= 5, "the command runs")
    process.send_signal(number)
    process.communicate(timeout=60)
    shell.until(lambda: not marked(), "all are gone")
    assert not (shell.folder / ".done.y").exists()


def test_nothing_is_left_when_the_command_ends(shell, once, marked):
    once("--out", "y", "--", "bash", "-c", "setsid sleep 600 > /dev/null 2>&1 & touch y")
    assert not marked()


def test_what_may_be_there_counts_where_it_is(once, shell):
    args = ["--maybe", "segments", "--out", "y", "--", "touch", "y"]
    once(*args)
    shell.write("segments", "x")
    assert "segments is new" in once(*args)[0]
    assert "up to date" in once(*args)[0]


def test_what_is_said_stands_for_the_command_line(once):
    def call(*said, command="touch"):
        return once("--out", "y", *(word for text in said for word in ("--said", text)), "--", command, "y")[0]

    call("x.sh", "--rate=1", "--nj=4", "--teacher=", "data")
    assert "up to date" in call("x.sh", "--rate=1", "--nj=8", "--teacher=", "data", command="/bin/touch")
    assert "--rate: '1' -> '2'" in call("x.sh", "--rate=2", "--nj=8", "--teacher=", "data")
    assert "--teacher: '' -> 'exp/t'" in call("x.sh", "--rate=2", "--nj=8", "--teacher=exp/t", "data")


def test_pieces_are_made_where_they_are_not_up_to_date(once, shell):
    """One start of the command for all that are stale; a new one, or one of other inputs, redoes no other."""
    script = shell.write("work", 'echo "$SVQ_PIECES" >> ran; for p in $SVQ_PIECES; do cp "$p.in" "$p.out"; done\n')
    for name in "abc":
        shell.write(f"{name}.in", name)
    shell.write("all", "x")

    def call(*names, **kw):
        pieces = [word for name in names for word in ("--piece", name, "--in", f"{name}.in", "--out", f"{name}.out")]
        return once("--in", "all", "--said", "work", *pieces, "--", "bash", script, **kw)

    call("a", "b")
    call("a", "b", "c")
    shell.write("a.in", "other")
    out, _ = call("a", "b", "c")
    assert "make a.out (a.in changed)" in out and "skip b.out" in out
    assert shell.read("ran") == "a b\nc\na\n" and shell.read("a.out") == "other"
    shell.write("all", "y")
    call("a", "b", "c")
    assert shell.read("ran").endswith("a b c\n")
    shell.write("work", "exit 1")
    shell.write("all", "z")
    call("a", "b", "c", code=1)
    assert not list(shell.folder.glob(".done.*"))


@pytest.fixture
def settings(shell):
    shell.write("conf/all.yaml", "epochs: 4\n")
    shell.write("conf/fine.yaml", "base: all.yaml\nrows: [own.yaml, shared.yaml]\nlr: 1\n")
    shell.write("conf/own.yaml", "# ours\nx:\n  base: x\n  bits: 1\n")
    shell.write("conf/shared.yaml", "x: {bits: 2}\n# of z\nz: {base: x, data: {input: feats}}\nw: {bits: 8}\n")
    shell.write("speech/utt2spk", "a a\n")
    shell.write("speech/feats.scp", "a")
    return shell


@pytest.mark.parametrize("name, old, new, why", [
    ("conf/all.yaml", "4", "5", "conf/all.yaml changed"),
    ("conf/own.yaml", "bits: 1", "bits: 3", "conf/own.yaml:x changed"),
    ("conf/shared.yaml", "bits: 2", "bits: 3", "conf/shared.yaml:x changed"),
    ("conf/shared.yaml", "input: feats", "input: wav", "conf/shared.yaml:z changed"),
    ("conf/shared.yaml", "bits: 8", "bits: 7", None),
    ("conf/shared.yaml", "# of z", "# of the last", None),
    ("conf/own.yaml", "# ours", "y: {bits: 5}", None),
    ("speech/feats.scp", "a", "b", "speech/feats.scp changed")])
def test_a_row_of_a_table_counts_and_no_other(once, settings, name, old, new, why):
    args = ["--config", "conf/fine.yaml:z", "--speech", "speech", "--reads", "settings", "--out", "y", "--", "touch", "y"]
    once(*args)
    assert "up to date" in once(*args)[0]
    settings.write(name, settings.read(name).replace(old, new))
    assert (why or "up to date") in once(*args)[0]


def test_features_count_where_the_settings_read_them(once, settings):
    args = ["--config", "conf/fine.yaml:x", "--speech", "speech", "--reads", "settings", "--out", "y", "--", "touch", "y"]
    once(*args)
    settings.write("speech/feats.scp", "b")
    assert "up to date" in once(*args)[0]


def test_settings_that_build_on_a_row(once, settings):
    """As a search's best.yaml does, from another folder with a blank in its name."""
    settings.write("a search/best.yaml", "base: ../conf/fine.yaml:z\nlr: 2\n")
    args = ["--config", "a search/best.yaml", "--speech", "speech", "--reads", "settings", "--out", "y", "--", "touch", "y"]
    once(*args)
    settings.write("conf/shared.yaml", settings.read("conf/shared.yaml").replace("bits: 2", "bits: 3"))
    assert "shared.yaml:x changed" in once(*args)[0]
    settings.write("speech/feats.scp", "b")
    assert "feats.scp changed" in once(*args)[0]
    settings.write("b search/best.yaml", "base: ../a search/best.yaml\n")
    once("--config", "b search/best.yaml", "--out", "w", "--", "touch", "w")


def test_levels_that_the_settings_name_are_inputs(once, settings):
    settings.write("conf/own.yaml", "x:\n  distill: {targets: {levels: [utterance, frame2+frame4:stats]}}\n")
    args = ["--config", "conf/fine.yaml:x", "--levels", "levels", "--out", "y", "--", "touch", "y"]
    assert "levels/utterance.json is missing" in once(*args, code=1)[1]
    settings.write("levels/utterance.json", "x")
    assert "levels/frame2+frame4-stats.json is missing" in once(*args, code=1)[1]
