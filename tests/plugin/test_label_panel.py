"""Patches in plain napari: frames, labels that are saved as they are painted, undo, ticks, several outputs."""

from __future__ import annotations

import numpy as np
import pytest
from app_model.types import KeyBinding, KeyCode, KeyMod
from qtpy.compat import isalive
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QDockWidget, QLabel, QMainWindow, QMessageBox
from showing import add_volume

from connectoscope.adaptation.labelling import DONE, Labelling, labels_folder, write_labels
from connectoscope.adaptation.patches import Patch, PatchFile, PatchSource, read_patches
from connectoscope.volumes import open_volume
from napari_connectoscope.label_panel import LabelPanel
from napari_connectoscope.patch_layers import DONE as GREEN
from napari_connectoscope.patch_layers import colour_frames, frames_layer

WAIT = 20_000  # ms
BOXES = ("2:6,0:32,0:32", "2:6,40:72,40:72", "6:10,40:72,8:40")


@pytest.fixture
def patches(tmp_path, volume_path):
    """A file of three patches of the volume, with labels to begin with: 1 everywhere in the first plane."""

    def make(outputs=("boundary",), **more):
        level = open_volume(volume_path).levels[0]
        found = []
        for number, text in enumerate(BOXES, 1):
            patch = Patch(id=f"patch{number}", box=text)
            faces = {
                name: tuple(
                    t + (i - 0.5) * s for t, i, s in zip(level.translation, at, level.scale, strict=True)
                )
                for name, at in (("start", patch.voxels.start), ("stop", patch.voxels.stop))
            }
            found.append(patch.model_copy(update={"world": faces}))
        source = PatchSource(
            name="cell", path=str(volume_path), shape=level.shape, voxel_size=level.scale, unit="nanometer"
        )
        file = PatchFile(
            schema=1, source=source, outputs=outputs, patches=tuple(found), model={"name": "m"}, **more
        )
        path = tmp_path / "cell.patches.json"
        path.write_text(file.model_dump_json(by_alias=True))
        start = np.zeros((4, 32, 32), np.uint8)
        start[0] = 1
        for output in outputs:
            place = labels_folder(path) / (output if len(outputs) > 1 else "")
            for patch in found:
                write_labels(place / f"{patch.id}.tif", start, source)
        return path

    return make


@pytest.fixture
def panel(qtbot, viewer):
    made = LabelPanel(viewer)
    qtbot.addWidget(made, before_close_func=lambda widget: widget.close_session())
    return made


def on_disk(panel, patch, output="boundary"):
    labelling = Labelling(panel.labelling.path)
    return labelling.read(output, next(p for p in labelling.file.patches if p.id == patch))


def press(viewer, key):
    next(act for bound, act in viewer.keymap.items() if bound == KeyBinding.from_int(key))(viewer)


def stroke(layer, at, value=1):
    layer.data_setitem(tuple(np.array([i]) for i in at), value)


def test_labels_lie_where_their_patches_are(panel, viewer, volume_path, patches):
    image = add_volume(viewer, open_volume(volume_path))
    panel.open(patches())
    assert [layer.name for layer in viewer.layers] == ["cell", "Patches", "patch1 · membranes"]
    panel.step(1)
    layer = viewer.layers.selection.active
    np.testing.assert_allclose(layer.data_to_world((0, 0, 0)), image.data_to_world((2, 40, 40)))
    assert str(layer.units[0]) == "nanometer"
    assert viewer.dims.point[0] == image.data_to_world((4, 0, 0))[0]
    np.testing.assert_allclose(viewer.scene.camera.center[-2:], image.data_to_world((0, 55.5, 55.5))[1:])
    assert panel.plane.text() == "patch2: plane 3 of 4"
    viewer.dims.set_point(0, image.data_to_world((11, 0, 0))[0])
    assert panel.plane.text() == "patch2: outside of the patch"
    panel.step(2)
    assert viewer.layers.selection.active is panel.layers["boundary", "patch1"]


def test_what_is_painted_is_saved_and_undone_across_patches(panel, viewer, volume_path, patches, qtbot):
    add_volume(viewer, open_volume(volume_path))
    path = patches()
    panel.open(path)
    first = viewer.layers.selection.active
    stroke(first, (2, 5, 6))
    qtbot.waitUntil(lambda: on_disk(panel, "patch1")[2, 5, 6] == 1, timeout=WAIT)
    qtbot.waitUntil(lambda: "Saved" in panel.state.text(), timeout=WAIT)
    panel.step(1)
    stroke(viewer.layers.selection.active, (1, 1, 1))
    panel.step(-1)
    first.undo()
    qtbot.waitUntil(lambda: on_disk(panel, "patch1")[2, 5, 6] == 0, timeout=WAIT)
    first.redo()
    viewer.layers.remove(first)  # taken away by hand: saved, and read again
    assert on_disk(panel, "patch1")[2, 5, 6] == 1
    panel.go(0)
    assert viewer.layers.selection.active.data[2, 5, 6] == 1
    viewer.layers.clear()
    qtbot.waitUntil(lambda: panel.labelling is None, timeout=WAIT)
    assert Labelling(path).read("boundary", read_patches(path).patches[1])[1, 1, 1] == 1


def test_ticks_say_what_is_trained_on_and_come_back(panel, viewer, volume_path, patches, qtbot):
    add_volume(viewer, open_volume(volume_path))
    path = patches(instances=True)
    panel.open(path)
    panel.finish()
    panel.step(1)  # leaves patch 2 for later
    panel.finish()
    assert (panel.bar.value(), panel._current) == (2, 1)
    with qtbot.waitSignal(panel.train_wanted) as wanted:
        panel.train_button.click()
    values = wanted.args[0]
    assert values["labels"] == str(labels_folder(path))
    assert values["patches"] == str(labels_folder(path) / DONE)
    assert values["instances"] is True
    assert [p.id for p in read_patches(labels_folder(path) / DONE).patches] == ["patch1", "patch3"]
    panel.close_session()
    panel.open(path)
    assert (panel.bar.value(), panel._current) == (2, 1)


def test_each_output_has_labels_of_its_own(panel, viewer, volume_path, patches):
    add_volume(viewer, open_volume(volume_path))
    panel.open(patches(outputs=("synapses", "mitochondria")))
    synapses = viewer.layers.selection.active
    stroke(synapses, (3, 3, 3))
    panel.output.setCurrentIndex(1)
    panel.output.activated.emit(1)
    layer = viewer.layers.selection.active
    assert (layer.name, synapses.visible) == ("patch1 · mitochondria", False)
    assert on_disk(panel, "patch1", "synapses")[3, 3, 3] == 1
    assert on_disk(panel, "patch1", "mitochondria")[3, 3, 3] == 0
    assert panel.labelling.training("mitochondria")["target"] == ("mitochondria",)


def test_what_cannot_be_saved_is_told_and_tried_again(
    panel, viewer, volume_path, patches, monkeypatch, qtbot
):
    add_volume(viewer, open_volume(volume_path))
    panel.open(patches())
    full = OSError(28, "No space left on device")
    with monkeypatch.context() as patch:
        patch.setattr(panel.labelling, "save", lambda *_: (_ for _ in ()).throw(full))
        stroke(viewer.layers.selection.active, (2, 2, 2))
        qtbot.waitUntil(lambda: "not saved yet" in panel.state.text(), timeout=WAIT)
    qtbot.waitUntil(lambda: on_disk(panel, "patch1")[2, 2, 2] == 1, timeout=WAIT)


def test_a_file_that_is_no_patches_is_refused(panel, tmp_path, qtbot):
    (tmp_path / "x.patches.json").write_text("{}")
    with qtbot.waitSignal(panel.failed) as failed:
        panel.open(tmp_path / "x.patches.json")
    assert "does not hold patches" in failed.args[0]
    assert panel.open_button.isVisibleTo(panel)


def test_frames_are_in_every_plane_of_their_patch(patches):
    file = read_patches(patches())
    layer = frames_layer(file)
    assert len(layer.data) == 12 * 4
    starts, along = layer.data[:4, 0], layer.data[:4, 1]
    patch, half = file.patches[0].voxels, layer.edge_width / 2
    low, high = np.min([starts, starts + along], axis=(0, 1)), np.max([starts, starts + along], axis=(0, 1))
    np.testing.assert_allclose(low, [patch.start[0], patch.start[1] - 0.5, patch.start[2] - 0.5 - half])
    np.testing.assert_allclose(high, [patch.start[0], patch.stop[1] - 0.5, patch.stop[2] - 0.5 + half])
    colour_frames(layer, {"patch2"}, "patch1")
    np.testing.assert_allclose(
        layer.edge_color[4 * 4][:3], [int(GREEN[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    )


def test_patches_open_again_in_a_viewer_that_is_drawn(make_napari_viewer, patches, qtbot):
    """napari 0.9 crashes in OpenGL by software when it draws the box behind a brush whose layer has gone."""
    viewer = make_napari_viewer(show=True)
    _, panel = viewer.window.add_plugin_dock_widget("connectoscope", "Label patches")
    canvas, path = viewer.window._qt_viewer.canvas, patches()
    drawn = []
    canvas._scene_canvas.events.draw.connect(lambda event: drawn.append(event))

    def draw():
        for _ in range(3):
            before = len(drawn)
            canvas.native.update()
            qtbot.waitUntil(lambda before=before: len(drawn) > before, timeout=WAIT)

    for _ in range(2):
        panel.open(path)
        qtbot.waitUntil(lambda: len(viewer.layers) == 3, timeout=WAIT)
        draw()
        viewer.layers.clear()
        qtbot.waitUntil(lambda: panel.labelling is None, timeout=WAIT)
        draw()


def test_in_napari_itself(make_napari_viewer, volume_path, patches, qtbot):
    """The volume is opened by the panel, patches have keys, and the training's form is docked."""
    viewer = make_napari_viewer()
    _, panel = viewer.window.add_plugin_dock_widget("connectoscope", "Label patches")
    panel.open(patches())
    qtbot.waitUntil(lambda: len(viewer.layers) == 3, timeout=WAIT)
    assert [layer.name for layer in viewer.layers] == ["cell", "Patches", "patch1 · membranes"]
    assert viewer.layers.selection.active.mode == "paint"
    press(viewer, KeyMod.Alt | KeyCode.RightArrow)
    assert panel._current == 1
    press(viewer, KeyMod.Alt | KeyCode.Enter)
    qtbot.mouseClick(panel.done_button, Qt.MouseButton.LeftButton)
    assert panel.bar.value() == 2
    focused = viewer.window._qt_window.focusWidget()
    assert focused is viewer.window._qt_viewer.canvas.native  # not the button, which Space would press again
    panel.train_button.click()
    form = viewer.window.dock_widgets["Train on patches"].form
    assert form.values()["patches"].endswith(DONE)
    assert form.values()["on"] == str(volume_path)
    panel.close_session()


def test_labels_that_cannot_be_saved_are_kept(panel, viewer, volume_path, patches, tmp_path):
    add_volume(viewer, open_volume(volume_path))
    path = patches()
    panel.open(path)
    layer = viewer.layers.selection.active
    stroke(layer, (2, 5, 6))
    panel.step(1)
    other = viewer.layers.selection.active
    stroke(other, (1, 1, 1))
    (labels_folder(path) / "patch1.tif").unlink()
    (labels_folder(path) / "patch1.tif").mkdir()  # in the way, as a full disk is
    assert not panel.flush()
    assert "not saved yet" in panel.state.text()
    assert "report" not in panel.state.text()
    assert on_disk(panel, "patch2")[1, 1, 1] == 1  # one that can be saved is, whatever came before
    assert not panel.close_session()
    failures = []
    panel.failed.connect(failures.append)
    panel.open(tmp_path / "another.patches.json")
    second = tmp_path / "second.patches.json"
    second.write_text(path.read_text())
    panel.open(second)
    assert len(failures) == 2
    assert panel.labelling.path == path
    viewer.layers.remove(layer)
    panel.go(0)
    assert viewer.layers.selection.active.data[2, 5, 6] == 1
    (labels_folder(path) / "patch1.tif").rmdir()
    assert panel.close_session()
    assert Labelling(path).read("boundary", read_patches(path).patches[0])[2, 5, 6] == 1


def test_a_volume_that_did_not_open_is_asked_for_again(panel, viewer, volume_path, patches):
    wanted = []
    panel.volume_wanted.connect(wanted.append)
    path = patches()
    panel.open(path)
    panel.open(path)
    assert wanted == [str(volume_path)] * 2
    assert not panel.open_button.isHidden()
    add_volume(viewer, open_volume(volume_path))
    panel.open(path)
    assert panel.open_button.isHidden()
    assert len(wanted) == 2


def test_frames_that_go_while_labels_cannot_be_saved_come_back(panel, viewer, volume_path, patches, qtbot):
    add_volume(viewer, open_volume(volume_path))
    path = patches()
    panel.open(path)
    layer = viewer.layers.selection.active
    stroke(layer, (2, 5, 6))
    (labels_folder(path) / "patch1.tif").unlink()
    (labels_folder(path) / "patch1.tif").mkdir()
    with qtbot.waitSignal(panel.failed, timeout=WAIT) as failed:
        viewer.layers.remove("Patches")
    assert "not saved yet" in failed.args[0]
    qtbot.waitUntil(lambda: "Patches" in viewer.layers, timeout=WAIT)
    assert panel.layers["boundary", "patch1"] is layer
    (labels_folder(path) / "patch1.tif").rmdir()
    qtbot.waitUntil(lambda: "Saved" in panel.state.text(), timeout=WAIT)
    assert on_disk(panel, "patch1")[2, 5, 6] == 1


def napari_with_patches(make_napari_viewer, path, qtbot):
    """napari, and the label panel of its menu, with patches."""
    viewer = make_napari_viewer()
    dock, panel = viewer.window.add_plugin_dock_widget("connectoscope", "Label patches")
    panel.open(path)
    qtbot.waitUntil(lambda: len(viewer.layers) == 3, timeout=WAIT)
    return viewer, dock, panel


def test_a_panel_that_is_opened_again_takes_over(make_napari_viewer, patches, qtbot):
    viewer, dock, first = napari_with_patches(make_napari_viewer, patches(), qtbot)
    dock.destroyOnClose()  # its ✕
    stroke(viewer.layers.selection.active, (2, 5, 6))
    _, panel = viewer.window.add_plugin_dock_widget("connectoscope", "Label patches")
    assert [layer.name for layer in viewer.layers] == ["cell", "Patches", "patch1 · membranes"]
    assert viewer.layers.selection.active.data[2, 5, 6] == 1
    stroke(viewer.layers.selection.active, (3, 3, 3))
    assert panel.flush()
    assert on_disk(panel, "patch1")[2, 5, 6] == on_disk(panel, "patch1")[3, 3, 3] == 1
    qtbot.waitUntil(lambda: not isalive(first), timeout=WAIT)
    press(viewer, KeyMod.Alt | KeyCode.RightArrow)
    assert panel._current == 1
    panel.close_session()


def test_patches_that_are_made_anew_come_into_the_same_panel(make_napari_viewer, patches, qtbot):
    path = patches()
    viewer, dock, panel = napari_with_patches(make_napari_viewer, path, qtbot)
    _, suggest = viewer.window.add_plugin_dock_widget("connectoscope", "Suggest patches")
    for _ in range(2):
        suggest.patches_made.emit(str(path))
    dock.destroyOnClose()
    suggest.patches_made.emit(str(path))
    assert len(viewer.layers) == 3
    assert list(viewer.window.dock_widgets) == ["Suggest patches (connectoscope)", "Label patches"]
    assert viewer.window.dock_widgets["Label patches"] is panel
    panel.close_session()


def test_patches_that_changed_under_their_name_are_read_again(panel, viewer, volume_path, patches):
    add_volume(viewer, open_volume(volume_path))
    path = patches()
    panel.open(path)
    file = read_patches(path)
    path.write_text(file.model_copy(update={"patches": file.patches[1:]}).model_dump_json(by_alias=True))
    place = panel.labelling.place("boundary", "patch1")
    stroke(viewer.layers[-1], (2, 5, 6))
    place.unlink()
    panel.open(path)
    assert not place.exists()  # nor are labels of patches that are no more saved among the new ones
    assert [patch.id for patch in panel.labelling.file.patches] == ["patch2", "patch3"]
    assert [layer.name for layer in viewer.layers] == ["cell", "Patches", "patch2 · membranes"]
    there = viewer.layers[-1]
    panel.open(path)  # unchanged: as it is
    assert viewer.layers[-1] is there


def test_a_window_of_napari_stays_open_while_labels_cannot_be_saved(
    make_napari_viewer, patches, qtbot, monkeypatch
):
    viewer, _, panel = napari_with_patches(make_napari_viewer, patches(), qtbot)
    window = QMainWindow()  # napari's own ends the test's viewer
    qtbot.addWidget(window)
    window.installEventFilter(panel)
    window.show()
    asked = []

    def ask(parent, title, text, *buttons):
        asked.append(text)
        return answer

    def fail(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(QMessageBox, "question", ask)
    stroke(viewer.layers.selection.active, (2, 5, 6))
    with monkeypatch.context() as full:
        full.setattr(Labelling, "save", fail)
        answer = QMessageBox.StandardButton.Cancel
        assert not window.close()
        assert "No space left" in asked[0]
        answer = QMessageBox.StandardButton.Close
        assert window.close()
    panel.close_session()


def test_all_layers_can_be_taken_away_at_once(make_napari_viewer, patches, qtbot):
    viewer, _, panel = napari_with_patches(make_napari_viewer, patches(), qtbot)
    stroke(viewer.layers.selection.active, (2, 5, 6))
    there = []
    viewer.layers.events.removed.connect(lambda _: there.append(len(viewer.layers)))
    viewer.layers.clear()
    assert there == sorted(there, reverse=True)
    qtbot.waitUntil(lambda: panel.labelling is None, timeout=WAIT)


def test_a_stroke_before_the_window_is_closed_is_saved(panel, viewer, volume_path, patches, qtbot):
    """Also where another panel is in front of ours."""
    add_volume(viewer, open_volume(volume_path))
    panel.open(patches())
    window = QMainWindow()
    qtbot.addWidget(window)
    docks = [QDockWidget(window), QDockWidget(window)]
    for dock, inside in zip(docks, (panel, QLabel()), strict=True):
        dock.setWidget(inside)
        window.addDockWidget(Qt.DockWidgetArea.RightDockWidgetArea, dock)
    with qtbot.waitExposed(window):
        window.show()
    window.tabifyDockWidget(*docks)
    docks[1].raise_()
    qtbot.waitUntil(lambda: panel.visibleRegion().isEmpty(), timeout=WAIT)
    panel._timer.stop()
    stroke(viewer.layers.selection.active, (2, 5, 6))
    assert on_disk(panel, "patch1")[2, 5, 6] == 0
    window.close()
    assert on_disk(panel, "patch1")[2, 5, 6] == 1
    panel.setParent(None)  # the fixture closes it
