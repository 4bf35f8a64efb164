#!/usr/bin/env python3
"""Runs jobs on a Slurm cluster as one job array, with the command line and logs of run.py.

  slurm.py [options] [JOB=1:4] LOG COMMAND ARGUMENTS...

  --max-jobs-run N   tasks of the array at once (--array=1-40%N)
  --num-threads N    --cpus-per-task, and OMP_NUM_THREADS in the job
  --gpu N            --gres=gpu:N
  --num-nodes N, --num-tasks M
                     run the command in M processes on each of N nodes; srun starts them, and ends all when one fails.
                     --num-threads then counts for a process, --gpu for a node
  --mem 4G, --time 12:00:00, --partition P, --account A, --qos Q
                     options of sbatch with the same name
  --sbatch-options "--constraint=a100 --nice=100"
                     any other options of sbatch
Options of sbatch for all jobs can stand in conf/slurm.conf, also as Kaldi writes them, and in SVQ_SLURM_OPTIONS.
Options that the user gives in cmd.sh, there or here win over those that a step proposes (see slurm_options.py).

Every task runs slurm_task.py on its node, which writes the exit code of the command to a file beside the log, in q/. If
a task has no code, slurm.py asks squeue why, and says so at once. When a task fails, waiting tasks are cancelled, and
running ones go on to their end. Both sides wait for files that the command names, SVQ_SLURM_GRACE seconds (default 60: a
network disk shows new files late). SVQ_SLURM_POLL (default 5) is the number of seconds between two looks at the queue.
When slurm.py is stopped or killed, its jobs are cancelled. Where even that failed (the machine was lost), the next start
of the same work cancels them and waits for their end. A job whose step has SVQ_RESUMES=1 goes back into the queue shortly
before its time limit, at most SVQ_SLURM_REQUEUES times (default 100).
"""

import os
import re
import shlex
import shutil
import signal
import sys
import tempfile
import time

import at_work
import dispatch
import guard
import slurm_files
import slurm_options
import slurm_queue
from slurm_queue import SlurmError

# The variables that a job needs at sites where jobs begin with an empty environment (--export=NONE).
CARRIED = re.compile(r"(PATH|PYTHONPATH|LD_LIBRARY_PATH|LC_ALL|LANG|TZ|KALDI_ROOT|VIRTUAL_ENV|CUDA_HOME)$"
                     r"|(SVQ|MALLOC|OMP|MKL|OPENBLAS|TORCH|NCCL|GLOO)_\w+$")
USUAL = ("None", "Resources", "Priority", "Dependency", "BeginTime", "JobArrayTaskLimit", "Licenses", "Cleaning")


def seconds(name, default):
    value = os.environ.get(name, default)
    try:
        return float(value)
    except ValueError:
        raise SlurmError("%s is not a number of seconds: '%s'" % (name, value)) from None


def job_script(request, folder, threads):
    """Writes the script that a task runs. Its argument is added to the index in the array, because indices have a limit."""
    here = os.path.dirname(os.path.abspath(__file__))
    exports = ["export %s=%s" % (name, shlex.quote(value)) for name, value in sorted(os.environ.items())
               if CARRIED.match(name) and name not in ("SVQ_STEP_CMD", "SVQ_AT_WORK", "SVQ_GPU_HOLDER")]
    words = [sys.executable, os.path.join(here, "slurm_task.py"), folder, "--num-threads", str(threads)]
    for name in ("num-nodes", "num-tasks"):
        words += ["--" + name, str(request.options.get(name, 1))]
    job = ['"%s=$(($1 + SLURM_ARRAY_TASK_ID))"' % request.variable] if request.variable else []
    line = " ".join([*map(shlex.quote, words), *job, *map(shlex.quote, [request.log, *request.command])])
    enter = "cd -- %s || exit 1" % shlex.quote(os.getcwd())
    return "\n".join(["#!/usr/bin/env bash", *exports, enter, "exec " + line, ""])


def write_inputs(request, folder):
    """Notes the files that the command names as they are now; a task waits until its node shows them like that."""
    common = [word for word in request.command if request.substitute(word, 1) == word]
    lines = [slurm_files.lines_of(sum(slurm_files.named_by(common), []), "-")]
    for job in request.jobs:
        words = [request.substitute(word, job) for word in request.command if word not in common]
        lines.append(slurm_files.lines_of(sum(slurm_files.named_by(words), []), str(job or 0)))
    with open(os.path.join(folder, "inputs"), "w", encoding="utf-8", errors="surrogateescape") as file:
        file.write("".join(lines) + "end\n")


class Job:
    """The work in the queue. ``tasks``: {number: (job id, index in the array)}; number and index are 0 without JOB."""

    def __init__(self, request, folder):
        self.request, self.folder, self.tasks, self.ids = request, folder, {}, []
        words, threads = slurm_options.resolve(request, bool(os.environ.get("SVQ_RESUMES")))
        self.line = ["sbatch", "--parsable", *words, "--open-mode=append", "--job-name=" + slurm_queue.name_of(folder)]
        with open(os.path.join(folder, "job.sh"), "w", encoding="utf-8", errors="surrogateescape") as f:
            f.write(job_script(request, folder, threads))
        write_inputs(request, folder)

    def submit(self):
        script = os.path.join(self.folder, "job.sh")
        if self.request.variable is None:
            self.tasks = {0: (self._sbatch("--output=%s/out.0" % self.folder, script, "0"), 0)}
            return
        jobs, limit = self.request.jobs, self.request.options.get("max-jobs-run")
        size, offset = slurm_queue.max_array_size() - 1, 0
        parts = [jobs] if jobs[-1] <= size else [jobs[i:i + size] for i in range(0, len(jobs), size)]
        for part in parts:
            if jobs[-1] > size:
                offset = part[0] - 1
            array = "--array=%d-%d%s" % (part[0] - offset, part[-1] - offset, "%%%d" % limit if limit else "")
            # With a limit on jobs at once, the parts run one after another, else together they would exceed it.
            after = ["--dependency=afterany:" + self.ids[-1]] if limit and self.ids else []
            output = "--output=%s/out.%s%%a" % (self.folder, "%d+" % offset if offset else "")
            job_id = self._sbatch(output, array, *after, script, str(offset))
            self.tasks.update({number: (job_id, number - offset) for number in part})

    def _sbatch(self, *more):
        job_id = slurm_queue.submit([*self.line, *more])
        self.ids.append(job_id)
        at_work.note_job(job_id)
        with open(os.path.join(self.folder, "ids"), "a", encoding="ascii") as file:
            file.write(job_id + "\n")
        return job_id

    def output(self, number):
        """Reads the lines that Slurm and the script wrote about a task, outside the log; None if it never started."""
        job_id, index = self.tasks[number]
        offset = number - index
        path = os.path.join(self.folder, "out.%s%d" % ("%d+" % offset if offset else "", index))
        return dispatch.last_lines(path, 20) if os.path.exists(path) else None

    def name(self, number):
        job_id, index = self.tasks[number]
        return "Slurm job %s" % (job_id if self.request.variable is None else "%s_%d" % (job_id, index))


def read_codes(folder):
    """Reads {task number: (exit code, files that it made, files that it made in directories)} of the ended tasks."""
    codes = {}
    for name in os.listdir(folder):
        if re.fullmatch(r"code\.\d+", name):
            with open(os.path.join(folder, name), encoding="utf-8", errors="surrogateescape") as f:
                code, *files = f.read().split("\n")
            if code.isdigit():
                codes[int(name[5:])] = int(code), slurm_files.parse(files, "file"), slurm_files.parse(files, "within")
    return codes


WHY = {"TIMEOUT": "the time limit of %s is over: give it more --time",
       "OUT_OF_MEMORY": "out of memory: give it more --mem",
       "CANCELLED": "cancelled", "PREEMPTED": "preempted by another job", "NODE_FAIL": "a node failed (%s)",
       "DEADLINE": "its deadline is over", "BOOT_FAIL": "its node did not start"}


def by_slurm(lines):
    """Picks out of the output of a task's script the lines that Slurm itself wrote."""
    return [line for line in lines or () if line.startswith("slurmstepd")]


def fate(state, lines):
    """Says why a task ended without its own exit code, from its state and what Slurm wrote into its output."""
    text = WHY.get(state.state, "ended as %s without an exit code (%s)" % (state.state, state.reason))
    if "%s" in text:
        text %= state.nodes if state.state == "NODE_FAIL" else state.limit
    said = [re.sub(r"^slurmstepd[\w.-]*: error: ", "", line).strip("* ") for line in by_slurm(lines)]
    if any(re.search("memory limit|oom", line, re.IGNORECASE) for line in said):
        text = WHY["OUT_OF_MEMORY"]
    return text + ("; Slurm says: %s" % said[-1] if said else "")


class Watch:
    """Waits for the tasks of a Job. ``failed``: {number: why}, ``not_started``: numbers cancelled before they began."""

    def __init__(self, job):
        self.job, self.done, self.failed, self.not_started = job, set(), {}, set()
        self.poll, self.grace = seconds("SVQ_SLURM_POLL", "5"), seconds("SVQ_SLURM_GRACE", "60")
        self.since, self.told, self.cancelled, self.silent_since = {}, set(), False, None

    def wait(self):
        pause, next_look = min(0.1, self.poll), 0.0
        while True:
            self._read_codes()
            if not self._left():
                return
            if time.monotonic() >= next_look:
                states = slurm_queue.states(self.job.ids)
                next_look = time.monotonic() + self.poll
                self._say_silence(states is None)
                if states is not None:
                    for number in self._left():
                        self._look(number, states.get(self.job.tasks[number]))
            if self.failed and not self.cancelled:
                self.cancelled = True
                slurm_queue.cancel(self.job.ids, "--state=PENDING")
                next_look = 0.0
            time.sleep(pause)
            pause = min(1.5 * pause, self.poll, 2.0)

    def _say_silence(self, silent):
        self.silent_since = (self.silent_since or time.monotonic()) if silent else None
        if silent and time.monotonic() - self.silent_since > 60:
            self.silent_since = time.monotonic() + 540          # once in ten minutes
            print("slurm.py: squeue has not answered for a while; waiting for Slurm job %s" % " ".join(self.job.ids),
                  file=sys.stderr, flush=True)

    def _left(self):
        return self.job.tasks.keys() - self.done - self.failed.keys() - self.not_started

    def _read_codes(self):
        for number, (code, files, within) in read_codes(self.job.folder).items():
            if number not in self._left():
                continue
            late = [] if code else slurm_files.wait_for(files, self.grace)
            if code:
                self.failed[number] = self._explain(number, code)
            elif late:
                self.failed[number] = "%s, which it wrote, is not visible here after %g s, %s" % (
                    late[0], self.grace, self.job.name(number))
            else:
                slurm_files.wait_for(within, self.grace)      # one may be gone again; work that needs it will say so
                self.done.add(number)

    def _explain(self, number, code):
        """Explains an exit code. A command killed by SIGKILL may have run out of memory: Slurm soon knows."""
        deadline = time.monotonic() + 5
        while code == 137 and time.monotonic() < deadline:
            state = (slurm_queue.states(self.job.ids) or {}).get(self.job.tasks[number])
            if state is None or state.ended:
                if state and state.state == "OUT_OF_MEMORY":
                    return "code 137, %s, %s" % (WHY["OUT_OF_MEMORY"], self.job.name(number))
                break
            time.sleep(0.2)
        return "code %d, %s" % (code, self.job.name(number))

    def _look(self, number, state):
        if state is not None and not state.ended:
            self.since.pop(number, None)
            if state.state == "PENDING" and state.reason not in USUAL and state.reason not in self.told:
                self.told.add(state.reason)
                print("slurm.py: %s waits: %s" % (self.job.name(number), state.reason), file=sys.stderr, flush=True)
            return
        lines = self.job.output(number)
        if self.cancelled and lines is None and (state is None or state.state == "CANCELLED"):
            self.not_started.add(number)
            return
        # If the command ended by itself, its code may be on its way; if Slurm ended it, there is none.
        own = state is None or state.state in ("COMPLETED", "FAILED")
        waited = time.monotonic() - self.since.setdefault(number, time.monotonic())
        told = state is not None and state.state == "FAILED" and by_slurm(lines)
        if waited >= (self.grace if own and not told else min(self.grace, 2 * self.poll)):
            if state is None:
                known = slurm_queue.accounting(*self.job.tasks[number], self.job.request.variable is not None)
                state = slurm_queue.State(known or "unknown to Slurm", "forgotten", "", "")
            self.failed[number] = "%s, %s" % (fate(state, lines), self.job.name(number))


def cancel_on_death(job):
    """Starts a process that cancels the jobs unless it is told not to; returns the pipe to tell it.

    The process sees the pipe close when this one dies, even by kill -9.
    """
    reader, writer = os.pipe()
    if os.fork() == 0:
        try:
            os.setsid()
            os.close(writer)
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                signal.signal(number, signal.SIG_IGN)
            signal.pthread_sigmask(signal.SIG_SETMASK, ())
            if not os.read(reader, 1):
                slurm_queue.cancel(job.ids)
        finally:
            os._exit(0)
    os.close(reader)
    return writer


def remove_logs(request):
    """Removes the logs of an earlier run, which must not explain this one; a requeued task appends to its own log."""
    for job in request.jobs:
        path = request.log_of(job)
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
        if os.path.lexists(path):
            os.unlink(path)


def report(request, job, watch):
    """Says which tasks failed and, where a command never began, what Slurm and the script wrote."""
    names = dict.fromkeys(request.jobs) if request.variable else {None: None}
    failed = {number: watch.failed[number or 0] for number in names if (number or 0) in watch.failed}
    dispatch.report_failures("slurm.py", request, failed, len(watch.not_started))
    for number in failed:
        lines = job.output(number or 0)
        if lines and not os.path.exists(request.log_of(number)):
            print("slurm.py: it did not begin; %s has:" % job.folder, *lines[-10:], sep="\n    ", file=sys.stderr)


def run(request):
    """Submits the jobs, waits for them and reports failures; gives the exit status."""
    dispatch.end_orphans("slurm.py", request)
    parent, prefix = dispatch.queue_folders(request)
    os.makedirs(parent, exist_ok=True)
    folder = tempfile.mkdtemp(prefix=prefix, dir=parent)
    remove_logs(request)
    at_work.note_logs(request)
    job = Job(request, folder)

    def stop(number, frame):
        slurm_queue.cancel(job.ids)
        os.write(keep, b"x")
        os._exit(128 + number)

    caught = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    signal.pthread_sigmask(signal.SIG_BLOCK, caught)     # from sbatch on there is an id to cancel
    try:
        job.submit()
    except SlurmError:
        if job.ids:
            slurm_queue.cancel(job.ids)
        else:
            shutil.rmtree(folder, ignore_errors=True)
        raise
    keep = cancel_on_death(job)
    for number in caught:
        signal.signal(number, stop)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, caught)

    watch = Watch(job)
    watch.wait()
    os.write(keep, b"x")
    if not watch.failed:
        shutil.rmtree(folder, ignore_errors=True)
        return 0
    open(os.path.join(folder, "ended"), "w").close()
    report(request, job, watch)
    return 1


def main():
    guard.die_with_parent()
    try:
        sys.exit(run(dispatch.parse(sys.argv[1:], __doc__)))
    except (dispatch.UsageError, slurm_options.OptionError) as e:
        print("slurm.py: %s" % e, file=sys.stderr)
        sys.exit(2)
    except (SlurmError, ValueError) as e:
        print("slurm.py: %s" % e, file=sys.stderr)
    except OSError as e:
        dispatch.report_os_error("slurm.py", e)
    sys.exit(1)


if __name__ == "__main__":
    main()
