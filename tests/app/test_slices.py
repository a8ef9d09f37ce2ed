"""Slices reach the canvas, and the slicing thread touches no Qt on the way."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import superqt.utils._ensure_thread as ensure_thread

WAIT = 60_000  # ms; a limit, not a pause


@pytest.fixture
def qt_calls_of_threads(monkeypatch):
    """Names of threads in which superqt made a Qt object to come over to the interface thread."""
    made = []
    make = ensure_thread.CallCallable.__init__

    def noted(self, *args):
        made.append(threading.current_thread().name)
        make(self, *args)

    monkeypatch.setattr(ensure_thread.CallCallable, "__init__", noted)
    return made


def test_slices_arrive_without_qt_in_the_slicing_thread(window, qtbot, qt_calls_of_threads):
    planes = np.repeat(np.arange(8, dtype=np.uint8), 64).reshape(8, 8, 8)
    slicing = []
    window.viewer._layer_slicer.events.ready.connect(
        lambda _event: slicing.append(threading.current_thread() is not threading.main_thread())
    )
    layer = window.viewer.add_image(planes, contrast_limits=(0, 7))
    for plane in (3, 5):
        window.viewer.dims.set_point(0, plane)
        qtbot.waitUntil(lambda plane=plane: (layer._slice.image.raw == plane).all(), timeout=WAIT)
    assert any(slicing)  # it was in a thread
    assert qt_calls_of_threads == []
