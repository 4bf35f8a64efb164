"""utils/slurm.py against a sbatch, squeue, scancel and scontrol that keep their queue in a folder.

tests/slurm has the same on a real cluster; these run anywhere.
"""

import shutil
import signal

import pytest

SBATCH = """#!/usr/bin/env python3
import os, re, subprocess, sys
q = os.environ["FAKE_QUEUE"]
open(q + "/sbatch.args", "w").write("\\n".join(sys.argv[1:]) + "\\n")
if os.path.exists(q + "/refuse"):
    sys.exit("sbatch: error: invalid partition specified: nowhere")
script, offset = sys.argv[-2:]
opts = dict(a[2:].partition("=")[::2] for a in sys.argv[1:-2] if a.startswith("--"))
open(q + "/name", "w").write(opts["job-name"])
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
    p = subprocess.Popen(["bash", script, offset], env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=out,
                         cwd="/", start_new_session=True)
    open("%s/pid.%d.%s" % (q, p.pid, "N/A".replace("/", "") if task is None else task), "w").close()
print("4711;cluster" if "parsable" in opts else "Submitted batch job 4711")
"""
SQUEUE = """#!/usr/bin/env bash
[[ ! -e $FAKE_QUEUE/busy ]] || { rm "$FAKE_QUEUE/busy"; echo "slurm_load_jobs error: Socket timed out" >&2; exit 1; }
for f in "$FAKE_QUEUE"/pid.*; do
  IFS=. read -r _ pid task <<< "${f##*/}"
  state=$(ps -o stat= -p "$pid")
  if [[ -n $state && $state != Z* ]]; then state=RUNNING; else state=COMPLETED; fi
  [[ ! -e $FAKE_QUEUE/cancelled ]] || state=CANCELLED
  if [[ " $* " == *" --name $(< "$FAKE_QUEUE/name") "* ]]; then
    if [[ $state == RUNNING ]]; then echo 4711; fi
  elif [[ " $* " != *" --name "* ]]; then
    echo "4711|$task|$state|None|n1|1:00"
  fi
done
[[ ! -e $FAKE_QUEUE/lost ]] || echo "4711|$(< "$FAKE_QUEUE/lost")|OUT_OF_MEMORY|OutOfMemory|n1|1:00"
"""
SCANCEL = """#!/usr/bin/env bash
[[ $* != *PENDING* ]] || exit 0
echo "$*" >> "$FAKE_QUEUE/cancelled"
for f in "$FAKE_QUEUE"/pid.*; do IFS=. read -r _ pid _ <<< "${f##*/}"; kill -- -"$pid" 2> /dev/null; done
true
"""
SCONTROL = "#!/usr/bin/env bash\necho 'MaxArraySize = 1001'\n"


@pytest.fixture
def queue(shell):
    folder = shell.folder / "queue"
    folder.mkdir()
    for name, text in [("sbatch", SBATCH), ("squeue", SQUEUE), ("scancel", SCANCEL), ("scontrol", SCONTROL)]:
        shell.write("fake bin/" + name, text, executable=True)
    shell.env.update(FAKE_QUEUE=str(folder), SVQ_SLURM_POLL="0.1", SVQ_SLURM_GRACE="1")
    for name in ("SVQ_SLURM_OPTIONS", "SVQ_STEP_CMD", "SVQ_RESUMES"):
        shell.env.pop(name, None)
    return folder


@pytest.fixture
def slurm(shell, queue):
    return lambda *args, **kw: shell("slurm.py", *args, **kw)


def arguments(queue):
    return (queue / "sbatch.args").read_text().split("\n")[:-3]


def test_array(slurm, shell, queue):
    slurm("--max-jobs-run", "2", "--num-threads", "3", "--gpu", "1", "--mem", "4G", "JOB=1:4",
          "log/x.JOB.log", "bash", "-c", 'echo "$1" omp=$OMP_NUM_THREADS > "$2"', "x", "it's $HOME JOB",
          "out JOB")
    for i in range(1, 5):
        assert shell.read("out %d" % i) == "it's $HOME %d omp=3\n" % i
        assert "# Ended (code 0)" in shell.read("log/x.%d.log" % i)
    for word in ["--parsable", "--array=1-4%2", "--cpus-per-task=3", "--gres=gpu:1", "--mem=4G",
                 "--requeue"]:
        assert word in arguments(queue)
    assert any(word.startswith("--job-name=x.JOB.") for word in arguments(queue))
    assert list((shell.folder / "log/q").iterdir()) == []       # nothing left of a good one
    assert not (queue / "cancelled").exists()


def test_single_job(slurm, shell, queue):
    slurm("x.log", "echo", "a", "|", "tr", "a", "b", ">", "out")
    assert shell.read("out") == "b\n"
    assert not any(a.startswith("--array") for a in arguments(queue))


def test_options_from_file_variable_and_command_line(slurm, shell, queue):
    shell.write("conf/slurm.conf", "# our cluster\n--partition=slow --account us   # who pays\n-C old\n")
    slurm("--partition", "fast", "--sbatch-options", "--nice=5 --constraint='a b'", "x.log", "true",
          SVQ_SLURM_OPTIONS="--account=them")
    words = arguments(queue)
    for name, value in {"partition": "fast", "account": "them", "nice": "5", "constraint": "a b"}.items():
        assert [word for word in words if word.startswith("--%s=" % name)] == ["--%s=%s" % (name, value)]


@pytest.mark.parametrize("conf, said", [("--partition=a\npartition=b\n", "conf/slurm.conf:2: a line begins with"),
                                        ("--array=1-2\n", "conf/slurm.conf:1: --array is slurm.py's own"),
                                        ("-J name\n", "conf/slurm.conf:1: -J is slurm.py's own"),
                                        ("command qsub -V\n", "conf/slurm.conf:1: `command` is followed by sbatch"),
                                        ("--comment='open\n", "conf/slurm.conf:1: No closing quotation"),
                                        ("-c many\n", "--cpus-per-task takes a number, not 'many'")])
def test_wrong_options(slurm, shell, conf, said):
    shell.write("conf/slurm.conf", conf)
    _, err = slurm("x.log", "true", code=2)
    assert err.startswith("slurm.py: " + said) and len(err.splitlines()) == 1


def test_step_only_proposes(slurm, shell, queue):
    """The words that cmd.sh has come first, and utils/step.sh tells which they are."""
    slurm("--mem", "2G", "--mem", "8G", "--gpu", "1", "x.log", "true", SVQ_STEP_CMD="slurm.py --mem 2G")
    assert "--mem=2G" in arguments(queue) and "--gres=gpu:1" in arguments(queue)
    shell.write("conf/slurm.conf", "--mem-per-gpu=9G\n--gres=nvme:1\n--cpus-per-task=6\n")
    slurm("--mem", "8G", "--num-threads", "2", "--gpu", "1", "x.log", "true", SVQ_STEP_CMD="slurm.py")
    words = arguments(queue)
    assert "--mem-per-gpu=9G" in words and "--cpus-per-task=6" in words
    assert not any(word.startswith("--mem=") for word in words)
    assert {"--gres=nvme:1,gpu:1", "--gres=gpu:1,nvme:1"} & set(words)


def test_failed_task_is_named(slurm, shell):
    _, err = slurm("JOB=1:3", "log/x.JOB.log", "bash", "-c", "echo text JOB; exit $((JOB == 2 ? 5 : 0))",
                   code=1)
    assert "job 2 of 3 failed" in err and "log/x.2.log" in err and "# Ended (code 5)" in err
    assert "text 2" in err and "text 3" not in err and "1 of 3 jobs failed" in err


def test_task_that_vanished(slurm, shell, queue):
    (queue / "lost").write_text("2\n")
    _, err = slurm("JOB=1:3", "x.JOB.log", "true", code=1)
    assert "job 2 of 3 failed (out of memory: give it more --mem, Slurm job 4711_2)" in err
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


@pytest.mark.parametrize("step, options, asked", [
    ("train.sh", [], "--mem 8G --num-threads 4"),
    ("train.sh", ["--num-gpus", "4"], "--mem 8G --gpu 4 --num-threads 16"),
    ("train.sh", ["--num-procs", "3", "--num-threads", "1"], "--mem 8G --num-threads 9"),
    ("train.sh", ["--num-gpus", "4", "--num-nodes", "2"],
     "--mem 8G --gpu 4 --num-threads 4 --num-nodes 2 --num-tasks 4"),
    ("train_aggregation.sh", ["--num-gpus", "2"], "--mem 8G --num-threads 8 --gpu 2")])
def test_what_a_training_asks_for(shell, step, options, asked):
    """CPUs for each process and for those that read for it: two here."""
    show = "#!/usr/bin/env bash\nprintf '%s ' \"$@\" > shown; echo \"$SVQ_RESUMES\" >> shown\n"
    shell.write("fake bin/show", show, executable=True)
    shell.write("base.yaml", "data: {num_workers: 2}\n")
    shell.write("c.yaml", "base: base.yaml\n")
    for name in ("data/utt2spk", "teacher/model.safetensors"):
        shell.write(name, "")
    arguments = ["c.yaml", "data", "out"] if step == "train.sh" else ["c.yaml", "data", "teacher", "out"]
    shell("bash", shell.root / "steps" / step, "--cmd", "show", *options, *arguments, code=1)     # it makes nothing
    assert shell.read("shown").startswith(asked + " out/log/train.log ") and shell.read("shown").endswith(" 1\n")
    assert (" torchrun " in shell.read("shown")) == ("--num-nodes" not in options and bool(options))
    assert (" env CUDA_VISIBLE_DEVICES= " in shell.read("shown")) == ("--num-gpus" not in options)  # it sees no card


def test_one_machine_is_one_node(shell):
    _, err = shell("run.py", "--num-nodes", "2", "x.log", "true", code=2)
    assert err == "run.py: --num-nodes 2: this is one machine; slurm.py has others\n"


@pytest.mark.parametrize("limit, warning", [("3", 60), ("1-0", 120), ("0:30", 10), (None, 120)])
def test_what_goes_on_later_is_told_in_time(slurm, queue, limit, warning):
    slurm(*(["--time", limit] if limit else []), "x.log", "true", SVQ_RESUMES="1")
    assert "--signal=B:USR1@%d" % warning in arguments(queue)


def test_the_stamp_of_the_work_tells_job_and_log(shell, queue):
    """once.py leaves a mark while it goes on, slurm.py adds to it, and what was added goes into the stamp."""
    shell.write("in", "1")
    script = 'slurm.py JOB=1:2 log/x.JOB.log bash -c "cp $MARK seen.JOB"; touch out'
    script = script.replace("$MARK", "exp/.at_work/*")
    shell("python3", "-I", "-S", shell.root / "utils/once.py", "--in", "in", "--out", "out", "--", "bash", "-c", script,
          SVQ_OWNER=str(shell.folder / "exp"))
    mark, stamp = shell.read("seen.1").split("\n"), shell.read(".done.out").split("\n")
    assert any(line.startswith("log\t") and line.endswith("\t%s/log/x.JOB.log\tJOB\t1\t2" % shell.folder) for line in mark)
    assert "job\t4711" in stamp and "log\t%s/log/x.1.log" % shell.folder in stamp
    assert "SVQ_AT_WORK" not in shell.read("seen.2")
