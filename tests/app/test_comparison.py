"""A reconstruction beside its X-ray volume: when it is closed, the form and what else was there."""

from __future__ import annotations

import numpy as np
import pytest
from napari.components import ViewerModel
from napari.layers import Image
from qtpy.QtWidgets import QApplication, QLabel

from connectoscope.volumes import ImageSpec, create_image
from connectoscope_app.comparison import Link
from napari_connectoscope.sources import layer_facts
from napari_connectoscope.trust import TITLES

WAIT = 60_000  # ms; a limit, not a pause
NM = ("nanometer",) * 3
SHAPE = (24, 120, 108)


@pytest.fixture
def right(window, qtbot, tmp_path):
    """The viewer of a reconstruction, which is shown in ``window``."""
    xray, em = tmp_path / "xray.ome.zarr", tmp_path / "em.ome.zarr"
    coarse = (8, 40, 36)
    spec = ImageSpec(coarse, np.dtype("u1"), (30.0, 30.0, 30.0), (300.0, 0.0, 60.0), "nanometer", coarse)
    create_image(xray, spec)
    calibration = {"trusted_sd": 0.2, "reliability": {"nominal": [0.5], "observed": [0.5]}}
    marks = {
        "finished": True,
        "request": {"task": "reconstruct", "parameters": {"source": str(xray)}},
        "model": {"name": "tiny"},
        "calibration": calibration,
    }
    spec = ImageSpec(
        shape=SHAPE,
        dtype=np.dtype("u1"),
        scale=(10.0, 10.0, 10.0),
        translation=(290.0, -10.0, 50.0),
        unit="nanometer",
        chunks=(8, 64, 64),
        channels=("em", "aleatoric_sd", "epistemic_sd"),
        attributes={"connectoscope": marks},
    )
    create_image(em, spec)
    window.open_volume(str(em))
    shown = 1 + len(TITLES)
    qtbot.waitUntil(
        lambda: len(window.panes.models) == 2 and len(window.panes.models[1].layers) == shown, timeout=WAIT
    )
    QApplication.processEvents()
    return window.panes.models[1]


def test_back_from_3d_both_show_the_same_plane(qapp):
    viewers = [ViewerModel(), ViewerModel()]
    for number, viewer in enumerate(viewers):
        place = {"scale": (10, 10, 10), "translate": (-10 * number, 0, 0)}
        viewer.add_image(np.zeros((30, 8, 8), np.uint8), contrast_limits=(0, 1), **place)
    Link(*viewers).begin()
    viewers[0].dims.set_point(0, 200)
    for viewer in viewers:  # from either side
        viewer.dims.ndisplay = 3
        viewer.dims.ndisplay = 2
        assert [v.dims.ndisplay for v in viewers] == [2, 2]
        assert [v.dims.point[0] for v in viewers] == [200, 200]
    for viewer in viewers:
        viewer.layers.clear()
        viewer._layer_slicer.shutdown()


def titles(window):
    return [slot.title.text() for slot in window.panes._slots]


def test_titles_say_what_is_shown(window, right):
    left = window.panes.models[0]
    assert titles(window) == ["X-ray · xray", "EM · made by tiny"]
    left.layers[0].name = "mine"
    assert titles(window)[0] == "X-ray · mine"
    left.layers.clear()
    assert titles(window)[0] == "X-ray · nothing"


def test_a_title_without_room_ends_in_dots(window, right):
    title = window.panes._slots[1].title
    title.setText("EM · made by xray2em-fill with a long name")
    title.resize(120, title.height())
    shown = QLabel.text(title)
    assert shown.endswith("…")
    room = title.contentsRect().width()
    assert title.fontMetrics().horizontalAdvance(shown) <= room


def test_another_volume_ends_the_comparison(window, qtbot, right, volume_file):
    left = window.panes.models[0]
    window.open_volume(str(volume_file))
    qtbot.waitUntil(lambda: [layer.name for layer in left.layers] == ["xray", "small"], timeout=WAIT)
    qtbot.waitUntil(lambda: not right.layers, timeout=WAIT)
    assert window.panes._slots[1].isHidden()
    assert not window.panes._slots[0].title.isVisible()
    assert window.viewer is left


def test_a_closed_comparison_does_not_come_back(window, qtbot, tmp_path, right):
    window.close_volumes()
    window.results.show_reconstruction(tmp_path / "em.ome.zarr")
    window.close_volumes()
    qtbot.wait(1500)
    assert [len(model.layers) for model in window.panes.models] == [0, 0]
    assert window.panes._slots[1].isHidden()


def close(viewer):
    """Remove the parts of the reconstruction, one by one."""
    for layer in [layer for layer in viewer.layers if layer_facts(layer).get("part") in TITLES]:
        viewer.layers.remove(layer)


def test_a_converted_image_does_not_keep_the_comparison_open(window, qtbot, right):
    facts = {"part": "image", "result": layer_facts(right.layers["EM"])["result"]}
    data = np.zeros(SHAPE, np.uint8)
    copy = Image(data, name="copy", scale=(10,) * 3, units=NM, metadata={"connectoscope": facts})
    right.add_layer(copy)
    close(right)
    qtbot.waitUntil(lambda: not right.layers, timeout=WAIT)
    assert window.panes._slots[1].isHidden()
    assert window.viewer is window.panes.models[0]


@pytest.mark.parametrize("typed", [True, False])
def test_the_form_keeps_what_was_typed(window, qtbot, tmp_path, right, typed):
    window.commands.trigger(window.commands.find("Segment", "Synapses"))
    before = window.task_panel.form
    em, other, mine = (str(tmp_path / name) for name in ("em.ome.zarr", "other.ome.zarr", "mine.ome.zarr"))
    before.set_values({"threshold": 99})
    assert before.values()["source"] == em
    if typed:
        before.set_values({"source": other, "channel": "2", "destination": mine})
    close(right)
    qtbot.waitUntil(lambda: window.task_panel.form is not before, timeout=WAIT)
    values = window.task_panel.form.values()
    assert values["threshold"] == 99
    if typed:
        assert [values[name] for name in ("source", "channel", "destination")] == [other, "2", mine]
    else:
        assert values["source"] == str(tmp_path / "xray.ome.zarr")
        assert values["destination"] == str(tmp_path / "xray-synapses.ome.zarr")


def test_all_layers_are_removed_at_once(window, qtbot, right):
    """A preview's layers, too, which go with the form: not while napari goes through the selected ones."""
    window.commands.trigger(window.commands.find("Segment", "Synapses"))
    preview = window.task_panel._controller()
    for name in ("synapses", "boundary"):
        preview._layers[name] = Image(np.zeros(SHAPE, np.uint8), name=name, scale=(10,) * 3, units=NM)
        right.add_layer(preview._layers[name])
    right.layers.select_all()
    right.layers.remove_selected()
    qtbot.waitUntil(lambda: window.task_panel._viewer is window.panes.models[0], timeout=WAIT)
    assert not right.layers
