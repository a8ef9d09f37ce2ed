"""Slices on their way from napari's slicing thread to the canvas.

napari brings them over by superqt's ``ensure_main_thread``, which makes a Qt connection in the slicing thread for each
slice. The connection ends there too: PySide then holds Qt's lock of connections and waits for Python's lock, while
the interface thread, which holds Python's, waits for Qt's whenever it connects anything, as every new form does. Both
wait for ever (seen with PySide6 6.11, napari 0.9.2; with Qt's mutex pool any two objects can share a lock). Here the
slicing thread touches no Qt at all: it leaves the slices in a queue and wakes the interface thread through a socket.
"""

from __future__ import annotations

import contextlib
import socket
from collections import deque
from typing import Any

from napari.qt import QtViewer
from qtpy.QtCore import QSocketNotifier


class SliceRelay:
    """Takes the place of napari's own connection for ``pane``; :meth:`close` it after the slicing thread has ended."""

    def __init__(self, pane: QtViewer) -> None:
        self._pane = pane
        self._waiting: deque[Any] = deque()
        self._here, self._there = socket.socketpair()
        for end in (self._here, self._there):
            end.setblocking(False)
        self._notifier = QSocketNotifier(self._here.fileno(), QSocketNotifier.Type.Read, pane)
        self._notifier.activated.connect(lambda *_: self.deliver())
        ready = pane.viewer._layer_slicer.events.ready
        ready.disconnect(pane._on_slice_ready)
        ready.connect(self.take)

    def take(self, event: Any) -> None:
        """In the slicing thread (or, where slicing is synchronous, in the interface thread)."""
        self._waiting.append(event)
        with contextlib.suppress(BlockingIOError):  # full: it is being woken already
            self._there.send(b"\0")

    def deliver(self) -> None:
        """In the interface thread: what has arrived goes to the canvas."""
        with contextlib.suppress(BlockingIOError):
            self._here.recv(4096)
        while self._waiting:
            self._pane._on_slice_ready(self._waiting.popleft())

    def close(self) -> None:
        self._notifier.setEnabled(False)
        self._waiting.clear()
        self._here.close()
        self._there.close()
