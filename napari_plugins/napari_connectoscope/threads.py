"""Work off the interface thread, answered on it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from qtpy.compat import isalive
from qtpy.QtCore import QObject
from superqt.utils import create_worker

from connectoscope.errors import ConnectoscopeError


def one_line(error: BaseException) -> str:
    """What to tell a user of an error: our own words, what the system says of a file, or for a bug its type and first line."""
    if isinstance(error, ConnectoscopeError):
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    first = (str(error) or "no message").splitlines()[0]
    return f"unexpected {type(error).__name__}: {first} (please report it)"


def background(
    owner: QObject | None,
    function: Callable[[], Any],
    then: Callable[[Any], None],
    failed: Callable[[str], None] | None = None,
) -> None:
    """Run ``function`` in a thread, then ``then(answer)`` or ``failed(one line)`` on the interface thread.

    Nothing is called once ``owner`` is gone (None: always called).
    """

    def work() -> tuple[bool, Any]:
        try:
            return True, function()
        except Exception as error:  # the thread's border: everything becomes one line for the user
            return False, one_line(error)

    def answer(result: tuple[bool, Any]) -> None:
        good, value = result
        if owner is not None and not isalive(owner):
            return
        if good:
            then(value)
        elif failed is not None:
            failed(value)

    create_worker(work, _start_thread=True, _connect={"returned": answer})
