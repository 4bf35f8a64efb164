"""Start a command so that nothing of it outlives the process that started it.

    caller -- guard (own process group) -- command -- whatever it starts

The guard is a fork of the caller. It dies with the caller (Linux: PR_SET_PDEATHSIG, which works for
kill -9 too), is the one to which orphans of the command are handed (PR_SET_CHILD_SUBREAPER), and
kills all of them before it ends. So the lock that run.sh holds, which its children inherit, is free
as soon as run.sh is dead, and no forgotten training process writes into a folder that is being
written again. Linux only, as the signal is.

Standard library only, and nothing slow to import: once.py and run.py start in milliseconds.
A guard must be started from the main thread: the death signal follows the starting thread.
"""

import os
import signal
import sys
import time

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_SIGNALS = (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_GRACE = 2.0      # seconds between asking a command to end and killing it


def _prctl(option, value):
    try:
        import ctypes
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)
    except (ImportError, OSError, AttributeError):
        pass


def die_with_parent(parent=None):
    """Get SIGTERM when the parent process dies; ``parent``: its pid, to notice that it already has."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if parent is not None and os.getppid() != parent:
        os._exit(143)


def descendants(root):
    """Process ids of all living descendants of process ``root``; needs /proc, else none."""
    children = {}
    try:
        names = os.listdir("/proc")
    except OSError:
        return []
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
    found, queue = [], [root]
    while queue:
        queue.extend(children.get(queue[0], ()))
        found.extend(children.get(queue.pop(0), ()))
    return found


def _signal_all(pids, number):
    for pid in pids:
        try:
            os.kill(pid, number)
        except OSError:          # gone in the meantime
            pass


def _reap():
    """Collect the dead children; False when there is no child left, dead or alive."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return False
    return True


def _kill_descendants(deadline):
    """Kill what is left of the command, once the time to end by itself (slurm.py cancels) is over."""
    # Orphans of the command have become children of this process: without children there are none.
    while _reap():
        if deadline is None or time.monotonic() > deadline:
            _signal_all(descendants(os.getpid()), signal.SIGKILL)
        time.sleep(0.005)


def _exec(argv, environ, stdout):
    """Become the command; returns never."""
    # Python ignores SIGPIPE; a command that inherited that would not end with its reader.
    for number in (signal.SIGPIPE, *_SIGNALS):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
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
    """The guard's life, in the fork, with _SIGNALS blocked; returns its exit status."""
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

    deadline, status = None, None
    while status is None:
        # The signals are blocked, so that one which comes between two waits is still there. Not
        # sigtimedwait: suspended beyond its time limit, it reports a signal that never came.
        if deadline is not None:
            time.sleep(0.02)
        elif signal.sigwait(_SIGNALS) != signal.SIGCHLD:
            deadline = time.monotonic() + _GRACE
            _signal_all(descendants(me), signal.SIGTERM)
        pid = 1
        while pid:
            pid, code = os.waitpid(-1, os.WNOHANG)     # the command, or an adopted orphan
            if pid == command:
                status = code
                break
        if status is None and deadline is not None and time.monotonic() > deadline:
            status = signal.SIGKILL
    _kill_descendants(deadline)
    return 128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


def start(argv, environ=None, stdout=None):
    """Start ``argv`` under a guard; returns the guard's process id, which is also its group's.

    environ: the command's environment, by default this process's.
    stdout: file descriptor for its output and error output, by default this process's.
    The guard's exit status is the command's, 128 + n where signal n killed it, 127 where it could
    not be found. Standard input is empty: jobs of a recipe do not ask questions.
    """
    environ = os.environ if environ is None else environ
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


def stop(pids):
    """End the guards ``pids`` and all that they guard; returns when they are gone."""
    _signal_all(pids, signal.SIGTERM)
    for pid in pids:
        deadline = time.monotonic() + 2 * _GRACE
        while True:
            try:
                if os.waitpid(pid, os.WNOHANG)[0]:
                    break
            except ChildProcessError:
                break
            if time.monotonic() > deadline:
                _signal_all(descendants(pid) + [pid], signal.SIGKILL)
            time.sleep(0.01)
