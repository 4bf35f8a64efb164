"""Talks to a Slurm cluster: sbatch, squeue, scancel, scontrol, sacct. What these cannot say is None, not a guess."""

import os
import re
import shutil
import subprocess
import sys
import time

# Where this runs inside a job of Slurm, such as run.sh in a batch job, the other variables of Slurm describe that job, and
# would mislead sbatch for the jobs that it starts.
KEPT = ("SLURM_CONF", "SLURM_CONF_SERVER", "SLURM_JWT", "SLURM_EXIT_ERROR")
DEVICES = ("CUDA_VISIBLE_DEVICES", "GPU_DEVICE_ORDINAL", "ROCR_VISIBLE_DEVICES", "ZE_AFFINITY_MASK")
# States of a job that will not run again.
ENDED = ("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "REVOKED",
         "TIMEOUT")


class SlurmError(Exception):
    pass


def environment():
    """Gives the environment of this process without the variables that an enclosing job of Slurm has set."""
    inside = "SLURM_JOB_ID" in os.environ
    return {name: value for name, value in os.environ.items()
            if not (name.startswith(("SLURM_", "SLURMD_", "SQUEUE_", "SACCT_")) and name not in KEPT)
            and not (inside and name in DEVICES)}


def command_output(line):
    """Runs a Slurm command: gives (exit status, standard output, error output); status None if there is no such program."""
    try:
        done = subprocess.run(line, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace",
                              timeout=120, env=environment())
    except FileNotFoundError:
        return None, "", line[0] + ": no such program"
    except subprocess.TimeoutExpired:
        return 1, "", line[0] + ": no answer"
    return done.returncode, done.stdout.strip(), done.stderr.strip()


def submit(line):
    """Submits a job to Slurm and gives its id; SlurmError where sbatch is missing or refuses it."""
    status, out, err = command_output(line)
    if status is None:
        raise SlurmError("sbatch is not on PATH: is this a Slurm cluster? (run.py runs jobs here)")
    job_id = out.splitlines()[-1].partition(";")[0] if out else ""
    if status != 0 or not re.fullmatch(r"\d+", job_id):
        raise SlurmError("sbatch refused the job: %s" % (" ".join(err.split()) or out or "no reason given"))
    return job_id


class State:
    """The state of a task as squeue tells it: ``state`` (RUNNING), ``reason``, ``nodes``, ``limit`` (time)."""

    def __init__(self, state, reason, nodes, limit):
        self.state, self.reason, self.nodes, self.limit = state, reason, nodes, limit

    @property
    def ended(self):
        return self.state in ENDED


def states(job_ids):
    """Asks for {(job id, index in the array or 0): State} of the tasks that Slurm remembers; None if it does not answer."""
    status, out, err = command_output(["squeue", "--noheader", "--array", "--states=all", "--jobs", ",".join(job_ids),
                                       "--format", "%F|%K|%T|%r|%N|%l"])
    if status != 0:
        return {} if "Invalid job id" in err else None
    found = {}
    for line in out.splitlines():
        job_id, index, *rest = line.split("|")
        if len(rest) == 4:
            found[job_id, int(index) if index.isdigit() else 0] = State(*rest)
    return found


def accounting(job_id, index, is_array):
    """Asks accounting for the state of a task that squeue has forgotten (TIMEOUT, OUT_OF_MEMORY ...); '' if unknown."""
    name = "%s_%d" % (job_id, index) if is_array else job_id
    status, out, _ = command_output(["sacct", "--noheader", "--allocations", "--parsable2", "--jobs", name,
                                     "--format", "State"])
    return out.splitlines()[-1] if status == 0 and out else ""


def max_array_size():
    """Asks for the size limit of an array, one more than its largest index; the default of Slurm if it does not say."""
    status, out, _ = command_output(["scontrol", "show", "config"])
    match = re.search(r"^MaxArraySize\s*=\s*(\d+)", out, re.MULTILINE) if status == 0 else None
    return int(match[1]) if match else 1001


def name_of(folder):
    """Gives the name of the jobs of this folder; no other folder has that name."""
    return re.sub(r"[^\w.+-]", "_", os.path.basename(folder))


def living(name):
    """Lists the ids of the jobs of this name that are queued, running or just ending; None if Slurm does not answer."""
    status, out, _ = command_output(["squeue", "--noheader", "--name", name, "--format", "%A"])
    return None if status != 0 else sorted(set(out.split()))


def cancel(job_ids, *options):
    """Cancels jobs; gives the objection of scancel, or ''."""
    status, _, err = command_output(["scancel", *options, *job_ids])
    return "" if status == 0 else err or "scancel failed"


def end_orphan(folder, program, pause=0.5):
    """Cancels the jobs that an earlier start has left, which have the name of this folder, and waits for their end."""
    if shutil.which("squeue") is None:
        raise SlurmError("%s: an earlier start may have left a Slurm job that still runs, and squeue is not on PATH: "
                         "see that it is gone, then remove that folder" % folder)
    name, told, cancelled = name_of(folder), float("-inf"), False
    while True:
        jobs = living(name)
        if jobs == []:
            return
        if time.monotonic() - told > 60:                    # at first and once a minute
            told = time.monotonic()
            text = "%s may have a Slurm job left of an earlier start; waiting for squeue to answer" % folder
            if jobs is not None:
                text = "%s Slurm job %s of an earlier start, which would write beside this one" % (
                    "waits for the end of" if cancelled else "cancels", " ".join(jobs))
            print("%s: %s" % (program, text), file=sys.stderr, flush=True)
        if jobs:
            refused = cancel(jobs)
            if "denied" in refused:
                raise SlurmError("%s: Slurm job %s of an earlier start goes on there and cannot be cancelled: %s"
                                 % (folder, " ".join(jobs), refused))
            cancelled = True
        time.sleep(pause)
        pause = min(1.5 * pause, 5.0)
