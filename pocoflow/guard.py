"""Commands that end with the process that started them, however that ends, SIGKILL included.

Two halves of one promise. `guarded_popen` is the parent's: it starts this same file as a small program, the
guard, and holds one end of a socket pair. `main` is the guard's: it runs the command in a session of its own
and watches the other end, which the kernel closes when the parent is gone. Standard library only, because
the guard runs without site-packages.
"""

from __future__ import annotations

import contextlib
import errno
import os
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import time
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

if sys.platform != "win32":
    import resource

__all__ = ["GuardedProcess", "guarded_popen"]

_START_S = 30.0  # for the guard to start its command; it takes some 25 ms
_SWEEP_S = 0.5  # for what the command left behind in its group
_MARGIN_S = 10.0  # for the guard to tidy up, on top of the command's grace


def guarded_popen(
    args: Sequence[str | os.PathLike[str]],
    *,
    grace_s: float = 5.0,
    stop_signal: int = signal.SIGTERM,
    user: int | None = None,
    remove: Path | None = None,
    **popen_kwargs: Any,
) -> GuardedProcess:
    """Start a command that ends when this process does; returns once it runs.

    Signals and exit code pass through, so it looks like a `Popen` of the command, whose pid is `command_pid`.
    The command has a session of its own: Ctrl-C at a terminal reaches it only through its guard, and not at
    all with `start_new_session=True`. Its standard input is empty unless given.

    Args:
        args: The command, found on PATH, and its arguments.
        grace_s: Seconds between `stop_signal` and SIGKILL when this process ends or calls `stop`.
        stop_signal: What the command understands as "end now".
        user: Run the command as this uid and gid (for root only; the guard stays as it is).
        remove: A folder that goes with the command when this process ends or calls `stop`.
        popen_kwargs: As for `subprocess.Popen`, without `shell`, `executable`, `group` and `extra_groups`.

    Raises:
        OSError: The command cannot be started; the same that `Popen` raises.
    """
    if os.name != "posix":
        raise OSError(errno.ENOSYS, "guarded processes need Linux or macOS")
    here, there = socket.socketpair()
    with there:
        orders = _Orders(
            lifeline=there.fileno(),
            grace_s=grace_s,
            stop_signal=int(stop_signal),
            user=user,
            remove=remove and remove.absolute(),
            command=tuple(os.fspath(arg) for arg in args),
        )
        return GuardedProcess(orders, here, **popen_kwargs)


class _Orders(NamedTuple):
    """What the parent tells the guard, on its command line."""

    lifeline: int
    grace_s: float
    stop_signal: int
    user: int | None
    remove: Path | None
    command: tuple[str, ...]

    def to_args(self) -> list[str]:
        *fields, command = self
        return ["" if field is None else str(field) for field in fields] + ["--", *command]

    @classmethod
    def from_args(cls, args: Sequence[str]) -> _Orders:
        lifeline, grace_s, stop_signal, user, remove, _, *command = args
        return cls(
            int(lifeline),
            float(grace_s),
            int(stop_signal),
            int(user) if user else None,
            Path(remove) if remove else None,
            tuple(command),
        )


class GuardedProcess(subprocess.Popen[Any]):
    """A command and its guard. `pid` is the guard's, `command_pid` the command's and its process group's."""

    command_pid: int

    def __init__(self, orders: _Orders, lifeline: socket.socket, **popen_kwargs: Any) -> None:
        self._lifeline = lifeline
        self._stop_s = orders.grace_s + _SWEEP_S + _MARGIN_S
        _lifelines.add(lifeline)
        popen_kwargs.setdefault("stdin", subprocess.DEVNULL)
        popen_kwargs["pass_fds"] = (*popen_kwargs.get("pass_fds", ()), orders.lifeline)
        with contextlib.ExitStack() as undo:
            undo.callback(lifeline.close)
            # -I: the folder of this file holds a logging.py, which must not hide the standard one.
            super().__init__([sys.executable, "-I", "-S", __file__, *orders.to_args()], **popen_kwargs)
            self.command_pid = self._read_report(orders)
            undo.pop_all()

    def _read_report(self, orders: _Orders) -> int:
        """Return the command's pid, or raise what the guard met when it tried to start it."""
        self._lifeline.settimeout(_START_S)
        with self._lifeline.makefile("r") as lines:
            report = int(lines.readline() or -errno.ECHILD)
        if report > 0:
            return report
        self._lifeline.close()
        self.wait()
        raise OSError(-report, os.strerror(-report), orders.command[0])

    def send_signal(self, sig: int) -> None:
        """Signal the command; the three that no guard can pass on go to its whole group."""
        if sig not in (signal.SIGKILL, signal.SIGSTOP, signal.SIGCONT):
            super().send_signal(sig)
        elif self.poll() is None:
            _signal_group(self.command_pid, sig)

    def poll(self) -> int | None:
        """Return the command's exit code, or None while it runs."""
        if super().poll() is not None:
            self._lifeline.close()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the command and return its exit code; as `Popen.wait`."""
        super().wait(timeout)
        self._lifeline.close()
        return self.returncode

    def stop(self) -> int:
        """End the command as if this process had ended, and return its exit code; safe to repeat."""
        self._lifeline.close()
        return self._wait_or_kill(self._stop_s)

    def end(self, sig: int, *, limit_s: float) -> int:
        """Signal the command, kill it if it has not ended in time, and return its exit code."""
        self.send_signal(sig)
        return self._wait_or_kill(limit_s)

    def _wait_or_kill(self, limit_s: float) -> int:
        try:
            return self.wait(limit_s)
        except subprocess.TimeoutExpired:
            self.kill()
        try:
            return self.wait(_SWEEP_S + _MARGIN_S)
        except subprocess.TimeoutExpired:
            super().send_signal(signal.SIGKILL)  # the guard itself, which should never be needed
        return self.wait()


# A fork without exec (multiprocessing) copies the parent's ends, and a child that outlives the parent would
# keep them open. With exec no care is needed: Python's sockets are close-on-exec.
_lifelines: weakref.WeakSet[socket.socket] = weakref.WeakSet()


def _let_go() -> None:
    for lifeline in list(_lifelines):
        lifeline.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)


def main(args: Sequence[str]) -> None:
    """Run the command until it ends or the parent does; end with its exit code or by its signal."""
    orders = _Orders.from_args(args)
    os.set_inheritable(orders.lifeline, False)
    wakeup = _catch_signals()
    command = _start(orders)
    orphaned = not _watch(command, lifeline=orders.lifeline, wakeup=wakeup)
    if orphaned:
        _stop(command, orders)
    _sweep(command.pid, min(_SWEEP_S, orders.grace_s))
    if orphaned and orders.remove:
        shutil.rmtree(orders.remove, ignore_errors=True)
    _exit_like(command.returncode)


def _catch_signals() -> int:
    """Turn signals into bytes on a pipe, so that one `select` waits for them and for the parent's end."""
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, _noted)
    for number in (
        signal.SIGHUP,
        signal.SIGINT,
        signal.SIGQUIT,
        signal.SIGTERM,
        signal.SIGUSR1,
        signal.SIGUSR2,
    ):
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup stays nohup
            signal.signal(number, _noted)
    # A parent's thread that blocks signals hands its mask down: the command's end would go unseen.
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    return read_end


def _noted(number: int, frame: object) -> None:
    """Do nothing: the number is on the pipe already."""


def _start(orders: _Orders) -> subprocess.Popen[bytes]:
    """Start the command and tell the parent its pid, or an errno below zero."""
    identity: dict[str, Any] = {}
    if orders.user is not None:
        identity = {"user": orders.user, "group": orders.user, "extra_groups": []}
    try:
        # close_fds=False hands on what the caller's pass_fds named; all else here is close-on-exec.
        command = subprocess.Popen(orders.command, start_new_session=True, close_fds=False, **identity)
    except OSError as exc:
        _report(orders, -(exc.errno or errno.EIO))
        sys.exit(127)
    _report(orders, command.pid)
    return command


def _report(orders: _Orders, number: int) -> None:
    with contextlib.suppress(OSError):  # a parent that is gone is found out in _watch
        os.write(orders.lifeline, b"%d\n" % number)


def _watch(command: subprocess.Popen[bytes], *, lifeline: int, wakeup: int) -> bool:
    """Pass signals on; return True when the command has ended, False when the parent has."""
    with selectors.DefaultSelector() as selector:
        selector.register(lifeline, selectors.EVENT_READ)
        selector.register(wakeup, selectors.EVENT_READ)
        while command.poll() is None:
            ready = [key.fd for key, _ in selector.select()]
            if lifeline in ready:  # the parent never writes: this is its end
                return False
            for number in os.read(wakeup, 512):
                if number != signal.SIGCHLD:
                    command.send_signal(number)
    return True


def _stop(command: subprocess.Popen[bytes], orders: _Orders) -> None:
    """Ask the command, and it alone, to end: a Celery worker lets its children finish, given the chance."""
    command.send_signal(orders.stop_signal)
    _signal_group(command.pid, signal.SIGCONT)
    try:
        command.wait(orders.grace_s)
    except subprocess.TimeoutExpired:
        _signal_group(command.pid, signal.SIGKILL)
        command.wait()


def _sweep(group: int, limit_s: float) -> None:
    """End what the command left behind in its group."""
    deadline = time.monotonic() + limit_s
    _signal_group(group, signal.SIGTERM)
    while _signal_group(group, 0):
        if time.monotonic() > deadline:
            _signal_group(group, signal.SIGKILL)
            return
        time.sleep(0.01)


def _signal_group(group: int, number: int) -> bool:
    """Signal a process group; False when nobody is left in it (macOS refuses when only zombies are)."""
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def _exit_like(returncode: int) -> None:
    if returncode >= 0:
        sys.exit(returncode)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # the command has dumped core, if any was to be dumped
    with contextlib.suppress(OSError):  # SIGKILL needs no default
        signal.signal(-returncode, signal.SIG_DFL)
    os.kill(os.getpid(), -returncode)


if __name__ == "__main__":
    main(sys.argv[1:])
