"""SIGTERM and SIGINT as an event, from the first moment of a process on.

A signal's own handler runs in the main thread between any two of its steps, so it must take no lock: `Event.set` there
hangs for ever if the main thread was just inside `Event.wait`. The kernel's side of the handler writes to a socket
instead, whatever the main thread is stuck in, and a thread that reads it sets the event. From then on the process has
`LAST_S`, wherever it hangs.
"""

import faulthandler
import signal
import socket
import threading

#: Whatever has not ended so long after the signal shows where it hangs and is ended: before its supervisor would have
#: to kill it, and nobody knew why.
LAST_S = 10.5

_ending = False
_lock = threading.Lock()  # of faulthandler's one timer


def on_signals() -> threading.Event:
    """Set at the first SIGTERM or SIGINT, which from now on do nothing else. Once a process, by its main thread."""
    stopping = threading.Event()
    reading, writing = socket.socketpair()
    writing.setblocking(False)
    signal.set_wakeup_fd(writing.fileno(), warn_on_full_buffer=False)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    # `writing` is theirs to keep open.
    threading.Thread(target=_listen, args=(reading, writing, stopping), name="signals", daemon=True).start()
    return stopping


def _listen(reading: socket.socket, writing: socket.socket, stopping: threading.Event) -> None:
    while not {signal.SIGTERM, signal.SIGINT} & set(reading.recv(64)):
        pass
    limit()
    stopping.set()


def limit() -> None:
    """For who hears of signals in another way: `LAST_S` from now. Only the first time counts."""
    global _ending
    with _lock:
        if not _ending:
            _ending = True
            faulthandler.dump_traceback_later(LAST_S, exit=True)


def goes_on(within_s: float) -> None:
    """To be said again within this time, or the process shows where it hangs and is ended: also if no Python runs."""
    with _lock:
        if not _ending:
            faulthandler.dump_traceback_later(within_s, exit=True)
