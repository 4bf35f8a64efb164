#!/usr/bin/env python3
"""Run jobs on a Slurm cluster as one job array; the same command line and logs as run.py.

  slurm.py [options] [JOB=1:4] LOG COMMAND ARGUMENTS...

  --max-jobs-run N   tasks of the array at once (--array=1-40%N)
  --num-threads N    --cpus-per-task, and OMP_NUM_THREADS in the job
  --gpu N            --gres=gpu:N
  --mem 4G, --time 12:00:00, --partition P, --account A, --qos Q
                     the options of sbatch of that name
  --sbatch-options "--constraint=a100 --nice=100"
                     any others
Options of sbatch for all jobs can stand in conf/slurm.conf (one or more a line, # begins a comment)
and in SVQ_SLURM_OPTIONS; this command line wins over the variable, the variable over the file.

Every task runs run.py on its node and then writes its exit code to a file beside the log, in q/;
these files decide, because a controller that is busy or forgetful says nothing for a while. A task
that is in no queue and has left no file after SVQ_SLURM_GRACE seconds (default 60: a network file
system shows new files late) is an error. SVQ_SLURM_POLL (default 5) is the time between two looks
at the queue. When slurm.py is stopped or killed its array is cancelled.
"""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import dispatch
import guard


class SlurmError(Exception):
    pass


def seconds(name, default):
    value = os.environ.get(name, default)
    try:
        return float(value)
    except ValueError:
        raise SlurmError("%s is not a number of seconds: '%s'" % (name, value)) from None


def general_options():
    """Options of sbatch from conf/slurm.conf, then from SVQ_SLURM_OPTIONS: the later one wins."""
    words = []
    if os.path.exists("conf/slurm.conf"):
        with open("conf/slurm.conf", encoding="utf-8") as f:
            words += shlex.split(f.read(), comments=True)
    return words + shlex.split(os.environ.get("SVQ_SLURM_OPTIONS", ""))


def sbatch_line(request, folder):
    """The sbatch command for ``folder``/job.sh."""
    options = request.options
    line = ["sbatch", "--parsable", *general_options(),
            "--job-name=" + os.path.basename(folder).rpartition(".")[0],
            "--output=" + os.path.join(folder, "out.%a" if request.variable else "out.0"),
            "--cpus-per-task=%d" % options.get("num-threads", 1)]
    if options.get("gpu"):
        line.append("--gres=gpu:%d" % options["gpu"])
    for key in ("mem", "time", "partition", "account", "qos"):
        if key in options:
            line.append("--%s=%s" % (key, options[key]))
    line += shlex.split(options.get("sbatch-options", ""))
    if request.variable:
        array = "--array=%d-%d" % (request.jobs[0], request.jobs[-1])
        if "max-jobs-run" in options:
            array += "%%%d" % options["max-jobs-run"]
        line.append(array)
    return line + [os.path.join(folder, "job.sh")]


def job_script(request, folder):
    """What a task does: run.py with its own number, then its exit code, whole or not at all."""
    job = [request.variable + "=$task"] if request.variable else []
    run = [shlex.quote(os.path.join(os.path.dirname(os.path.abspath(__file__)), "run.py"))]
    run += ["--num-threads", str(request.options.get("num-threads", 1))]
    run += ['"%s"' % word for word in job]
    run += map(shlex.quote, [request.log, *request.command])
    code = shlex.quote(os.path.join(folder, "code."))
    return """#!/usr/bin/env bash
task=${SLURM_ARRAY_TASK_ID:-0}
code=%s$task
rm -f -- "$code"            # of an earlier attempt, when Slurm has queued the task again
cd -- %s || exit 1
%s %s
status=$?
echo "$status" > "$code.new" && mv -- "$code.new" "$code"
exit "$status"
""" % (code, shlex.quote(os.getcwd()), shlex.quote(sys.executable), " ".join(run))


def command_output(line):
    """(exit status, standard output, error output) of a Slurm command; status None: not there."""
    try:
        done = subprocess.run(line, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                              timeout=120)
    except FileNotFoundError:
        return None, "", line[0] + ": no such program"
    except subprocess.TimeoutExpired:
        return 1, "", line[0] + ": no answer"
    return done.returncode, done.stdout.strip(), done.stderr.strip()


def submit(request, folder):
    """Hand the array to Slurm; its job id."""
    with open(os.path.join(folder, "job.sh"), "w", encoding="utf-8", errors="surrogateescape") as f:
        f.write(job_script(request, folder))
    status, out, err = command_output(sbatch_line(request, folder))
    if status is None:
        raise SlurmError("sbatch is not on PATH: is this a Slurm cluster? (run.py runs jobs here)")
    job_id = out.splitlines()[-1].partition(";")[0] if out else ""
    if status != 0 or not re.fullmatch(r"\d+", job_id):
        raise SlurmError("sbatch refused the job: %s" % (err or out or "no reason given"))
    return job_id


def read_codes(folder):
    """{task number: exit code} of the tasks that have ended."""
    codes = {}
    for name in os.listdir(folder):
        if re.fullmatch(r"code\.\d+", name):
            with open(os.path.join(folder, name), encoding="ascii") as f:
                text = f.read().strip()
            if text.isdigit():
                codes[int(name[5:])] = int(text)
    return codes


def queued(job_id):
    """Numbers of the tasks that Slurm still has, or None when it does not say."""
    status, out, err = command_output(["squeue", "--noheader", "--array", "--jobs", job_id,
                                       "--format", "%K"])
    if status == 0:
        return {int(word) if word.isdigit() else 0 for word in out.split()}
    return set() if "Invalid job id" in err else None


def last_state(job_id, task, is_array):
    """What accounting knows of a task that vanished (TIMEOUT, OUT_OF_MEMORY ...), or ''."""
    name = "%s_%d" % (job_id, task) if is_array else job_id
    status, out, _ = command_output(["sacct", "--noheader", "--allocations", "--parsable2",
                                     "--jobs", name, "--format", "State"])
    return out.splitlines()[-1] if status == 0 and out else ""


def wait(request, job_id, folder):
    """Wait for all tasks; {task number: exit code, or None for one that vanished}."""
    poll, grace = seconds("SVQ_SLURM_POLL", "5"), seconds("SVQ_SLURM_GRACE", "60")
    tasks = {job or 0 for job in request.jobs}
    missing_since, pause, next_look = {}, min(0.1, poll), 0.0
    while True:
        codes = read_codes(folder)
        left = tasks - set(codes)
        if not left:
            return codes
        now = time.monotonic()
        if now >= next_look:
            living = queued(job_id)
            now = time.monotonic()
            next_look = now + poll
            if living is not None:
                missing_since = {t: missing_since.get(t, now) for t in left - living}
        if missing_since and left <= {t for t, s in missing_since.items() if now - s >= grace}:
            codes = read_codes(folder)
            return {t: codes.get(t) for t in tasks}
        time.sleep(pause)
        pause = min(1.5 * pause, poll, 2.0)


def cancel_on_death(job_id):
    """A process that cancels the array unless told not to; returns the pipe to tell it.

    It sees the pipe close when this process dies, kill -9 included.
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
                command_output(["scancel", job_id])
        finally:
            os._exit(0)
    os.close(reader)
    return writer


def run(request):
    """Submit, wait, report; the exit status."""
    log_folder = os.path.dirname(os.path.abspath(request.log_of(request.jobs[0])))
    queue_folder = os.path.join(log_folder, "q")
    os.makedirs(queue_folder, exist_ok=True)
    name = os.path.basename(request.log)
    name = name.removesuffix(".log").replace("." + request.variable if request.variable else "", "")
    folder = tempfile.mkdtemp(prefix=(name or "job") + ".", dir=queue_folder)

    def stop(number, frame):
        command_output(["scancel", job_id])
        os.write(keep, b"x")
        os._exit(128 + number)

    caught = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    signal.pthread_sigmask(signal.SIG_BLOCK, caught)     # from sbatch on there is an id to cancel
    job_id = submit(request, folder)
    keep = cancel_on_death(job_id)
    for number in caught:
        signal.signal(number, stop)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, caught)

    codes = wait(request, job_id, folder)
    os.write(keep, b"x")
    failed = {}
    for job in request.jobs:
        code = codes[job or 0]
        if code is None:
            state = last_state(job_id, job or 0, request.variable is not None)
            failed[job] = "Slurm job %s vanished without an exit code%s; see %s" % (
                job_id, ": " + state if state else "", folder)
        elif code != 0:
            failed[job] = "code %d, Slurm job %s" % (code, job_id)
    if failed:
        if None in codes.values():
            command_output(["scancel", job_id])
        dispatch.report_failures("slurm.py", request, failed)
        return 1
    shutil.rmtree(folder, ignore_errors=True)
    return 0


def main():
    guard.die_with_parent()
    try:
        sys.exit(run(dispatch.parse(sys.argv[1:], __doc__)))
    except dispatch.UsageError as e:
        print("slurm.py: %s" % e, file=sys.stderr)
        sys.exit(2)
    except (SlurmError, ValueError) as e:
        print("slurm.py: %s" % e, file=sys.stderr)
    except OSError as e:
        print("slurm.py: %s: %s" % (e.filename, e.strerror), file=sys.stderr)
    sys.exit(1)


if __name__ == "__main__":
    main()
