"""A task's panel in napari whose dock is closed: its worker and its hold on the viewer end with it."""

import gc
import threading
import weakref

import psutil
import pytest
from qtpy.compat import isalive
from qtpy.QtCore import QPoint, Qt
from qtpy.QtWidgets import QMainWindow

from napari_connectoscope import jobs, widgets
from napari_connectoscope.widgets import DockingPanel

WAIT = 20_000  # ms


@pytest.fixture
def docked(make_napari_viewer, small_model, pixels):
    """napari with an image, the dock of *Segment synapses*, and the panel in it."""
    viewer = make_napari_viewer()
    viewer.add_image(pixels, name="mine", scale=(40, 4, 4), units=("nm",) * 3)
    return viewer, *viewer.window.add_plugin_dock_widget("connectoscope", "Segment synapses")


def watched(viewer):
    """How many are told of new layers, and of the active one."""
    return len(viewer.layers.events.inserted.callbacks), len(viewer.layers.selection.events.active.callbacks)


def test_a_closed_dock_ends_its_worker_and_lets_the_viewer_go(make_napari_viewer, small_model, pixels, qtbot):
    viewer = make_napari_viewer()
    viewer.add_image(pixels, name="mine", scale=(40, 4, 4), units=("nm",) * 3)
    before = watched(viewer)
    dock, panel = viewer.window.add_plugin_dock_widget("connectoscope", "Segment synapses")
    panel.preview.warm_up()
    worker = psutil.Process(panel.preview._worker.processId())
    gone = weakref.ref(panel)
    assert watched(viewer) != before
    dock.destroyOnClose()  # its ✕
    qtbot.waitUntil(lambda: not isalive(panel), timeout=WAIT)
    assert not worker.is_running()
    panel = None
    gc.collect()
    viewer.add_image(pixels)  # napari forgets whom it cannot tell any more
    assert gone() is None
    assert watched(viewer) == before


def test_a_dock_that_floats_moves_or_hides_goes_on(docked, qtbot):
    viewer, dock, panel = docked
    window = viewer.window._qt_window
    panel.preview.warm_up()
    for change in (
        lambda: dock.setFloating(True),
        lambda: dock.move(QPoint(50, 60)),
        lambda: dock.setFloating(False),
        lambda: window.addDockWidget(Qt.DockWidgetArea.BottomDockWidgetArea, dock),
        dock.hide,
        dock.show,
    ):
        change()
        qtbot.wait(1)
        assert panel.preview._worker is not None
        assert not panel._undocked
    viewer.window.remove_dock_widget(dock)
    viewer.window.add_dock_widget(panel, name="once more")  # at once: it stays, too
    qtbot.wait(1)
    assert isalive(panel)
    assert not panel._undocked
    panel.close_worker()


def test_a_job_is_shown_to_its_end(docked, result_path, qtbot, monkeypatch, tmp_path):
    viewer, dock, panel = docked
    monkeypatch.setattr(jobs, "start", lambda folder: folder.events().write("submitted"))
    panel.form.set_values({"destination": str(tmp_path / "out.ome.zarr")})
    with qtbot.waitSignal(panel.submitted, timeout=WAIT) as submitted:
        panel.run_button.click()
    events = submitted.args[0].events()
    dock.destroyOnClose()
    events.write("started")
    events.write(
        "result", kind="image", path=str(result_path), name="cell", channels=["synapses", "boundary"]
    )
    events.write("finished", exit_code=0, summary={})
    qtbot.waitUntil(lambda: len(viewer.layers) == 3, timeout=WAIT)
    qtbot.waitUntil(lambda: not isalive(panel), timeout=WAIT)


@pytest.mark.parametrize(
    ("end", "said"),
    [
        ({"type": "error", "message": "no room: see --box", "exit_code": 2}, "Failed: no room: see Box"),
        ({"type": "finished", "exit_code": 0, "summary": {"warnings": ["see --box"]}}, "⚠ see Box"),
    ],
)
def test_how_a_job_ended_after_its_dock_was_closed_is_told(docked, qtbot, monkeypatch, tmp_path, end, said):
    _, dock, panel = docked
    monkeypatch.setattr(jobs, "start", lambda folder: folder.events().write("submitted"))
    told = []
    for tell in ("show_error", "show_warning"):
        monkeypatch.setattr(widgets, tell, told.append)
    panel.form.set_values({"destination": str(tmp_path / "out.ome.zarr")})
    with qtbot.waitSignal(panel.submitted, timeout=WAIT) as submitted:
        panel.run_button.click()
    dock.destroyOnClose()
    submitted.args[0].events().write(**end)
    qtbot.waitUntil(lambda: not isalive(panel), timeout=WAIT)
    assert [text.splitlines()[-1] for text in told] == [said]


def test_a_table_is_read_beside_the_window(docked, qtbot, tmp_path, monkeypatch):
    viewer, _, panel = docked
    path = tmp_path / "synapses.csv"
    path.write_text("id,z,y,x,unit\n1,0,0,0,nanometer\n")
    threads = []
    read = widgets.read_table
    monkeypatch.setattr(
        widgets, "read_table", lambda place: threads.append(threading.current_thread()) or read(place)
    )
    panel.table_made.emit(str(path))
    qtbot.waitUntil(lambda: "1 object · synapses" in viewer.window.dock_widgets, timeout=WAIT)
    table = viewer.window.dock_widgets["1 object · synapses"]
    path.write_text(path.read_text() + "2,0,0,0,nanometer\n")
    panel.table_made.emit(str(path))
    qtbot.waitUntil(lambda: table.model.rowCount() == 2, timeout=WAIT)
    assert threading.main_thread() not in threads
    assert not panel.is_busy
    panel.table_made.emit(str(tmp_path / "none.csv"))
    qtbot.waitUntil(lambda: "cannot be read" in panel.form.error_text, timeout=WAIT)
    assert not panel.is_busy


@pytest.mark.parametrize("when", ["at once", "copied", "asked"])
def test_a_preview_goes_with_its_window(qtbot, viewer, pixels, small_model, monkeypatch, capfd, when):
    """Its worker ends, and no folder of it stays."""
    viewer.canvas.size = (200, 200)
    viewer.add_image(pixels, name="mine", scale=(40, 4, 4), units=("nm",) * 3)
    made = []
    create = jobs.create_of_copy

    def create_noted(*args):
        folder, path = create(*args)
        made.append(folder)
        return folder, path

    monkeypatch.setattr(jobs, "create_of_copy", create_noted)
    window = QMainWindow()
    panel = DockingPanel(viewer, "segment", {"target": ("synapses",)})
    window.setCentralWidget(panel)
    panel._run_preview()
    assert panel.form.error_text == ""
    worker = psutil.Process(panel.preview._worker.processId())
    if when == "copied":
        qtbot.waitUntil(lambda: bool(made), timeout=WAIT)
    elif when == "asked":
        qtbot.waitUntil(lambda: panel.preview._watcher is not None, timeout=WAIT)
    window.deleteLater()
    qtbot.waitUntil(lambda: not isalive(panel), timeout=WAIT)
    assert not worker.is_running()
    qtbot.waitUntil(lambda: bool(made) and not made[0].path.exists(), timeout=WAIT)
    assert "Traceback" not in capfd.readouterr().err
