"""Workers forked from one process that has imported everything: a start costs no import.

The server's standard input is a Unix socket of packets. Each packet is one byte and carries two file descriptors, a
worker's standard input and its output. It answers with JSON: ``{"ready": true}`` once, ``{"started": pid}`` to each
packet, and ``{"ended": pid, "code": code}`` when a worker has ended (negative: by that signal). At the end of its input
it ends; its workers go on.

A process can be forked so while it has no threads that computed anything and no GPU context: what is imported stays,
what is measured or allocated belongs to the worker.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import os
import select
import signal
import socket

STANDARD_INPUT = 0


def serve_forks() -> bool:
    """Fork a worker for each packet. True in each worker, with its files in place; False in the server at its end."""
    control = socket.socket(fileno=STANDARD_INPUT)
    woken, wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    _give_back_free_memory()
    _say(control, ready=True)
    while True:
        ready, _, _ = select.select([control.fileno(), woken], [], [])
        if woken in ready:
            os.read(woken, 4096)
            _reap(control)
        if control.fileno() in ready:
            packet, files, _, _ = socket.recv_fds(control, 1, 2)
            if not packet:
                return False
            pid = os.fork()
            if pid == 0:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                os.close(woken)
                os.close(wake)
                control.detach()
                _settle_in(*files)
                return True
            for file in files:
                os.close(file)
            _say(control, started=pid)


def _give_back_free_memory() -> None:
    """So that a worker's tensors lie in memory of its own, in huge pages, and not in copies of shared small ones."""
    gc.collect()
    gc.freeze()
    with contextlib.suppress(OSError, AttributeError):  # a C library without it
        ctypes.CDLL(None).malloc_trim(0)


def _settle_in(given_input: int, output: int) -> None:
    """In a new worker: a session of its own, and the files it was given in place of the server's."""
    os.setsid()
    for source, target in ((given_input, 0), (output, 1), (output, 2)):
        os.dup2(source, target)
    os.close(given_input)
    os.close(output)


def _reap(control: socket.socket) -> None:
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        _say(control, ended=pid, code=os.waitstatus_to_exitcode(status))


def _say(control: socket.socket, **message: object) -> None:
    try:
        control.send(json.dumps(message).encode())
    except OSError:  # nobody is left to hear it: the next packet read is the end
        return
