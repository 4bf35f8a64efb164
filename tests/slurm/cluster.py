"""A Slurm cluster on this machine: munged, slurmctld and a slurmd for each of two nodes, on the loopback.

Needs root and Debian's packages slurmctld, slurmd, slurm-client and munge. All is in one folder, nothing of /etc is read
or written, no port is fixed, and the daemons are ended by the ids that they leave in the folder.
"""

import os
import shutil
import signal
import socket
import subprocess
import time

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scancel", "scontrol", "srun")
NODES, CPUS, MEMORY, KILL_WAIT = ("n1", "n2"), 4, 4000, 5

CONFIG = """ClusterName=tests
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort={control}
SlurmdPort={first}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0,sched_min_interval=0,requeue_delay=1
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill
AccountingStorageType=accounting_storage/none
MpiDefault=none
SwitchType=switch/none
ReturnToService=2
SlurmdTimeout=10
InactiveLimit=0
KillWait={kill_wait}
MaxArraySize=20
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
DefMemPerCPU=200
SlurmdParameters=config_overrides
GresTypes=gpu
PartitionName=main Nodes=ALL Default=YES PriorityTier=5 PreemptMode=OFF
PartitionName=minute Nodes=ALL MaxTime=1 DefaultTime=1 PriorityTier=5 PreemptMode=OFF
PartitionName=low Nodes=n1 PriorityTier=1 PreemptMode=REQUEUE
PartitionName=high Nodes=n1 PriorityTier=9 PreemptMode=OFF
"""


def missing():
    """Why there can be no cluster here, or None."""
    if os.geteuid() != 0:
        return "a Slurm cluster of one's own needs root"
    lacking = [name for name in PROGRAMS if not shutil.which(name)]
    if lacking:
        return "not installed: %s (apt-get install slurmctld slurmd slurm-client munge)" % ", ".join(lacking)
    return None


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for s in sockets:
        s.bind(("127.0.0.1", 0))
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


class Cluster:
    """A running cluster. ``env`` has what the commands of Slurm need."""

    def __init__(self, folder):
        self.folder = folder
        self.config = folder / "slurm.conf"
        self.env = {"SLURM_CONF": str(self.config)}
        self.waiting = {}      # job that was queued again: since when
        control, *ports = free_ports(1 + len(NODES))
        text = CONFIG.format(folder=folder, control=control, first=ports[0], kill_wait=KILL_WAIT)
        for name, port in zip(NODES, ports):
            text += "NodeName=%s NodeHostname=localhost NodeAddr=127.0.0.1 Port=%d " % (name, port)
            text += "CPUs=%d RealMemory=%d Gres=gpu:2 State=UNKNOWN\n" % (CPUS, MEMORY)
            (folder / ("spool." + name)).mkdir()
        (folder / "state").mkdir()
        self.config.write_text(text)
        # Devices that every machine has stand for GPUs: Slurm only counts them here.
        (folder / "gres.conf").write_text("".join("NodeName=n[1-2] Name=gpu File=/dev/%s\n" % name
                                                  for name in ("null", "zero")))
        (folder / "cgroup.conf").write_text("CgroupAutomount=no\n")
        (folder / "munge.key").write_bytes(os.urandom(128))
        (folder / "munge.key").chmod(0o600)

    def start(self):
        folder = self.folder
        self._do("munged", "--force", *("--%s=%s/munge.%s" % (option, folder, option.split("-")[0])
                                        for option in ("key-file", "socket", "pid-file", "log-file", "seed-file")))
        self.start_controller()
        for node in NODES:
            self.start_node(node)
        self.until(lambda: self("sinfo", "-h", "-p", "main", "-t", "idle", "-o", "%D") == str(len(NODES)), "nodes are idle")

    def start_controller(self):
        self._do("slurmctld", "-f", self.config)

    def start_node(self, node, shows=()):
        """Start a node. shows=(folder, other): in its eyes `folder` is what `other` is here."""
        command = ["slurmd", "-f", self.config, "-N", node]
        if shows:
            folder, other = shows
            inside = ["unshare", "--mount", "sh", "-c", 'mount --bind "$0" "$1" && shift && exec "$@"']
            command = [*inside, other, folder, *command]
        self._do(*command)

    def stop(self):
        if (self.folder / "slurmctld.pid").exists():
            for state in ("--state=PENDING", "--state=RUNNING"):
                self("scancel", state, "--user=root")
            deadline = time.monotonic() + 15
            while self("squeue", "-h") and time.monotonic() < deadline:
                time.sleep(0.2)
        for name in (*("slurmd." + node for node in NODES), "slurmctld", "munge"):
            self.end(name)

    def end(self, name, number=signal.SIGTERM):
        """End the daemon that left ``name``.pid."""
        path = self.folder / (name + ".pid")
        if not path.exists():
            return
        pid = int(path.read_text())
        deadline = time.monotonic() + 10
        try:
            os.kill(pid, number)
            while True:
                with open("/proc/%d/stat" % pid, encoding="ascii", errors="replace") as file:
                    if file.read().rpartition(")")[2].split()[0] == "Z":         # nobody may be there to collect it
                        raise ProcessLookupError
                if time.monotonic() > deadline:
                    os.kill(pid, signal.SIGKILL)
                time.sleep(0.05)
        except (ProcessLookupError, FileNotFoundError):
            path.unlink(missing_ok=True)

    def __call__(self, *command):
        """The output of a command, stripped; '' where it fails."""
        done = subprocess.run([str(word) for word in command], env=dict(os.environ, **self.env), check=False,
                              stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120)
        return done.stdout.strip() if done.returncode == 0 else ""

    def _do(self, *command):
        subprocess.run([str(word) for word in command], env=dict(os.environ, **self.env), check=True, timeout=60,
                       stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def hurry(self):
        """Let jobs that were queued again begin soon: Slurm has them wait two minutes.

        Not at once, for what is left of the attempt before is killed after KillWait, by the number of the job.
        """
        for line in self("squeue", "-h", "-t", "PD", "-o", "%i %r").splitlines():
            job, reason = line.split(maxsplit=1)
            if reason == "BeginTime" and time.monotonic() - self.waiting.setdefault(job, time.monotonic()) > KILL_WAIT + 2:
                del self.waiting[job]
                self("scontrol", "update", "jobid=" + job, "StartTime=now")

    def until(self, condition, what, seconds=60):
        deadline = time.monotonic() + seconds
        while not condition():
            self.hurry()
            assert time.monotonic() < deadline, "never happened: %s\n%s" % (what, self("squeue", "--states=all"))
            time.sleep(0.1)
