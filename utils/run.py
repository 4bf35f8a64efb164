#!/usr/bin/env python3
"""Run jobs on this machine, each with its log (the work of Kaldi's run.pl).

  run.py [options] [JOB=1:4] LOG COMMAND ARGUMENTS...

  run.py JOB=1:4 exp/log/extract.JOB.log python3 -m svq.bin.extract data/split4/JOB/wav.scp x.JOB.ark

JOB, in the log's name and in the arguments, is replaced by the job's number. Returns when all jobs
have ended: 0 when all went well, 1 when one failed, after naming it, its log and the log's last
lines. When one has failed no further ones are started. A killed run.py takes its jobs with it.

  --max-jobs-run N   jobs at once; default: the cores (over --num-threads), or the GPUs over --gpu
  --num-threads N    threads of a job: OMP_NUM_THREADS is set to it. Not given, it is set to 1 when
                     several jobs run at once
  --gpu N            GPUs of a job: jobs that run at once get different ones (CUDA_VISIBLE_DEVICES), those of other
                     calls of run.py too; where all are taken a job waits. Chosen from CUDA_VISIBLE_DEVICES where it is
                     set, else from all of this machine
  --num-nodes N      is refused but for 1
  --mem, --time, --partition, --account, --qos, --sbatch-options
                     are for a cluster (slurm.py) and change nothing here

The arguments are run as they are, without a shell. Only where one of them is, as a whole, one of
  |  ||  &&  ;  <  >  >>  2>  2>>  2>&1  &>
or the command is one argument with spaces, bash runs it (with pipefail); all else stays quoted.
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
    """One running job: ``pid`` of its guard, ``log``, ``devices`` it holds.

    before: words in front of the command (srun). append: the log of an earlier attempt is kept.
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
        with open(self.log.name, "rb") as f:          # the command's last line may be an open one
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
    """(jobs at once, threads of a job or None, the machine's Cards or None)."""
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
    """Run all jobs; {number: why} of those that failed, and how many were not started."""
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
