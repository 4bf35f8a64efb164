"""The GPUs of this machine, handed out so that jobs of different calls of run.py get different ones.

A card that is taken has a lock on a file of its own, /tmp/.svq-gpu-<card>.lock (another folder: SVQ_GPU_LOCKS). The
kernel gives up the lock with the last process that holds it: run.py and the guards of its jobs, which die with it
and only after their jobs. So a card of a dead run is free, however it died. Cards are known by what nvidia-smi calls
them in all containers and jobs of a cluster (UUID), and by their names where it does not tell. A job that calls
run.py again shares out the cards that it has: they are no one else's, and have locks of its own (SVQ_GPU_HOLDER).

Standard library only, and nothing slow to import: run.py starts in milliseconds.
"""

import contextlib
import errno
import fcntl
import os
import re
import subprocess
import time

_UUID = re.compile(r"^GPU (\d+): .*\(UUID: ([A-Za-z0-9-]+)\)\s*$")


def listed():
    """{index: UUID, or the index where none is told} of what nvidia-smi sees; empty where there is none."""
    try:
        said = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return {}
    found = {}
    for line in said.splitlines():
        if line.startswith("GPU "):
            told = _UUID.match(line)
            found[str(len(found))] = told[2] if told else str(len(found))
    return found


def names(seen):
    """Names of the cards that may be used, as CUDA_VISIBLE_DEVICES takes them: those of the user, else all of `listed`."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return list(seen)
    chosen = []
    for name in map(str.strip, visible.split(",")):
        if name == "-1":                      # CUDA sees none from there on
            break
        if name and name not in chosen:
            chosen.append(name)
    return chosen


class Cards:
    """The cards that jobs of this process may have. names: of all of them; `take` and `give` some."""

    def __init__(self):
        seen = listed()
        self.names = names(seen)
        holder, _, own = os.environ.get("SVQ_GPU_HOLDER", "").partition(":")
        self._key = {name: _key(name, seen) + ("." + holder if name in own.split(",") else "") for name in self.names}
        self._held = {}                       # name -> its locked file

    def take(self, count):
        """`count` of the cards that nobody has, now this process's; None where there are not so many. 0: an empty list.

        All or none, one process at a time: two that want two cards each cannot wait for each other's one.
        """
        if not count:
            return []
        with contextlib.closing(_Open("s")) as turn:
            turn.lock(wait=True)
            taken = {}
            for name in self.names:
                if name not in self._held and len(taken) < count:
                    file = _Open("-" + self._key[name])
                    if file.lock():
                        taken[name] = file
                    else:
                        file.close()
            if len(taken) < count:
                for file in taken.values():
                    file.close()
                return None
        self._held.update(taken)
        return list(taken)

    @staticmethod
    def environ_of(cards):
        """What tells a job which cards are its own."""
        if not cards:
            return {}
        holder = "%d-%d" % (os.getpid(), time.monotonic_ns())
        return {"CUDA_VISIBLE_DEVICES": ",".join(cards), "SVQ_GPU_HOLDER": "%s:%s" % (holder, ",".join(cards))}

    def give(self, cards):
        """These cards are free again."""
        for name in cards:
            self._held.pop(name).close()


def _key(name, seen):
    """What a card is called in all processes: its UUID where nvidia-smi tells it."""
    if name in seen:
        return seen[name]
    whole = [uuid for uuid in seen.values() if uuid.startswith(name)]      # CUDA takes a UUID's beginning, too
    return whole[0] if len(whole) == 1 and not name.isdigit() else re.sub(r"[^A-Za-z0-9-]", "_", name)


class _Open:
    """An open file to be locked, which all users of the machine share: it is opened to read, so that it need not be theirs."""

    def __init__(self, what):
        self.path = os.path.join(os.environ.get("SVQ_GPU_LOCKS", "/tmp"), ".svq-gpu%s.lock" % what)
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            self.file = os.open(self.path, flags)
        except FileNotFoundError:
            try:
                self.file = os.open(self.path, flags | os.O_CREAT | os.O_EXCL, 0o444)
                os.fchmod(self.file, 0o444)   # whatever the umask
            except FileExistsError:           # another process was quicker
                self.file = os.open(self.path, flags)

    def lock(self, wait=False):
        """Whether it is this process's now."""
        try:
            fcntl.flock(self.file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except OSError as e:
            if e.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise OSError(e.errno, e.strerror, self.path) from None
            return False
        return True

    def close(self):
        """Unlocks it, for forks of this process, too: a guard has all that was open when it began."""
        fcntl.flock(self.file, fcntl.LOCK_UN)
        os.close(self.file)
