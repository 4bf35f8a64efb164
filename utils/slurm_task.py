#!/usr/bin/env python3
"""Runs one task of a job on its node; slurm.py writes the job that calls this.

  slurm_task.py FOLDER [options] [JOB=N] LOG COMMAND ARGUMENTS...

Waits for the files that the command names and that slurm.py saw, runs the command with its log as run.py does, and
writes its exit code to FOLDER/code.N, whole or not at all, with the files that it made. If Slurm ends the task (time
limit, preemption, scancel), the command gets SIGTERM and SVQ_GRACE seconds to write a checkpoint, and there is no code:
Slurm or this program puts the task back into the queue, or Slurm knows why not. With --num-nodes and --num-tasks, srun
runs the command in that many processes, and ends all of them when one fails.
"""

import os
import signal
import socket
import subprocess
import sys
import time

import dispatch
import guard
import run
import slurm_files
import slurm_queue


def patience():
    return float(os.environ.get("SVQ_SLURM_GRACE", "60"))


def first_address(nodes):
    """Gives the address of the first node, as Slurm itself reaches it, and a port that is free now; this runs on it."""
    _, names, _ = slurm_queue.command_output(["scontrol", "show", "hostnames", nodes])
    name = names.split()[0] if names else socket.gethostname()
    _, text, _ = slurm_queue.command_output(["scontrol", "--oneliner", "show", "node", name])
    address = dict(word.partition("=")[::2] for word in text.split()).get("NodeAddr", name)
    with socket.socket() as probe:
        probe.bind(("", 0))
        return address, probe.getsockname()[1]


def srun(options, threads):
    """Gives the words in front of a command that runs in several processes, and tells these where they meet."""
    nodes, tasks = options.get("num-nodes", 1), options.get("num-tasks", 1)
    if nodes * tasks == 1:
        return []
    address, port = first_address(os.environ["SLURM_JOB_NODELIST"])
    os.environ.setdefault("MASTER_ADDR", address)
    os.environ.setdefault("MASTER_PORT", str(port))
    return ["srun", "--kill-on-bad-exit=1", "--export=ALL", "--nodes=%d" % nodes, "--ntasks=%d" % (nodes * tasks),
            "--ntasks-per-node=%d" % tasks, "--cpus-per-task=%d" % threads]


def inputs(folder, number):
    """Reads the files that slurm.py saw for this job; waits for that list, which may be late itself."""
    deadline = time.monotonic() + patience()
    while True:
        try:
            with open(os.path.join(folder, "inputs"), encoding="utf-8", errors="surrogateescape") as file:
                lines = file.read().split("\n")
            if lines[-2:] == ["end", ""]:
                return slurm_files.parse(lines, "-", str(number or 0))
        except FileNotFoundError:
            pass
        if time.monotonic() > deadline:
            raise OSError("%s/inputs is not here after %g s" % (folder, patience()))
        time.sleep(0.2)


def write_code(path, code, files, within):
    with open(path + ".new", "w", encoding="utf-8", errors="surrogateescape") as file:
        file.write("%d\n%s%s" % (code, slurm_files.lines_of(files, "file"), slurm_files.lines_of(within, "within")))
        file.flush()
        os.fsync(file.fileno())
    os.replace(path + ".new", path)


class Task:
    """The running command and the signals that came for it."""

    def __init__(self):
        self.job, self.asked = None, []
        self.resumes = bool(os.environ.pop("SVQ_RESUMES", None))      # for this work, not for all that it may start
        for number in (signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, self._note)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())

    def _note(self, number, frame):
        if number == signal.SIGUSR1 and not self.resumes:
            return                              # the work could only begin anew, so it may run to its time limit
        self.asked.append(number)
        self.asked_at = time.monotonic()
        if self.job is not None:
            guard.ask(self.job.pid)

    def run(self, request, number, folder):
        """Runs the command and gives its exit code."""
        late = slurm_files.wait_for(inputs(folder, number), patience())
        if late:
            print("not here after %g s: %s" % (patience(), " ".join(late)), flush=True)
        threads = request.options.get("num-threads", 1)
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGUSR1))
        self.job = run.Job(request, number, [], threads, srun(request.options, threads), append=True)
        if self.asked:
            guard.ask(self.job.pid)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        _, status, usage = os.wait4(self.job.pid, 0)
        if os.WIFSIGNALED(status):
            guard.sweep()
        code = os.waitstatus_to_exitcode(status)
        code = code if code >= 0 else 128 - code
        self.job.end(code, usage.ru_maxrss)
        # Slurm signals one process after another: a signal that this process has yet to get may have ended the command.
        deadline = time.monotonic() + 1
        while code and not self.asked and time.monotonic() < deadline:
            time.sleep(0.05)
        return code

    def goes_back(self):
        """Puts the task back into the queue, unless Slurm does; says whether the task ends without a code."""
        state = slurm_queue.states([own_id()])
        state = next(iter(state.values())).state if state else ""
        if signal.SIGUSR1 not in self.asked and state != "RUNNING":
            return True                         # cancelled, at its time limit, or preempted: Slurm does the rest
        limit, count = int(os.environ.get("SVQ_SLURM_REQUEUES", "100")), int(os.environ.get("SLURM_RESTART_COUNT", "0"))
        if count >= limit:
            self.say("queued again %d times and still not done: give it more --time, or raise SVQ_SLURM_REQUEUES" % count)
            return False
        ran = self.asked_at - self.job.began
        if signal.SIGUSR1 in self.asked and ran < 10:
            self.say("ended after %.0f s, before its time limit: give it more --time" % ran)
            return False
        status, _, err = slurm_queue.command_output(["scontrol", "requeue", own_id()])
        if status != 0:
            self.say("ended by Slurm and cannot be queued again: %s" % err)
            return False
        self.say("goes on later: queued again (%d)" % (count + 1))
        seen, deadline = len(self.asked), time.monotonic() + 60
        while len(self.asked) == seen and time.monotonic() < deadline:      # Slurm ends this process
            time.sleep(0.1)
        return True

    def say(self, text):
        with open(self.job.log.name, "a", encoding="utf-8") as log:
            log.write("# %s\n" % text)


def own_id():
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    return "%s_%s" % (array, os.environ["SLURM_ARRAY_TASK_ID"]) if array else os.environ["SLURM_JOB_ID"]


def main():
    task, folder = Task(), sys.argv[1]
    os.environ.pop("SVQ_STEP_CMD", None)
    request = dispatch.parse(sys.argv[2:], __doc__)
    number = request.jobs[0]
    path = os.path.join(folder, "code.%d" % (number or 0))
    if os.path.exists(path):                    # from an earlier attempt, if Slurm has queued the task again
        os.unlink(path)
    began = time.time_ns()
    code = task.run(request, number, folder)
    if not task.asked or code == 0 or not task.goes_back():
        words = [request.substitute(word, number) for word in request.command] if code == 0 else []
        write_code(path, code, *slurm_files.named_by(words, began - 10**9))
    sys.exit(code)


if __name__ == "__main__":
    try:
        main()
    except (dispatch.UsageError, OSError, subprocess.SubprocessError) as e:
        print("slurm_task.py: %s" % e, file=sys.stderr)
        sys.exit(1)
