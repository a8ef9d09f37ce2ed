"""X-ray to EM by the window alone: both linked, uncertainty over EM, the slider of trust, the plot, the line between them."""

from __future__ import annotations

import numpy as np
import pytest
from qtpy.QtCore import Qt
from tiny_xray import MODEL, write_model, write_xray

WAIT = 120_000  # ms; processes start slowly on a busy machine
PARTS = ["EM", "Uncertainty", "Left open by the scan", "Unknown to the model", "Not trusted"]


@pytest.fixture
def xray(tmp_path, monkeypatch):
    monkeypatch.setenv("CONNECTOSCOPE_MODELS", str(tmp_path / "models"))
    write_model(tmp_path / "models")
    write_xray(tmp_path / "xray.ome.zarr")
    return tmp_path / "xray.ome.zarr"


def middle(pane):
    """Red, green and blue in the middle of what a pane shows."""
    picture = pane.canvas.screenshot()
    return picture.pixelColor(picture.width() // 2, picture.height() // 2).getRgb()[:3]


def is_bluish(colour):
    red, _, blue = colour
    return blue > red + 20


@pytest.mark.timeout(240)
def test_from_xray_to_what_is_trusted(make_window, qtbot, xray, tmp_path):
    window = make_window()
    window.open_volume(str(xray))
    qtbot.waitUntil(lambda: len(window.viewer.layers) == 1, timeout=WAIT)
    window.commands.trigger(window.commands.find("Reconstruct", "X-ray to EM"))
    assert window.task_panel.preview_button.isHidden()
    form = window.task_panel.form
    form.set_values({"model": MODEL})
    out = form.values()["destination"]
    window.commands.trigger(window.commands.find("Tools", "Run Task"))
    qtbot.waitUntil(lambda: window.jobs.model.rowCount() == 1, timeout=WAIT)
    watcher = window.jobs.model.watcher(0)
    qtbot.waitUntil(lambda: not watcher.running, timeout=WAIT)
    assert watcher.state.status == "done", watcher.state.message

    qtbot.waitUntil(lambda: len(window.panes.models) == 2, timeout=WAIT)
    left, right = window.panes.models
    qtbot.waitUntil(lambda: len(right.layers) == 6, timeout=WAIT)
    assert [layer.name for layer in right.layers] == ["X-ray · xray", *PARTS]
    assert [layer.name for layer in left.layers] == ["xray"]
    assert window.viewer is right
    assert right.layers.selection.active.name == "EM"
    assert (
        window.results._viewer_of(watcher.folder) is left
    )  # what else is made of the X-ray volume lies on it
    seen, em = left.layers[0], right.layers["EM"]
    edges = [layer.extent.world + np.outer((-0.5, 0.5), layer.scale) for layer in (seen, em)]
    np.testing.assert_allclose(edges[1], edges[0])  # voxels of 10 nm fill those of 30 nm
    assert tuple(em.scale) == (10, 10, 10)

    left.dims.set_point(0, 420.0)
    assert right.dims.point[0] == 420.0
    right.scene.camera.center = (0.0, 500.0, 600.0)
    right.scene.camera.zoom = 1.5
    assert left.scene.camera.center == (0.0, 500.0, 600.0)
    assert left.scene.camera.zoom == 1.5

    trust, pane = window.comparison.trust, window.panes.active
    qtbot.waitUntil(trust.isVisible, timeout=WAIT)
    assert trust.said.text() == "everything is shown"
    total = np.asarray(right.layers["Uncertainty"].data[2:5])
    aleatoric, epistemic = (np.asarray(right.layers[name].data[2:5]) for name in PARTS[2:4])
    np.testing.assert_allclose(total, np.hypot(aleatoric.astype(float), epistemic), rtol=1e-3)
    qtbot.waitUntil(lambda: middle(pane)[0] > middle(pane)[2] + 20, timeout=WAIT)  # warm: uncertain
    qtbot.keyClick(trust.slider, Qt.Key.Key_Home)  # trusts nothing
    qtbot.waitUntil(lambda: is_bluish(middle(pane)), timeout=WAIT)
    assert trust.said.text() == "sd up to 0.000"
    qtbot.keyClick(trust.slider, Qt.Key.Key_End)
    qtbot.waitUntil(lambda: not is_bluish(middle(pane)), timeout=WAIT)
    trust.overlay.setCurrentText("No colours")
    trust.overlay.activated.emit(3)
    qtbot.waitUntil(lambda: len(set(middle(pane))) == 1, timeout=WAIT)  # EM alone is grey

    qtbot.mouseClick(trust.plot_button, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(window.plots.view.isVisible, timeout=WAIT)
    assert window.plots.view.plot.series[MODEL] == [(0, 0), (0.2, 0.25), (0.5, 0.5), (0.8, 0.75), (1, 1)]

    field = left.canvas.size[1] / left.scene.camera.zoom
    qtbot.mouseClick(window.comparison.swipe_button, Qt.MouseButton.LeftButton)
    panes = [slot.pane for slot in window.panes._slots]
    corners = [one.mapToGlobal(one.rect().topLeft()) for one in panes]
    assert corners[0] == corners[1]
    assert panes[0].size() == panes[1].size()
    qtbot.waitUntil(lambda: left.canvas.size[1] / left.scene.camera.zoom == pytest.approx(field, rel=0.05))
    window.commands.trigger(window.commands.find("View", "Swipe"))
    assert panes[0].width() < 0.6 * window.panes.width()

    window.commands.trigger(window.commands.find("Segment", "Membranes"))
    values = window.task_panel.form.values()
    assert (values["source"], values["channel"]) == (out, "0")
    qtbot.mouseClick(panes[0].canvas.native, Qt.MouseButton.LeftButton)
    assert window.viewer is left
    window.commands.trigger(window.commands.find("Segment", "Membranes"))
    assert window.task_panel.form.values()["source"] == str(xray)

    qtbot.mouseClick(panes[1].canvas.native, Qt.MouseButton.LeftButton)
    window.commands.trigger(window.commands.find("Segment", "Membranes"))
    window.task_panel.form.set_values({"threshold": 99})
    for name in PARTS:  # the comparison ends: the form goes on with what is left
        right.layers.remove(name)
    qtbot.waitUntil(lambda: not right.layers, timeout=WAIT)
    values = window.task_panel.form.values()
    assert (values["source"], values["threshold"]) == (str(xray), 99)

    window.commands.trigger(window.commands.find("File", "Close Volumes"))
    assert window.viewer is left
    assert not trust.isVisible()
    window.open_volume(out)  # days later: the X-ray volume comes along
    qtbot.waitUntil(lambda: len(right.layers) == 6 and len(left.layers) == 1, timeout=WAIT)
    assert trust.isVisible()
    assert out in window.settings.recent
