"""utils/status.sh: how the pieces of work of an experiment stand."""

import fcntl
import os
import signal
import socket

import pytest

HOST = socket.gethostname()


@pytest.fixture
def status(shell):
    """status(word...): its lines after the first, with the first one in `.head`."""
    (shell.folder / "utils").symlink_to(shell.root / "utils")

    def call(*words, code=0):
        out, err = shell("bash", "utils/status.sh", *words, code=code)
        call.err = err
        call.head, *lines = out.splitlines() or [""]
        return lines
    return call


@pytest.fixture
def once(shell):
    """once(name, script, word...): makes exp/NAME as a run of run.sh would."""
    (shell.folder / "exp").mkdir()

    def call(name, script="cp in.txt \"$1\"", *words, start=False, code=0):
        (shell.folder / "exp" / name).parent.mkdir(parents=True, exist_ok=True)
        run = shell.start if start else shell
        options = {} if start else {"code": code}
        return run("python3", "-I", "-S", shell.root / "utils/once.py", "--in", "in.txt", "--out", "exp/" + name, "--", "bash",
                   "-c", script, "x", "exp/" + name, *words, SVQ_OWNER=str(shell.folder / "exp"), SVQ_TELL="1", **options)
    shell.write("in.txt", "1")
    return call


def tree(shell):
    return {path: os.lstat(path)[6:7] + os.lstat(path)[8:] for path in [*shell.folder.rglob("*")] if "utils" not in path.parts}


def test_done_and_stale(shell, status, once):
    for name in ("net/model", "net/scores", "other/model"):
        once(name, code=10)
    old = {path: (path.stat().st_mtime_ns, path.stat().st_ctime_ns) for path in (shell.folder / "exp").rglob("*")}
    lines = status()
    assert status.head.startswith("exp: 3 done; ") and "net  (2 pieces)" in lines[0] and "other  (1 piece)" in lines[1]
    assert [line.split("  ")[-2] for line in status("--all")[:3]] == ["exp/net/model", "exp/net/scores", "exp/other/model"]
    assert HOST in status("--all")[0]
    shell.write("in.txt", "1")                                   # other times, the same content
    assert status() and "3 done" in status.head
    shell.write("exp/net/scores", "")
    shell.write("in.txt", "2")
    once("other/model", code=10)
    lines = status()
    assert "2 stale, 1 done" in status.head
    assert lines[0].endswith("exp/net/model  (%s, 1 bytes, in.txt changed)" % HOST)
    assert "exp/net/scores has 0 bytes where it was made with 1" in lines[1]
    assert all((path.stat().st_mtime_ns, path.stat().st_ctime_ns) == times for path, times in old.items()
               if "other" not in path.parts and path.name != "scores" and path.is_file())


def test_of_several_jobs_the_log_of_the_one_that_failed(status, once):
    once("a", 'mkdir -p log; run.py JOB=1:3 log/a.JOB.log bash -c \'echo job JOB says so; ((JOB != 2))\'', code=1)
    lines = status()
    assert lines[0].startswith("  failed") and "code 1" in lines[0] and lines[1].endswith("log/a.2.log: job 2 says so")


def test_running_failed_interrupted(shell, status, once):
    log = 'mkdir -p log; run.py log/"${1##*/}".log bash -c \'%s\''
    once("a", log % "echo too bad; exit 3", code=1)
    run = once("b", log % "echo step 3/9 epoch 1 loss 2.5 x 1 samples/s 500 s left; touch here; sleep 600; true", start=True)
    shell.until((shell.folder / "here").exists, "it runs")
    (shell.folder / "exp/.lock").touch()
    with open(shell.folder / "exp/.lock", "r+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.write("pid 1 on there since then\n")
        lock.flush()
        before = tree(shell)
        lines = status()
        assert status.head.startswith("exp: 1 running, 1 failed; ") and "a run is on (pid 1 on there since then)" in status.head
        assert tree(shell) == before
    assert lines[0].startswith("  running") and "exp/b  (%s, step 3/9, loss 2.5, 8 min left)" % HOST in lines[0]
    assert "log/b.log: step 3/9 epoch 1 loss 2.5" in lines[1]
    assert lines[2].startswith("  failed") and "exp/a  (%s, code 1)" % HOST in lines[2]
    assert lines[3].endswith(" log/a.log: too bad")
    run.send_signal(signal.SIGKILL)
    run.communicate()
    assert "1 failed, 1 interrupted" in (status() and status.head)
    once("a", code=10)
    once("b", code=10)
    assert "exp: 2 done;" in (status() and status.head)
    assert not (shell.folder / "exp/.at_work").exists()


def test_a_mark_of_slurm_and_of_another_host(shell, status):
    """Where the process cannot be seen the lock tells."""
    shell.write("exp/.at_work/x", "svq work 1\nstarted\t2026-01-01T00:00:00\nhost\tfar\npid\t1\t1\t1\npiece\tnet\t%s/exp/.done.net\njob\t77\n"
                % shell.folder)
    shell.write("exp/.lock", "")
    assert "interrupted  2026-01-01 00:00:00  net  (job 77, begun and not ended)" in status()[0]
    with open(shell.folder / "exp/.lock") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert status()[0].startswith("  running      2026-01-01 00:00:00  net  (job 77)")


def test_steps_that_were_called_by_hand(shell, status):
    """Their logs tell."""
    head = "# cmd\n# Host: %s\n# Started: 2026-01-01 00:00:00\n#\n"
    shell.write("exp/a/log/train.log", head % HOST + "words\n# Ended (code 1) at 2026-01-02 00:00:00\n")
    shell.write("exp/b/log/train.log", head % HOST + "words\n")
    shell.write("exp/c/log/train.log", head % "far" + "words\n")
    shell.write("exp/d/log/train.log", head % HOST + "words\n# Ended (code 0) at 2026-01-02 00:00:00\n")
    shell.write("exp/e/log/other.log", "no log of ours\n")
    run = shell.start("run.py", "exp/f/log/train.log", "bash", "-c", "touch here; sleep 600; true")
    shell.until((shell.folder / "here").exists, "it runs")
    lines = [line for line in status() if ".log  (" in line]
    assert [line.split()[0] + line.partition("exp/")[2][0] for line in lines] == ["runningc", "runningf", "faileda", "interruptedb"]
    run.kill()
    run.communicate()


def test_cleaned_work_is_done(shell, status, once):
    once("net/x.ark", code=10)
    shell("bash", "utils/clean.sh", "--yes", "true")
    lines = status()
    assert "1 done" in status.head and "(1 piece, 1 cleaned)" in lines[0] and "cleaned" in status("--all")[0]


def test_strange_folders(shell, status):
    (shell.folder / "empty").mkdir()
    assert status("empty") == [] and status.head == "empty: nothing was made here yet; 0 bytes on disk"
    status("none", code=1)
    assert status.err == "status.sh: none: no such folder; give the folder of an experiment (--help says more)\n"
    shell.write("file", "")
    status("file", code=1)
    shell.write("half/.done.x", "svq stamp 2\nout\tx")
    shell.write("half/.done.y", "\x00\xff")
    shell.write("half/.done.z", "svq stamp 2\nend\n")
    shell.write("half/.at_work/m", "svq work 1\nstarted\t2026")
    shell.write("half/.at_work/n", "svq work 1\nstarted\tnever\npid\tx\npiece\tn\n\nout\npiece\tq\tz\nlog\t1\n")
    shell.write("half/.cleaned", "svq cleaned 1\nx\t1\nend\n")
    lines = status("half")
    assert "2 interrupted" in status.head and sum("the stamp is not whole" in line for line in lines) == 2


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_folder_that_cannot_be_read(shell, status):
    (shell.folder / "exp/closed").mkdir(parents=True)
    (shell.folder / "exp/closed").chmod(0)
    status(code=1)
    assert status.err == "status.sh: exp/closed: Permission denied\n"
    (shell.folder / "exp/closed").chmod(0o755)


def test_a_folder_that_cannot_be_written(shell, status, once):
    once("net/x", code=10)
    for path in (shell.folder / "exp/net", shell.folder / "exp"):
        path.chmod(0o555)
    assert "1 done" in (status() and status.head)
    for path in (shell.folder / "exp", shell.folder / "exp/net"):
        path.chmod(0o755)


def test_starts_without_site_and_imports_little(shell):
    """50 systems with 20 pieces each are a matter of stat calls: nothing slow is imported, every file is looked at once."""
    text = "svq stamp 2\nstarted\t2026-01-01T00:00:00\nended\t2026-01-01T00:00:01\nout\texp/s%d/f%d\t1\nin\texp/in\t1\t2\t3\t4\tx\nend\n"
    shell.write("exp/in", "ab")
    for system in range(50):
        (shell.folder / ("exp/s%d" % system)).mkdir()
        for piece in range(20):
            (shell.folder / ("exp/s%d/f%d" % (system, piece))).write_text("a")
            (shell.folder / ("exp/s%d/.done.f%d" % (system, piece))).write_text(text % (system, piece))
    code = ("import sys, os, time; sys.path.insert(0, %r); sys.argv[1:] = ['--all', 'false', 'exp']; import status, stamps; "
            "read = []; state = status.state_of; status.state_of = lambda path: read.append(path) or state(path); "
            "began = time.process_time(); status.show('exp', False); "
            "sys.stderr.write('%%d %%d %%s %%f' %% (len(read), len(set(read)), sorted(set(sys.modules) & {'torch', 'numpy', "
            "'argparse', 'json', 'yaml', 'subprocess'}), time.process_time() - began))" % str(shell.root / "utils"))
    out, err = shell("python3", "-I", "-S", "-c", code)
    looked, once_each, slow, seconds = err.split(" ", 3)
    assert looked == once_each == "1" and err.split(" ")[2] == "[]" and out.startswith("exp: 1000 stale;")
    print("1,000 pieces: %s s of processor time" % seconds)
