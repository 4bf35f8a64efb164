#!/usr/bin/env python3
"""Submits a job to a Slurm cluster and does not wait for it; utils/submit.sh calls this for run.sh.

  slurm_submit.py [options of slurm.py] LOG COMMAND ARGUMENTS...

The job runs like those of slurm.py (slurm_task.py). It refuses a second job while one with the same log is in the queue.
"""

import os
import shutil
import sys
import tempfile

import dispatch
import slurm
import slurm_options
import slurm_queue


def refuse_second(parent, prefix):
    """Refuses, by SlurmError, while an earlier job is in the queue; removes the folders of jobs that have ended."""
    for name in sorted(os.listdir(parent)):
        if not name.startswith(prefix):
            continue
        jobs = slurm_queue.living(slurm_queue.name_of(name))
        if jobs is None:
            raise slurm_queue.SlurmError("squeue does not answer: is this a Slurm cluster?")
        if jobs:
            raise slurm_queue.SlurmError("this is in the queue already, as job %s: wait for it, or scancel %s first" % (
                jobs[0], jobs[0]))
        shutil.rmtree(os.path.join(parent, name), ignore_errors=True)


def submit(request):
    parent, prefix = dispatch.queue_folders(request)
    os.makedirs(parent, exist_ok=True)
    refuse_second(parent, prefix)
    folder = tempfile.mkdtemp(prefix=prefix, dir=parent)
    slurm.remove_logs(request)
    job = slurm.Job(request, folder)
    try:
        job.submit()
    except slurm_queue.SlurmError:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return job.ids[0]


def main():
    try:
        request = dispatch.parse(sys.argv[1:], __doc__)
        print("submitted job %s; its log: %s" % (submit(request), os.path.abspath(request.log)))
        return 0
    except (dispatch.UsageError, slurm_options.OptionError) as e:
        print("submit.sh: %s" % e, file=sys.stderr)
        return 2
    except (slurm_queue.SlurmError, ValueError) as e:
        print("submit.sh: %s" % e, file=sys.stderr)
    except OSError as e:
        dispatch.report_os_error("submit.sh", e)
    return 1


if __name__ == "__main__":
    sys.exit(main())
