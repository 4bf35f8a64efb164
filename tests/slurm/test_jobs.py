"""utils/slurm.py on a real cluster: lost login nodes, jobs in jobs, what wins, splitting, what stops."""

import os

import pytest


def test_login_node_lost(shell, seen):
    """The orphaned job is cancelled and gone before its successor begins; the result is the new command's."""
    first = shell.start("slurm.py", "log/x.log", "bash", "-c", "echo old > began; sleep 6; echo old > result; sleep 60")
    shell.until((shell.folder / "began").exists, "the job runs")
    shell.lose(first)
    assert shell.cluster("squeue", "-h", "-t", "R"), "the orphan lives"
    _, err = shell("slurm.py", "log/x.log", "bash", "-c", "echo new > result; sleep 8")
    assert "cancels Slurm job" in err and "of an earlier start" in err
    assert shell.read("result") == "new\n"
    assert not list((shell.folder / "log/q").iterdir())
    seen("1 login node lost", "orphan cancelled at the next start, result is the new command's")


def test_login_node_lost_before_the_id_is_known(shell, seen):
    first = shell.start("slurm.py", "log/x.log", "sleep", "60")
    shell.until(lambda: shell.cluster("squeue", "-h", "-t", "R"), "the job runs")
    shell.lose(first)
    for path in shell.folder.glob("log/q/*/ids"):
        path.unlink()
    _, err = shell("run.py", "log/x.log", "true")
    assert "run.py: cancels Slurm job" in err
    assert not shell.cluster("squeue", "-h")
    seen("1 lost between sbatch and its id", "found by its name, by run.py too")


def test_inside_an_array_task(shell, cluster, seen):
    """run.sh in a task of an array: its number and its GPUs are not those of the jobs that it starts."""
    shell.write("run.sh", """#!/bin/bash
slurm.py one.log bash -c 'echo "${SLURM_ARRAY_TASK_ID-none} ${CUDA_VISIBLE_DEVICES-none}" > one' &&
slurm.py JOB=1:2 two.JOB.log bash -c 'echo JOB > two.JOB' && touch done
""")
    passed = ["%s=%s" % (name, shell.env[name]) for name in ("PATH", "SVQ_SLURM_POLL", "SVQ_SLURM_GRACE", "SLURM_CONF")]
    cluster("sbatch", "--wait", "--array=7", "--gres=gpu:1", "--chdir", shell.folder, "--output=outer.%a",
            "--export=" + ",".join(["ALL", *passed]), shell.folder / "run.sh")
    assert (shell.folder / "done").exists(), shell.read("outer.7")
    assert shell.read("one").split()[1] == "none" and shell.read("two.2") == "2\n"
    seen("2 run.sh in an array task", "inner jobs have numbers and devices of their own")


STEP = """#!/usr/bin/env bash
set -euo pipefail
cmd=run.py   # dispatcher
. "$SVQ_ROOT/utils/parse_options.sh"
. "$SVQ_ROOT/utils/step.sh"
step --out "$1" --stamp "$1.done"
$cmd --mem 8G --num-threads 2 --gpu 1 "$1.log" \\
  bash -c 'scontrol show job -o $SLURM_JOB_ID > "$0"; echo $OMP_NUM_THREADS > "$0.omp"' "$1"
"""


def test_what_the_user_says_wins(shell, seen):
    """Nodes have 4 GB, and the step proposes 8."""
    shell.write("step.sh", STEP)
    shell("bash", "step.sh", "--cmd", "slurm.py --mem 300M --num-threads 3", "a")
    assert "MinMemoryNode=300M" in shell.read("a") and "CPUs/Task=3" in shell.read("a") and shell.read("a.omp") == "3\n"
    assert "gres:gpu:1" in shell.read("a").lower() or "gpu:1" in shell.read("a")
    shell.write("conf/slurm.conf", "--mem-per-cpu=150M -c 1   # small nodes\n--gres=gpu:2\n")
    shell("bash", "step.sh", "--cmd", "slurm.py", "b")
    assert "MinMemoryCPU=150M" in shell.read("b") and "CPUs/Task=1" in shell.read("b") and "gpu:2" in shell.read("b")
    shell("bash", "step.sh", "--cmd", "slurm.py --mem 200M", "c", SVQ_SLURM_OPTIONS="--cpus-per-task=4")
    assert "MinMemoryNode=200M" in shell.read("c") and "CPUs/Task=4" in shell.read("c") and shell.read("c.omp") == "4\n"
    seen("3 cmd.sh, conf over a step", "memory, CPUs, GPUs of 3 jobs as the user said")


def test_kaldis_conf(shell, seen):
    shell.write("conf/slurm.conf", "command sbatch --export=PATH\noption time=* --time $0\n"
                "option mem=* --mem-per-cpu $0\noption mem=0\noption num_threads=* --cpus-per-task $0\noption max_jobs_run=*\ndefault gpu=0\n"
                "option gpu=0 --partition=main\noption gpu=* --partition=high --gres=gpu:$0  # two each\n")
    text = ["bash", "-c", 'scontrol show job -o $SLURM_JOB_ID > "$0"']
    shell("slurm.py", "--mem", "150M", "a.log", *text, "a")
    shell("slurm.py", "--gpu", "1", "b.log", *text, "b")
    assert "Partition=main" in shell.read("a") and "MinMemoryCPU=150M" in shell.read("a")
    assert "Partition=high" in shell.read("b")
    shell.write("conf/slurm.conf", "--partition=main\npartition=main\n")
    _, err = shell("slurm.py", "c.log", "true", code=2)
    assert err.startswith("slurm.py: conf/slurm.conf:2: ") and len(err.splitlines()) == 1
    seen("5 Kaldi's conf/slurm.conf", "its lines are obeyed, others refused with their number")


def test_sites_that_export_nothing(shell, seen):
    shell.write("job.sh", 'python3 -c "import os, svq; print(os.environ[\'LC_ALL\'])" > out')
    shell("slurm.py", "x.log", "bash", "job.sh", SBATCH_EXPORT="NONE", SVQ_MARK="kept")
    assert shell.read("out") == "C\n"
    seen("5 --export=NONE", "the job has PATH, PYTHONPATH, SVQ_*")


def test_more_tasks_than_an_array_may_have(shell, seen):
    """MaxArraySize is 20 here: indices end at 19."""
    for option in ([], ["--max-jobs-run", "6"]):
        shell("slurm.py", *option, "JOB=1:42", "log/x.JOB.log", "bash", "-c", "echo JOB > out.JOB")
        assert [shell.read("out.%d" % i) for i in range(1, 43)] == ["%d\n" % i for i in range(1, 43)]
    shell("slurm.py", "JOB=300:301", "log/x.JOB.log", "bash", "-c", "echo JOB > out.JOB")
    assert shell.read("out.301") == "301\n"
    seen("5 more than MaxArraySize", "42 tasks in 3 arrays, and numbers from 300 on")


def test_failed_task_stops_the_rest(shell, seen):
    _, err = shell("slurm.py", "--max-jobs-run", "2", "JOB=1:9", "log/x.JOB.log", "bash", "-c",
                   "touch began.JOB; if ((JOB == 1)); then exit 7; fi; sleep 4; touch ended.JOB", code=1)
    began = {path.suffix for path in shell.folder.glob("began.*")}
    assert len(began) < 9 and {path.suffix for path in shell.folder.glob("ended.*")} == began - {".1"}
    assert "job 1 of 9 failed (code 7, Slurm job" in err
    assert "1 of 9 jobs failed, %d were not started after that" % (9 - len(began)) in err
    seen("5 a failed task", "those that wait are cancelled, those that run end")


def test_code_of_the_command_itself(shell, seen):
    _, err = shell("slurm.py", "log/x.log", "bash", "-c", "echo said; exit 7", code=1)
    assert "the job failed (code 7, Slurm job" in err and "said" in err
    seen("4 exit code", "the command's own")


@pytest.mark.parametrize("way", ["cancelled", "memory", "old log"])
def test_why_a_job_died(shell, cluster, seen, way):
    shell.write("log/x.log", "of an older run\n")
    if way == "memory":
        greedy = "x = b'x' * 900_000_000; import time; time.sleep(30)"
        _, err = shell("slurm.py", "--mem", "100M", "log/x.log", "python3", "-c", greedy, code=1)
        assert "out of memory: give it more --mem; Slurm says: " in err
    elif way == "cancelled":
        job = shell.start("slurm.py", "log/x.log", "bash", "-c", "touch began; sleep 60")
        shell.until((shell.folder / "began").exists, "the job runs")
        cluster("scancel", "--user=root")
        _, err = shell.end(job, 1)
        assert "the job failed (cancelled; Slurm says: JOB" in err
    else:
        job = shell.start("slurm.py", "--sbatch-options", "--hold", "log/x.log", "true")
        shell.until(lambda: cluster("squeue", "-h"), "the job is in the queue")
        cluster("scancel", "--user=root")
        _, err = shell.end(job, 1)
        assert "cancelled" in err and "waits: JobHeldUser" in err
    assert "of an older run" not in err and "vanished" not in err
    seen("4 why: " + way, "no line of an older log is shown" if way == "old log" else err.splitlines()[0][:110])


def test_controller_away(shell, cluster, seen):
    job = shell.start("slurm.py", "log/x.log", "bash", "-c", "touch began; sleep 4; echo done > out")
    shell.until((shell.folder / "began").exists, "the job runs")
    cluster.end("slurmctld")
    shell.until((shell.folder / "out").exists, "the job ends")
    cluster.start_controller()
    shell.end(job)
    seen("4 slurmctld away for a while", "the job goes on, nothing is said to be lost")


def test_node_fails(shell, cluster, seen):
    """Slurm queues the job again, and its log keeps the first attempt; where it must not, the node is named."""
    command = ["bash", "-c", "echo attempt; if [[ -e began ]]; then exit 0; fi; touch began; sleep 60"]
    try:
        job = shell.start("slurm.py", "--sbatch-options", "-w n2", "log/x.log", *command)
        shell.until((shell.folder / "began").exists, "the job runs")
        cluster("scontrol", "update", "nodename=n2", "state=down", "reason=test")
        cluster("scontrol", "update", "nodename=n2", "state=resume")
        shell.end(job)
        assert shell.read("log/x.log").count("\nattempt\n") == 2
        os.unlink(shell.folder / "began")
        job = shell.start("slurm.py", "--sbatch-options", "-w n2 --no-requeue", "log/x.log", *command)
        shell.until((shell.folder / "began").exists, "the job runs")
        cluster("scontrol", "update", "nodename=n2", "state=down", "reason=test")
        _, err = shell.end(job, 1)
        assert "a node failed (n2)" in err
    finally:
        cluster("scontrol", "update", "nodename=n2", "state=resume")
    seen("4 node failed", "requeued, both attempts in the log; with --no-requeue the node is named")
