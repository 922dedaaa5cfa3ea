"""Runs a command so that it cannot outlive the process that started it: `watchdog.py FD SECONDS COMMAND…`, FD = a pipe's read end.

The caller holds the pipe's write end. A forked guard, outside the command's group, waits on it: a byte means the command is
over, end of file means the caller died, even by kill -9, and the guard ends the group: TERM, SECONDS, KILL. The command
takes this process's place, so the caller sees its real pid and exit code. (The kernel's parent-death signal will not do: it fires
when the *thread* that started the child ends.) Runs as a plain file with `python -I -S`: keep its imports few.
"""

import os
import signal
import sys
import time

POLL_S = 0.05


def guard(pipe: int, group: int, wait_s: float) -> None:
    """Wait for the caller's word or its death."""
    os.setsid()
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    if os.read(pipe, 1):
        return
    try:
        os.killpg(group, signal.SIGTERM)
        end = time.monotonic() + wait_s
        while time.monotonic() < end:
            time.sleep(POLL_S)
            os.killpg(group, 0)
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        return


def main() -> None:
    """Fork the guard, become the command."""
    pipe, wait_s, command = int(sys.argv[1]), float(sys.argv[2]), sys.argv[3:]
    group = os.getpid()
    if os.fork() == 0:
        guard(pipe, group, wait_s)
        os._exit(0)
    os.close(pipe)
    os.execvp(command[0], command)


if __name__ == "__main__":
    main()
