"""Signals that mean cancel, answered while something runs."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def answered(handler: Callable[[int, FrameType | None], None], *names: str) -> Iterator[None]:
    """The signals of these names are answered so, where the main thread is asked and the system knows them.

    Who started us with nohup ignores SIGHUP, and means it: what is ignored stays so.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
    numbers = [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]
    former = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, before in former.items():
            signal.signal(number, before)
