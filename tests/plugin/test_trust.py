"""In plain napari: a real reconstruction by the widget of the manifest, its layers, the slider of trust, the plot."""

from __future__ import annotations

import numpy as np
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QApplication, QPushButton, QVBoxLayout, QWidget
from showing import add_result
from tiny_xray import MODEL, write_model, write_xray

from napari_connectoscope.trust_panel import TrustPanel

WAIT = 90_000  # ms


def test_a_narrow_panel_cuts_nothing(qtbot, viewer):
    panel = TrustPanel(viewer)
    panel.rows.addWidget(QPushButton("Swipe"), 1, 3)  # as the window does
    host = QWidget()
    qtbot.addWidget(host)
    QVBoxLayout(host).addWidget(panel)
    host.layout().setContentsMargins(0, 0, 0, 0)
    host.show()
    for width, places in ((800, [(0, 3), (1, 2), (1, 3)]), (460, [(1, 1), (3, 0), (3, 1)])) * 2:
        host.resize(width, 150)
        QApplication.processEvents()
        assert panel.width() == width
        items = [panel.rows.itemAt(i) for i in range(panel.rows.count())]
        assert all(item.geometry().width() >= item.minimumSize().width() for item in items)
        at = {item.widget(): panel.rows.getItemPosition(i)[:2] for i, item in enumerate(items)}
        swipe = items[-1].widget()
        assert [at[panel.plot_button], at[panel.said], at[swipe]] == places
        assert panel.slider.geometry().left() == panel.colours.geometry().left()


def test_an_image_from_convert_is_no_reconstruction(qtbot, viewer, volume_path):
    panel = TrustPanel(viewer)
    qtbot.addWidget(panel)
    add_result(viewer, {"kind": "image", "path": str(volume_path), "name": "cell"})
    assert not panel.isEnabled()


def test_reconstruct_in_napari(make_napari_viewer, qtbot, tmp_path, monkeypatch):
    monkeypatch.setenv("CONNECTOSCOPE_MODELS", str(tmp_path / "models"))
    write_model(tmp_path / "models")
    path = tmp_path / "xray.ome.zarr"
    write_xray(path)
    viewer = make_napari_viewer()
    (xray,) = viewer.open(str(path), plugin="connectoscope")
    _, panel = viewer.window.add_plugin_dock_widget("connectoscope", "X-ray to EM")
    panel.form.set_values({"model": MODEL})
    with qtbot.waitSignal(panel.ended, timeout=WAIT) as ended:
        panel.run_button.click()
    assert ended.args[0].status == "done", ended.args[0].message
    qtbot.waitUntil(lambda: len(viewer.layers) == 6, timeout=WAIT)
    qtbot.waitUntil(lambda: panel.trust is not None, timeout=WAIT)
    em, cover, trust = viewer.layers["EM"], viewer.layers["Not trusted"], panel.trust
    np.testing.assert_allclose(em.extent.world[0] - em.scale / 2, xray.extent.world[0] - xray.scale / 2)
    assert not cover.visible
    qtbot.keyClick(trust.slider, Qt.Key.Key_Home)
    assert cover.visible
    viewer.layers["Uncertainty"].visible = False
    assert trust.overlay.currentText() == "No colours"
    trust.plot_button.click()
    assert "Reliability on simulated scans" in viewer.window.dock_widgets

    made = panel.form.values()["destination"]  # proposed for the layer, with which it goes
    viewer.layers.clear()
    assert not trust.isEnabled()
    viewer.open(made, plugin="connectoscope")
    assert len(viewer.layers) == 5
    assert trust.isEnabled()
    panel.close_worker()
