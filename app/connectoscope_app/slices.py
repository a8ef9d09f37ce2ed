"""Slices on their way from napari's slicing thread to the canvas.

napari brings them over by superqt's ``ensure_main_thread``, which makes a Qt connection in the slicing thread for each
slice. The connection ends there too: PySide then holds Qt's lock of connections and waits for Python's lock, while
the interface thread, which holds Python's, waits for Qt's whenever it connects anything, as every new form does. Both
wait for ever (seen with PySide6 6.11, napari 0.9.2; with Qt's mutex pool any two objects can share a lock). Here the
slicing thread touches no Qt at all: it leaves the slices in a queue and wakes the interface thread through a socket.

A section that cannot be read (a server that has gone, a damaged chunk) is shown empty, with a line for people: napari
would tell of the error from the slicing thread and leave the section before standing at the new place.
"""

from __future__ import annotations

import contextlib
import socket
from collections import deque
from collections.abc import Callable
from typing import Any
from weakref import ReferenceType, WeakKeyDictionary

from napari.layers import Layer
from napari.layers._scalar_field._slice import _ScalarFieldSliceRequest, _ScalarFieldSliceResponse
from napari.qt import QtViewer
from qtpy.QtCore import QSocketNotifier

from connectoscope.volumes.stores import doubt, first_line
from napari_connectoscope.sources import source_of

_Requests = dict[ReferenceType[Layer], Any]


class SliceRelay:
    """Takes the place of napari's own connection for ``pane``; :meth:`close` it after the slicing thread has ended.

    Args:
        told: Called when a layer begins to be unreadable, with one line, which also stands in the canvas while it is
            so, and the store's own words.
    """

    def __init__(self, pane: QtViewer, told: Callable[[str, str], None]) -> None:
        self._pane, self._told = pane, told
        self._waiting: deque[Any] = deque()
        self._read: deque[tuple[ReferenceType[Layer], Exception | None]] = (
            deque()
        )  # layers, and why they could not be read
        self._unreadable: WeakKeyDictionary[Layer, str] = WeakKeyDictionary()
        self._here, self._there = socket.socketpair()
        for end in (self._here, self._there):
            end.setblocking(False)
        self._notifier = QSocketNotifier(self._here.fileno(), QSocketNotifier.Type.Read, pane)
        self._notifier.activated.connect(lambda *_: self.deliver())
        pane.viewer.layers.events.removed.connect(self._show)
        self._slicer = pane.viewer._layer_slicer
        self._slicer._slice_layers = self.slice
        self._slicer.events.ready.disconnect(pane._on_slice_ready)
        self._slicer.events.ready.connect(self.take)

    def slice(self, requests: _Requests) -> _Requests:
        """In the slicing thread: the slices asked for, by layer."""
        slices = {}
        for layer, request in requests.items():
            problem = None
            try:
                slices[layer] = request()
            except (ValueError, OSError) as error:  # a store's words for what it cannot give
                if not isinstance(request, _ScalarFieldSliceRequest):
                    raise
                slices[layer] = _empty(request)
                problem = error.with_traceback(None)  # which would hold the layers
            self._read.append((layer, problem))
        self._slicer.events.ready(value=slices)
        return slices

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
        while self._read:
            reference, problem = self._read.popleft()
            if (layer := reference()) is not None:
                self._note(layer, problem)

    def _note(self, layer: Layer, problem: Exception | None) -> None:
        known = self._unreadable.pop(layer, "")
        if problem is not None:
            why = doubt(source_of(layer) or "", problem)
            self._unreadable[layer] = known or f"{layer.name} cannot be read here ({why})"
            if not known:
                self._told(self._unreadable[layer], first_line(problem))
        self._show()

    def _show(self, _event: object = None) -> None:
        overlay = self._pane.viewer.canvas.overlays.text
        here = [line for layer, line in self._unreadable.items() if layer in self._pane.viewer.layers]
        if overlay.text != "\n".join(here):
            overlay.position = "top_center"
            overlay.text = "\n".join(here)
            overlay.visible = bool(here)

    def close(self) -> None:
        self._notifier.setEnabled(False)
        self._waiting.clear()
        self._here.close()
        self._there.close()


def _empty(request: _ScalarFieldSliceRequest) -> _ScalarFieldSliceResponse:
    """What napari itself shows beside a layer."""
    return _ScalarFieldSliceResponse.make_empty(
        slice_input=request.slice_input, rgb=request.rgb, request_id=request.id, dtype=request.dtype
    )
