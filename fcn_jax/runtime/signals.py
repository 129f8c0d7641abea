"""SIGINT and SIGTERM as a wish, granted between two steps; a second one is an order."""

import contextlib
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextlib.contextmanager
def noticed(at_once: Callable[[], object] = lambda: None) -> Iterator[Callable[[], bool]]:
    """Give a function that says whether a signal has come; elsewhere than here they do as before.

    Python runs its handlers between two of its own instructions, and a step, or the compilation of
    one, is a single instruction. So a thread listens too: it answers the first signal with a line
    at once, and ends the process at the second, whatever that is busy with.

    Args:
      at_once: called by the thread at the first signal; may end the process, if that costs nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False  # only the main thread may handle signals
        return
    asked: list[int] = []
    listener, sender = socket.socketpair()
    sender.setblocking(False)
    watch = threading.Thread(target=_watch, args=(listener, at_once), name="signals", daemon=True)
    watch.start()
    former = signal.set_wakeup_fd(sender.fileno(), warn_on_full_buffer=False)
    before = {s: signal.signal(s, lambda number, _: asked.append(number)) for s in SIGNALS}
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(former)
        sender.close()
        watch.join()
        listener.close()


def _watch(listener: socket.socket, at_once: Callable[[], object]) -> None:
    """Read the numbers of the signals as they come, until the other end is closed."""
    seen = 0
    while byte := listener.recv(1):
        if byte[0] not in SIGNALS:
            continue
        if seen:
            os._exit(128 + byte[0])
        seen += 1
        try:
            at_once()
        except OSError:  # nobody can be told
            os._exit(1)
        print(
            "\nfinishing the step, then saving (again to stop at once)", file=sys.stderr, flush=True
        )
