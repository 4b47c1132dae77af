"""The process that warm processes are forked from: it has imported what the command line imports, and done no more.

It is given a socket. Each packet on it, after its length, asks for one process: `python -m MODULE ARGUMENTS`, its
folder, its environment, its three standard streams, and a socket to tell its id and its end by. Between the two stands
a fork that only waits: it is the parent, as the process that asks cannot be, and ends what is left when nobody listens
for the end any more.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import sys
import threading
import traceback
from typing import Any, NoReturn

IMPORTED = (
    "headwater.cli.main",
    "headwater.cli.serve",
    "headwater.console.serving",
    "headwater.engines",
    "headwater.engines.sqlite.engine",
    "headwater.loading",
    "headwater.objects",
    "headwater.runtime.admin",
    "headwater.runtime.server",
    "headwater.testing",
    "httpx",
    "uvloop",
)


def main() -> None:
    """Serve until nobody asks any more; each process that is asked for ends in here."""
    for name in IMPORTED:
        importlib.import_module(name)
    assert threading.active_count() == 1, "a process with threads must not be forked"
    gc.collect()
    gc.freeze()
    asked = socket.socket(fileno=int(sys.argv[1]))
    asked.set_inheritable(False)
    while True:
        length, handles, _, _ = socket.recv_fds(asked, 4, 4)
        if not length:
            return
        packet = asked.recv(int.from_bytes(length, "big"), socket.MSG_WAITALL)
        if not os.fork():
            break
        for handle in handles:
            os.close(handle)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
    asked.close()
    wanted = json.loads(packet)
    if _stand_between(wanted, handles):
        _become(wanted, handles[:3])
        _end(_run(wanted["module"]))


def _stand_between(wanted: dict[str, Any], handles: list[int]) -> bool:
    """True in the process that is wanted. The one that waits for it does not return."""
    changed, change = os.pipe()
    os.set_blocking(change, False)
    signal.set_wakeup_fd(change)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    child = os.fork()
    if not child:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for handle in (changed, change, handles[3]):
            os.close(handle)
        return True
    for handle in handles[:3]:
        os.close(handle)
    if wanted["group"]:
        os.setpgid(child, child)
    listener = socket.socket(fileno=handles[3])
    with contextlib.suppress(OSError):
        listener.sendall(f"{child}\n".encode())
    status = _wait(child, changed, handles[3])
    with contextlib.suppress(OSError):
        listener.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())
    os._exit(0)


def _wait(child: int, changed: int, listener: int) -> int:
    """Its status at its end; to be stopped is none."""
    while True:
        ready, _, _ = select.select([changed, listener], [], [])
        if listener in ready:
            os.kill(child, signal.SIGKILL)
            return os.waitpid(child, 0)[1]
        os.read(changed, 4096)
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return status


def _become(wanted: dict[str, Any], streams: list[int]) -> None:
    """What the interpreter does at its start. `sys.stdout` and its like stay: not used yet, and no terminals."""
    for number, handle in enumerate(streams):
        os.dup2(handle, number)
        os.close(handle)
    os.chdir(wanted["folder"])
    os.environ.clear()
    os.environ.update(wanted["environment"])
    sys.argv = [sys.argv[0], *wanted["arguments"]]
    sys.path[0] = wanted["folder"]


def _run(module: str) -> int:
    """Its exit code, as `python -m` has it."""
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as ended:
        if isinstance(ended.code, str):
            print(ended.code, file=sys.stderr)
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def _end(code: int) -> NoReturn:
    """As the interpreter does, but for taking itself apart: that would copy all the memory that is shared."""
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(BrokenPipeError):
            stream.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
