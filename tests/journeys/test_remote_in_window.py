"""A volume on a server, through the window: opened by its address, slow, gone while it is looked at, and segmented."""

from __future__ import annotations

import re
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from eight_blocks import ledger, make_volume, same
from qtpy.QtCore import QPointF, Qt
from qtpy.QtGui import QGuiApplication, QMouseEvent
from test_first_journey import Gaps, choose_synapses, start

from connectoscope.volumes import ImageSpec, create_image, open_volume
from connectoscope.volumes.geometry import Box
from connectoscope_app.dialogs import UrlDialog

WAIT = 60_000  # ms; a limit, not a pause
SHAPE, CHUNKS = (48, 1024, 1024), (8, 128, 128)
NOTHING, ALL = "$^", ""
DELAY = 0.5  # seconds before each answer of a slow server


class Server(ThreadingHTTPServer):
    """Serves a folder.

    Attributes:
        delay: Seconds before each answer.
        gone: What of the paths it hangs up on instead of answering.
    """

    daemon_threads = True
    delay, gone = 0.0, NOTHING

    def __init__(self, folder) -> None:
        super().__init__(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
        self.ended = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:
        if re.search(self.server.gone, self.path):
            self.close_connection = True
            return
        self.server.ended.wait(self.server.delay)
        super().do_GET()

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server(tmp_path):
    (tmp_path / "web").mkdir()
    made = Server(tmp_path / "web")
    thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield made
    made.ended.set()
    made.shutdown()
    made.server_close()
    thread.join()


@pytest.fixture
def pixels(tmp_path, server):
    """A volume of two levels on the server: every section is its number."""
    planes = np.arange(1, SHAPE[0] + 1, dtype=np.uint8)[:, None, None]
    spec = ImageSpec(
        SHAPE,
        np.dtype("u1"),
        (40.0, 4.0, 4.0),
        (0, 0, 0),
        "nanometer",
        CHUNKS,
        factors=((1, 1, 1), (1, 2, 2)),
    )
    fine, coarse = create_image(tmp_path / "web" / "a.ome.zarr", spec)
    fine.write(np.broadcast_to(planes, SHAPE)).result()
    coarse.write(np.broadcast_to(planes, coarse.shape)).result()
    return f"{server.url}/a.ome.zarr"


def open_url(window, qtbot, url):
    QGuiApplication.clipboard().setText(url)
    window.commands.trigger(window.commands.find("File", "Open URL…"))
    (dialog,) = window.findChildren(UrlDialog)
    assert dialog.address.text() == url  # what was copied is proposed
    dialog.accept()
    qtbot.waitUntil(lambda: bool(window.viewer.layers) or window.error_dialog is not None, timeout=WAIT)
    assert window.error_dialog is None, window.error_dialog.line.text()
    return window.viewer.layers[0]


def go_to(window, qtbot, layer, plane):
    window.viewer.dims.set_point(0, 40.0 * plane)
    qtbot.waitUntil(lambda: showing(layer) == {plane + 1}, timeout=WAIT)


def showing(layer):
    return set(np.unique(layer._slice.image.raw).tolist())


def test_the_window_stays_awake_while_a_store_is_slow(
    make_window, qtbot, server, pixels, record_testsuite_property
):
    window = make_window()
    server.delay = DELAY
    gaps = Gaps(window)
    layer = open_url(window, qtbot, pixels)
    opening = gaps.stop()
    qtbot.waitUntil(lambda: showing(layer) == {SHAPE[0] // 2 + 1}, timeout=WAIT)
    gaps = Gaps(window)
    canvas = window.panes.active.canvas.native
    for plane in range(30, 46):  # as fast as a wheel is turned
        window.viewer.dims.set_point(0, 40.0 * plane)
        place = QPointF(100 + 4 * plane, 120)
        QGuiApplication.sendEvent(
            canvas,
            QMouseEvent(
                QMouseEvent.Type.MouseMove, place, canvas.mapToGlobal(place), Qt.MouseButton.NoButton,
                Qt.MouseButton.NoButton, Qt.KeyboardModifier.NoModifier,
            ),
        )  # fmt: skip
        assert "z" in window.place.position.text()
        qtbot.wait(20)
    window.viewer.layers.selection.active = None
    window.viewer.layers.selection.active = layer  # the browser describes it again
    qtbot.waitUntil(lambda: showing(layer) == {46}, timeout=WAIT)
    scrolling = gaps.stop()
    record_testsuite_property(
        "slow_store_gaps_ms", f"opening {opening[1]:.0f}, scrolling {scrolling[1]:.0f} (longest)"
    )
    assert scrolling[0] < 1000 * DELAY  # 99 % of the gaps: nobody waits for the store


def test_a_server_that_goes_away_is_told_and_the_window_goes_on(make_window, qtbot, server, pixels, capfd):
    window = make_window()
    layer = open_url(window, qtbot, pixels)
    qtbot.waitUntil(lambda: showing(layer) == {SHAPE[0] // 2 + 1}, timeout=WAIT)
    server.gone = ALL
    overlay = window.viewer.canvas.overlays.text
    window.viewer.dims.set_point(0, 40.0 * 3)
    qtbot.waitUntil(lambda: overlay.visible, timeout=WAIT)
    assert overlay.text == "a cannot be read here (is the connection gone?)"
    assert window.statusBar().currentMessage().startswith(overlay.text)
    assert showing(layer) == {0}  # not the section before
    assert window.error_dialog is None
    go_to(window, qtbot, layer, SHAPE[0] // 2)  # it is kept
    assert not overlay.visible
    window.viewer.dims.set_point(0, 40.0 * 3)
    qtbot.waitUntil(lambda: overlay.visible, timeout=WAIT)
    server.gone = NOTHING
    go_to(window, qtbot, layer, 4)
    assert not overlay.visible
    server.gone = ALL
    window.open_volume(f"{server.url}/b.ome.zarr")
    qtbot.waitUntil(lambda: window.error_dialog is not None, timeout=WAIT)
    assert "check the address and the connection" in window.error_dialog.line.text()
    window.error_dialog.close()
    assert window.settings.recent == (pixels,)
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.timeout(120)
def test_a_remote_volume_is_segmented(make_window, qtbot, server, tmp_path, small_model):
    make_volume(tmp_path / "web" / "tissue.ome.zarr")
    window = make_window()
    open_url(window, qtbot, f"{server.url}/tissue.ome.zarr")
    choose_synapses(window, tmp_path / "out.ome.zarr")
    window.task_panel.form.set_values({"box": "0:16,0:64,0:64"})
    watcher = start(window, qtbot)
    qtbot.waitUntil(lambda: not watcher.running, timeout=WAIT)
    assert watcher.state.status == "done", watcher.state.message
    qtbot.waitUntil(lambda: "Synapses" in window.viewer.layers, timeout=WAIT)
    assert window.viewer.layers["Synapses"].data.shape == (16, 64, 64)


@pytest.fixture
def tissue(tmp_path, server):
    """So large that statistics are of samples: nothing of a box between them is read before its blocks are.

    The voxel size is the model's: nothing is resampled.
    """
    sample = open_volume("sample:vnc")
    section = np.asarray(sample.read(Box.of(sample.shape)))[:, :512, :512]
    image = np.tile(section, (16, 2, 2))[:24]
    spec = ImageSpec(image.shape, image.dtype, (50.0, 8.0, 8.0), (0, 0, 0), "nanometer", (8, 64, 1024))
    create_image(tmp_path / "web" / "tissue.ome.zarr", spec)[0].write(image).result()
    return f"{server.url}/tissue.ome.zarr"


@pytest.mark.timeout(240)
def test_a_job_that_lost_its_server_is_paused_and_goes_on(make_window, qtbot, server, tissue, tmp_path):
    window = make_window()
    open_url(window, qtbot, tissue)
    window.commands.trigger(window.commands.find("Segment", "Membranes"))
    form = window.task_panel.form
    form.set_values({"model": "membrane-vnc", "box": "0:24,192:320,192:320"})

    def run(out):
        form.set_values({"destination": str(out)})
        watcher = start(window, qtbot)
        qtbot.waitUntil(lambda: not watcher.running, timeout=2 * WAIT)
        return watcher

    whole, out = tmp_path / "whole.ome.zarr", tmp_path / "paused.ome.zarr"
    assert run(whole).state.status == "done"
    server.gone = "/c/2/[34]/0$"  # the last of three blocks
    watcher = run(out)
    assert watcher.state.status == "paused", watcher.state.message
    assert len(ledger(out)) > 0
    row = window.jobs.model.watchers().index(watcher)
    said = window.jobs.model.index(row, 2).data()
    assert said.startswith("Paused: ")
    assert "connection" in said
    assert window.error_dialog is None
    resume = window.jobs._buttons["Resume"]
    assert resume.isEnabled()
    server.gone = NOTHING
    resume.click()
    qtbot.waitUntil(lambda: not watcher.running, timeout=2 * WAIT)
    assert watcher.state.status == "done", watcher.state.message
    assert same(whole, out)
