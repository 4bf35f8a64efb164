"""Jobs at their time limit, a minute: the shortest that Slurm has."""

COUNT = """
import os, signal, sys, time
done = int(open("count").read()) if os.path.exists("count") else 0
def save(number, frame):
    open("count", "w").write(str(done))
    open("saved", "a").write("%d\\n" % done)
    sys.exit(143)
signal.signal(signal.SIGTERM, save)
while done < 64:
    time.sleep(1)
    done += 1
open("result", "w").write(str(done))
"""


def test_time_limit(shell, seen):
    """One minute: what cannot go on later fails and says why, what can (SVQ_RESUMES) is queued again and ends well."""
    shell.write("count.py", COUNT)
    plain = shell.start("slurm.py", "--partition", "minute", "log/x.log", "sleep", "200")
    going_on = shell.start("slurm.py", "--partition", "minute", "--sbatch-options", "--signal=B:USR1@20",
                           "log/count.log", "python3", "count.py", SVQ_RESUMES="1")
    shell.end(going_on)
    assert shell.read("result") == "64" and 10 < int(shell.read("saved").split()[0]) < 60
    assert "goes on later: queued again (1)" in shell.read("log/count.log")
    _, err = shell.end(plain, 1)
    assert "the job failed (the time limit of 1:00 is over: give it more --time" in err
    seen("4 why: time limit", err.splitlines()[0][:110])
    seen("7 SIGUSR1 before the time limit", "SIGTERM for the command, requeued by the task, went on to its end")
