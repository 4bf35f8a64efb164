#!/usr/bin/env python3
"""Runs jobs on this machine, each with its log, as Kaldi's run.pl does.

  run.py [options] [JOB=1:4] LOG COMMAND ARGUMENTS...

  run.py JOB=1:4 exp/log/extract.JOB.log python3 -m svq.bin.extract data/split4/JOB/wav.scp x.JOB.ark

The number of a job replaces JOB in the name of the log and in the arguments. run.py returns when all jobs have
ended: with 0 if all went well; with 1 if one failed, after it has named that job, its log and the last lines of the
log. After a failure it starts no further jobs. A killed run.py takes its jobs with it.

  --max-jobs-run N   jobs at once; default: the cores divided by --num-threads, or the GPUs by --gpu
  --num-threads N    threads of a job: sets OMP_NUM_THREADS. If it is not given and several jobs run at
                     once, that is 1
  --gpu N            GPUs of a job: jobs that run at once get different ones (CUDA_VISIBLE_DEVICES)
  --num-nodes N      only 1 is allowed
  --mem, --time, --partition, --account, --qos, --sbatch-options
                     are for a cluster (slurm.py) and change nothing here

The arguments run as they are, without a shell. Bash runs the command (with pipefail) only if one of the arguments is,
as a whole, one of
  |  ||  &&  ;  <  >  >>  2>  2>>  2>&1  &>
or if the command is one argument with spaces; all other words stay quoted.
"""

import os
import shlex
import signal
import socket
import sys
import time

import at_work
import cards
import dispatch
import guard


def stamp():
    return time.strftime("%Y-%m-%d %H:%M:%S")


class Job:
    """One running job: ``pid`` of its guard, ``log``, ``devices`` that it holds.

    before: words in front of the command (srun). append: keeps the log of an earlier attempt.
    """

    def __init__(self, request, number, devices, threads, before=(), append=False):
        self.number, self.devices, self.began = number, devices, time.monotonic()
        argv = [*before, *request.argv_of(number)]
        environ = dict(os.environ)
        if threads:
            environ["OMP_NUM_THREADS"] = environ["MKL_NUM_THREADS"] = str(threads)
        environ.update(cards.Cards.environ_of(devices))
        path = request.log_of(number)
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
        if not append:
            open(path, "wb").close()
        self.log = open(path, "ab", buffering=0)     # appending: the command writes there too
        command = " ".join(map(shlex.quote, argv)).replace("\n", "\n# ")
        self.write("# %s\n# Host: %s\n# Started: %s\n#\n"
                   % (command, socket.gethostname(), stamp()))
        self.pid = guard.start(argv, environ, self.log.fileno())

    def write(self, text):
        try:
            self.log.write(os.fsencode(text))
        except OSError as e:
            raise OSError(e.errno, e.strerror, self.log.name) from None

    def end(self, code, peak_kb=None):
        with open(self.log.name, "rb") as f:          # the last line of the command may lack its line break
            f.seek(-1, os.SEEK_END)
            if f.read(1) != b"\n":
                self.write("\n")
        peak = "" if peak_kb is None else ", peak memory: %.0f MB" % (peak_kb / 1024)
        self.write("# Time: %.1f s%s\n# Ended (code %d) at %s\n"
                   % (time.monotonic() - self.began, peak, code, stamp()))
        self.log.close()


def explain(code):
    if code <= 128:
        return "code %d" % code
    try:
        name = signal.Signals(code - 128).name
    except ValueError:
        return "code %d" % code
    return "code %d, killed by %s%s" % (
        code, name, ": out of memory?" if name == "SIGKILL" else "")


LOOK = 0.2           # seconds between two looks for a free GPU


def limits(request):
    """Gives the number of jobs at once, the threads of a job or None, and the Cards of the machine or None."""
    options = request.options
    if options.get("num-nodes", 1) > 1:
        raise dispatch.UsageError("--num-nodes %d: this is one machine; slurm.py has others" % options["num-nodes"])
    threads, wanted = options.get("num-threads"), options.get("gpu", 0)
    pool = cards.Cards() if wanted else None
    names = pool.names if wanted else []
    if len(names) < wanted:
        raise dispatch.UsageError("--gpu %d: this machine has %d to give" % (wanted, len(names)))
    default = len(names) // wanted if wanted else \
        len(os.sched_getaffinity(0)) // (threads or 1)
    at_once = min(options.get("max-jobs-run", max(1, default)), len(request.jobs))
    if wanted:
        at_once = min(at_once, len(names) // wanted)
    if threads is None and at_once > 1 and "OMP_NUM_THREADS" not in os.environ:
        threads = 1
    return at_once, threads, pool


def run(request):
    """Runs all jobs; gives {number: why} of those that failed, and how many were not started."""
    at_once, threads, pool = limits(request)
    wanted = request.options.get("gpu", 0)
    waiting, running, failed, told = list(reversed(request.jobs)), {}, {}, False

    def stop(number, frame):
        guard.stop(list(running))
        for job in running.values():
            job.end(128 + number)
        os._exit(128 + number)

    caught = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    for number in caught:
        signal.signal(number, stop)
    while running or (waiting and not failed):
        signal.pthread_sigmask(signal.SIG_BLOCK, caught)      # a started job must be in the table
        while waiting and not failed and len(running) < at_once:
            devices = pool.take(wanted) if pool else []
            if devices is None:
                break
            job = Job(request, waiting.pop(), devices, threads)
            running[job.pid] = job
        signal.pthread_sigmask(signal.SIG_UNBLOCK, caught)
        if waiting and not failed and len(running) < at_once:
            if not told:
                print("run.py: %s waits for %s of %s: others have the rest" % (
                    request.log_of(waiting[-1]), "a GPU" if wanted == 1 else "%d GPUs" % wanted, ",".join(pool.names)),
                    file=sys.stderr, flush=True)
                told = True
            time.sleep(LOOK)
            if not running or os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT | os.WNOHANG) is None:
                continue
        else:
            os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)
        signal.pthread_sigmask(signal.SIG_BLOCK, caught)
        pid, status, usage = os.wait4(-1, os.WNOHANG)
        if pid in running:
            job = running.pop(pid)
            if os.WIFSIGNALED(status):
                guard.sweep(running)
            code = os.waitstatus_to_exitcode(status)
            job.end(code if code >= 0 else 128 - code, usage.ru_maxrss)
            if pool:
                pool.give(job.devices)
            if code != 0:
                failed[job.number] = explain(code if code > 0 else 128 - code)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, caught)
    return failed, len(waiting)


def main():
    guard.die_with_parent()
    try:
        request = dispatch.parse(sys.argv[1:], __doc__)
        dispatch.end_orphans("run.py", request)
        at_work.note_logs(request)
        failed, not_started = run(request)
    except dispatch.UsageError as e:
        print("run.py: %s" % e, file=sys.stderr)
        sys.exit(2)
    except OSError as e:
        dispatch.report_os_error("run.py", e)
        sys.exit(1)
    if failed:
        dispatch.report_failures("run.py", request, failed, not_started)
        sys.exit(1)


if __name__ == "__main__":
    main()
