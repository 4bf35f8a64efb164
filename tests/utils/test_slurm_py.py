"""utils/slurm.py against a sbatch, squeue, scancel and sacct that keep their queue in a folder."""

import shutil
import signal

import pytest

SBATCH = """#!/usr/bin/env python3
import os, re, subprocess, sys
q = os.environ["FAKE_QUEUE"]
open(q + "/sbatch.args", "w").write("\\n".join(sys.argv[1:]) + "\\n")
if os.path.exists(q + "/refuse"):
    sys.exit("sbatch: error: invalid partition specified: nowhere")
script = sys.argv[-1]
opts = dict(a[2:].partition("=")[::2] for a in sys.argv[1:-1] if a.startswith("--"))
tasks = [None]
if "array" in opts:
    first, last = re.match(r"(\\d+)-(\\d+)", opts["array"]).groups()
    tasks = range(int(first), int(last) + 1)
lost = open(q + "/lost").read().split() if os.path.exists(q + "/lost") else []
for task in tasks:
    env = dict(os.environ)
    if task is not None:
        env["SLURM_ARRAY_TASK_ID"] = str(task)
    if str(task) in lost:
        continue
    out = open(opts["output"].replace("%a", str(task)), "w")
    p = subprocess.Popen(["bash", script], env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=out,
                         cwd="/", start_new_session=True)
    open("%s/pid.%d.%s" % (q, p.pid, "NA" if task is None else task), "w").close()
print("4711;cluster" if "parsable" in opts else "Submitted batch job 4711")
"""
SQUEUE = """#!/usr/bin/env bash
[[ ! -e $FAKE_QUEUE/busy ]] || { rm "$FAKE_QUEUE/busy"; echo "slurm_load_jobs error: Socket timed out" >&2; exit 1; }
found=0
for f in "$FAKE_QUEUE"/pid.*; do
  IFS=. read -r _ pid task <<< "${f##*/}"
  state=$(ps -o stat= -p "$pid")
  [[ -n $state && $state != Z* ]] && { echo "$task"; found=1; }
done
((found)) || { echo "slurm_load_jobs error: Invalid job id specified" >&2; exit 1; }
"""
SCANCEL = """#!/usr/bin/env bash
echo "$*" >> "$FAKE_QUEUE/cancelled"
for f in "$FAKE_QUEUE"/pid.*; do IFS=. read -r _ pid _ <<< "${f##*/}"; kill -- -"$pid" 2> /dev/null; done
true
"""
SACCT = "#!/usr/bin/env bash\necho OUT_OF_MEMORY\n"


@pytest.fixture
def queue(shell):
    folder = shell.folder / "queue"
    folder.mkdir()
    for name, text in [("sbatch", SBATCH), ("squeue", SQUEUE), ("scancel", SCANCEL), ("sacct", SACCT)]:
        shell.write("fake bin/" + name, text, executable=True)
    shell.env.update(FAKE_QUEUE=str(folder), SVQ_SLURM_POLL="0.1", SVQ_SLURM_GRACE="1")
    shell.env.pop("SVQ_SLURM_OPTIONS", None)
    return folder


@pytest.fixture
def slurm(shell, queue):
    return lambda *args, **kw: shell("slurm.py", *args, **kw)


def arguments(queue):
    return (queue / "sbatch.args").read_text().split("\n")[:-2]


def test_array(slurm, shell, queue):
    slurm("--max-jobs-run", "2", "--num-threads", "3", "--gpu", "1", "--mem", "4G", "JOB=1:4",
          "log/x.JOB.log", "bash", "-c", 'echo "$1" omp=$OMP_NUM_THREADS > "$2"', "x", "it's $HOME JOB",
          "out JOB")
    for i in range(1, 5):
        assert shell.read("out %d" % i) == "it's $HOME %d omp=3\n" % i
        assert "# Ended (code 0)" in shell.read("log/x.%d.log" % i)
    for word in ["--parsable", "--array=1-4%2", "--cpus-per-task=3", "--gres=gpu:1", "--mem=4G",
                 "--job-name=x"]:
        assert word in arguments(queue)
    assert list((shell.folder / "log/q").iterdir()) == []       # nothing left of a good one
    assert not (queue / "cancelled").exists()


def test_single_job(slurm, shell, queue):
    slurm("x.log", "echo", "a", "|", "tr", "a", "b", ">", "out")
    assert shell.read("out") == "b\n"
    assert not any(a.startswith("--array") for a in arguments(queue))


def test_options_from_file_variable_and_command_line(slurm, shell, queue):
    shell.write("conf/slurm.conf", "# our cluster\n--partition=slow --account=us   # who pays\n")
    slurm("--partition", "fast", "--sbatch-options", "--nice=5 --constraint='a b'", "x.log", "true",
          SVQ_SLURM_OPTIONS="--account=them")
    words = arguments(queue)
    assert words.index("--partition=slow") < words.index("--partition=fast")
    assert words.index("--account=us") < words.index("--account=them")
    assert "--nice=5" in words and "--constraint=a b" in words


def test_failed_task_is_named(slurm, shell):
    _, err = slurm("JOB=1:3", "log/x.JOB.log", "bash", "-c", "echo text JOB; exit $((JOB == 2 ? 5 : 0))",
                   code=1)
    assert "job 2 of 3 failed" in err and "log/x.2.log" in err and "# Ended (code 5)" in err
    assert "text 2" in err and "text 3" not in err and "1 of 3 jobs failed" in err


def test_task_that_vanished(slurm, shell, queue):
    (queue / "lost").write_text("2\n")
    _, err = slurm("JOB=1:3", "x.JOB.log", "true", code=1)
    assert "job 2 of 3 failed (Slurm job 4711 vanished without an exit code: OUT_OF_MEMORY" in err
    assert "1 of 3 jobs failed" in err


def test_busy_controller_is_no_failure(slurm, shell, queue):
    (queue / "busy").write_text("")
    slurm("JOB=1:2", "x.JOB.log", "sleep", "0.5")
    assert not (queue / "busy").exists()


def test_refused_submission(slurm, queue):
    (queue / "refuse").write_text("")
    _, err = slurm("x.log", "true", code=1)
    assert err == "slurm.py: sbatch refused the job: sbatch: error: invalid partition specified: nowhere\n"


def test_not_a_cluster(shell):
    """Also where Slurm is installed: PATH here has the programs that the script needs, and no sbatch."""
    tools = shell.folder / "tools"
    tools.mkdir()
    for name in ("bash", "env", "python3", "slurm.py"):
        (tools / name).symlink_to(shutil.which(name, path=shell.env["PATH"]))
    shell.env["PATH"] = str(tools)
    _, err = shell("slurm.py", "x.log", "true", code=1)
    assert "sbatch is not on PATH" in err


def test_wrong_command_line(slurm):
    slurm("JOB=1:2", "x.log", "true", code=2)
    slurm("--no-such", "x.log", "true", code=2)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_stopped_cancels_its_array(shell, queue, marked, number):
    process = shell.start("slurm.py", "JOB=1:2", "x.JOB.log", "bash", "-c", "touch up.JOB; sleep 600; true")
    shell.until(lambda: len(list(shell.folder.glob("up.*"))) == 2, "both tasks run")
    process.send_signal(number)
    process.communicate(timeout=60)
    shell.until((queue / "cancelled").exists, "the array is cancelled")
    assert (queue / "cancelled").read_text() == "4711\n"
    shell.until(lambda: not marked(), "all are gone")


def test_run_killed_at_the_top_cancels_too(shell, queue, marked):
    shell.write("top.sh", 'python3 "$SVQ_ROOT/utils/once.py" --out y -- bash step.sh; true\n')
    shell.write("step.sh", "slurm.py x.log bash -c 'touch up; sleep 600; true'; true\n")
    process = shell.start("bash", "top.sh")
    shell.until((shell.folder / "up").exists, "the job runs")
    process.kill()
    process.communicate(timeout=60)
    shell.until((queue / "cancelled").exists, "the job is cancelled")
    shell.until(lambda: not marked(), "all are gone")
