"""Starts a command so that nothing of it outlives the process that started it.

    caller -- guard (own process group) -- command -- whatever it starts

The guard is a fork of the caller. It dies with the caller (Linux: PR_SET_PDEATHSIG, which works for kill -9, too). The
kernel hands it the orphans of the command (PR_SET_CHILD_SUBREAPER), and it kills all of them before it ends. If the guard
itself is killed (kill -9), the orphans go to the caller, which kills them (`sweep`). So the lock that run.sh holds, which
its children inherit, is free as soon as run.sh is dead, and no forgotten training writes into a folder that is being
written again. This works on Linux only, because the signal does.

Uses only the standard library, and imports nothing slow: once.py and run.py start in milliseconds.
Start a guard from the main thread: the death signal follows the starting thread.

SVQ_GRACE is the number of seconds (default 30) between asking a command to end (SIGTERM) and killing it. A training
writes a checkpoint in that time. The wait ends when everything has ended, at once for commands that do not handle the
signal.
"""

import errno
import os
import signal
import sys
import time

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_SIGNALS = (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def grace():
    """Gives the seconds between asking a command to end and killing it."""
    value = os.environ.get("SVQ_GRACE", "30")
    try:
        return max(0.0, float(value))
    except ValueError:
        raise OSError(errno.EINVAL, "is not a number of seconds", "SVQ_GRACE=" + value) from None


def _prctl(option, value):
    try:
        import ctypes
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)
    except (ImportError, OSError, AttributeError):
        pass


def die_with_parent(parent=None):
    """Makes this process get SIGTERM when its parent dies; ``parent``: its pid, to notice that it is dead already."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if parent is not None and os.getppid() != parent:
        os._exit(143)


def _families():
    """Gives {process id: ids of its living children}; needs /proc, else empty."""
    children = {}
    try:
        names = os.listdir("/proc")
    except OSError:
        return children
    for name in names:
        if name.isdigit():
            try:
                with open("/proc/%s/stat" % name, "rb") as f:
                    # The name in parentheses may hold anything; what follows the last one is fixed.
                    state, ppid = f.read().rpartition(b")")[2].split()[:2]
            except (OSError, ValueError):
                continue
            if state != b"Z":
                children.setdefault(int(ppid), []).append(int(name))
    return children


def children(root):
    """Lists the process ids of the living children of process ``root``."""
    return _families().get(root, [])


def descendants(root):
    """Lists the process ids of all living descendants of process ``root``."""
    families = _families()
    found, queue = [], [root]
    while queue:
        found.extend(families.get(queue[0], ()))
        queue.extend(families.get(queue.pop(0), ()))
    return found


def _signal_all(pids, number):
    for pid in pids:
        try:
            os.kill(pid, number)
        except OSError:          # gone in the meantime
            pass


def _reap():
    """Collects the dead children; False when there is no child left, dead or alive."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return False
    return True


def _ask_orphans(asked):
    """Sends SIGTERM, once each, to the children of this process: orphans of the command, which nobody else asks to end.

    A process that was started after the others were asked is among them as soon as its parent is gone. The children of
    these processes are not asked: they may be at work on a clean end (slurm.py calls scancel).
    """
    new = [pid for pid in children(os.getpid()) if pid not in asked]
    asked.update(new)
    _signal_all(new, signal.SIGTERM)


def _kill_descendants(deadline, asked):
    """Kills what is left of the command, once its time to end by itself (slurm.py cancels) is over."""
    # Orphans of the command have become children of this process: without children there are none.
    pause = 0.005
    while _reap():
        if deadline is None or time.monotonic() > deadline:
            _signal_all(descendants(os.getpid()), signal.SIGKILL)
        else:
            _ask_orphans(asked)
            pause = min(1.2 * pause, 0.1)
        time.sleep(pause)


def _exec(argv, environ, stdout):
    """Becomes the command; never returns."""
    # Python ignores SIGPIPE; a command that inherited this would not end with its reader.
    for number in (signal.SIGPIPE, *_SIGNALS):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    try:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        if stdout is not None:
            os.dup2(stdout, 1)
            os.dup2(stdout, 2)
        os.execvpe(argv[0], argv, environ)
    except OSError as e:
        os.write(2, os.fsencode("cannot run %s: %s\n" % (argv[0], e.strerror)))
        os._exit(127 if isinstance(e, FileNotFoundError) else 126)


def _guard(argv, environ, stdout, parent):
    """Lives as the guard, in the fork, with _SIGNALS blocked; returns its exit status."""
    os.setpgid(0, 0)
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_DFL)     # an ignored signal would not be waited for
    die_with_parent(parent)
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    me = os.getpid()
    command = os.fork()
    if command == 0:
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != me:
            os._exit(137)
        _exec(argv, environ, stdout)

    deadline, status, asked = None, None, set()
    while status is None:
        # The signals are blocked, so a signal that comes between two waits is still there. sigtimedwait
        # would not do: suspended beyond its time limit, it reports a signal that never came.
        if deadline is not None:
            time.sleep(0.02)
        elif signal.sigwait(_SIGNALS) != signal.SIGCHLD:
            deadline = time.monotonic() + grace()
            asked.update(descendants(me))
            _signal_all(asked, signal.SIGTERM)
        pid = 1
        while pid:
            pid, code = os.waitpid(-1, os.WNOHANG)     # the command, or an adopted orphan
            if pid == command:
                status = code
                break
        if status is None and deadline is not None and time.monotonic() > deadline:
            status = signal.SIGKILL
    _kill_descendants(deadline, asked)
    return 128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


def start(argv, environ=None, stdout=None):
    """Starts ``argv`` under a guard; returns the process id of the guard, which is also the id of its group.

    environ: environment of the command, by default that of this process.
    stdout: file descriptor for its output and error output, by default those of this process.
    The guard exits with the status of the command, with 128 + n where signal n killed it, with 127 where it
    could not be found. Standard input is empty: jobs of a recipe do not ask questions.
    """
    environ = os.environ if environ is None else environ
    grace()                                   # reports a wrong value now
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)        # takes the orphans of a killed guard: see sweep
    parent = os.getpid()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    pid = os.fork()
    if pid == 0:
        code = 125
        try:
            code = _guard(argv, environ, stdout, parent)
        except BaseException as e:            # a fork must never go on with its parent's work
            os.write(2, os.fsencode("guard of %s: %r\n" % (argv[0], e)))
        finally:
            os._exit(code)
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    return pid


def ask(pid):
    """Asks the guard ``pid`` to end what it guards: SIGTERM, then SVQ_GRACE seconds."""
    _signal_all([pid], signal.SIGTERM)


def sweep(guards=()):
    """Kills the orphans of a killed guard, and returns when they are gone; ``guards``: the guards that live."""
    while True:
        left = [pid for pid in children(os.getpid()) if pid not in guards]
        if not left:
            return
        for pid in left:
            _signal_all([*descendants(pid), pid], signal.SIGKILL)
            try:
                os.waitpid(pid, 0)            # its own children now belong to this process
            except ChildProcessError:
                pass


def stop(pids):
    """Ends the guards ``pids`` and all that they guard; returns when they are gone."""
    _signal_all(pids, signal.SIGTERM)
    deadline = time.monotonic() + grace() + 2     # a living guard kills at its own deadline, before this
    for pid in pids:
        while True:
            try:
                if os.waitpid(pid, os.WNOHANG)[0]:
                    break
            except ChildProcessError:
                break
            if time.monotonic() > deadline:
                _signal_all(descendants(pid) + [pid], signal.SIGKILL)
            time.sleep(0.01)
    sweep()
