"""The panel of plain napari: from the form to layers, table, cancel and resume."""

import numpy as np
import pytest
from napari.layers import Image
from showing import add_volume

from connectoscope.volumes import open_volume
from connectoscope.volumes.geometry import Box
from napari_connectoscope import jobs
from napari_connectoscope.task_panel import _tidy
from napari_connectoscope.widgets import InfoWidget, SegmentWidget, TaskPanel, describe


@pytest.fixture
def started(monkeypatch):
    """Folders of the jobs that would have been started."""
    folders = []

    def start(folder):
        folder.events().write("submitted")
        folders.append(folder)

    monkeypatch.setattr(jobs, "start", start)
    return folders


@pytest.fixture
def make_panel(qtbot, viewer):
    def make(widget=TaskPanel, *args):
        panel = widget(viewer, *args)
        qtbot.addWidget(panel, before_close_func=lambda panel: panel.close_worker())
        return panel

    return make


def test_layer_of_a_file_is_run_from_the_file(make_panel, viewer, volume_path, started, qtbot):
    add_volume(viewer, open_volume(volume_path))
    panel = make_panel(SegmentWidget)
    assert panel.note.isHidden()
    with qtbot.waitSignal(panel.submitted, timeout=10_000):
        panel.run_button.click()
    request = started[0].request
    assert request.parameters["source"] == str(volume_path)
    assert request.parameters["target"] == ["synapses"]
    assert request.destination == volume_path.parent / "cell-synapses.ome.zarr"


def test_layer_in_memory_is_copied_with_its_size_told_first(
    make_panel, viewer, pixels, started, qtbot, tmp_path
):
    viewer.add_image(pixels, name="mine", scale=(0.04, 0.004, 0.004), units=("um",) * 3, translate=(1, 0, 0))
    panel = make_panel(SegmentWidget)
    assert "92.2 kB are copied" in panel.note.text()
    panel.form.set_values({"destination": str(tmp_path / "out.ome.zarr"), "box": "2:8,0:96,8:72"})
    assert "36.9 kB" in panel.note.text()
    with qtbot.waitSignal(panel.submitted, timeout=10_000):
        panel.run_button.click()
    parameters = started[0].request.parameters
    assert parameters["source"] == str(tmp_path / "out.ome.zarr.job" / "source.ome.zarr")
    assert parameters["box"] is None
    copy = open_volume(parameters["source"])
    np.testing.assert_array_equal(copy.read(Box.of(copy.shape)), pixels[2:8, :, 8:72])
    assert copy.voxel_size_nm() == pytest.approx((40, 4, 4))
    assert copy.levels[0].translation == pytest.approx((1.08, 0, 0.032))


def test_what_a_check_tells_goes_with_the_form_it_was_of(make_panel, viewer, volume_path, monkeypatch, qtbot):
    add_volume(viewer, open_volume(volume_path))
    panel = make_panel(SegmentWidget)
    monkeypatch.setattr(
        panel.checking, "run", lambda submission: panel.checking.told.emit("Trying one block …")
    )
    panel.check_button.click()
    assert panel.status.text() == "Trying one block …"
    panel.form.set_values({"threshold": 100})
    assert panel.status.text() == ""
    panel.check_button.click()
    panel.status.setText("probabilities: 1 of 4")
    panel.form.set_values({"threshold": 101})
    assert panel.status.text() == "probabilities: 1 of 4"


def test_models_are_ranked_for_a_layer_in_memory(make_panel, viewer, pixels, started, qtbot):
    viewer.add_image(pixels, name="mine", scale=(40, 4, 4), units=("nm",) * 3)
    panel = make_panel(TaskPanel, "adapt rank")
    panel.form.set_values({"box": "2:8,0:96,8:72"})
    with qtbot.waitSignal(panel.submitted, timeout=10_000):
        panel.run_button.click()
    folder = started[0]
    assert folder.request.parameters["source"] == str(folder.path / "source.ome.zarr")
    assert folder.request.parameters["box"] is None
    copy = open_volume(folder.request.parameters["source"])
    np.testing.assert_array_equal(copy.read(Box.of(copy.shape)), pixels[2:8, :, 8:72])
    panel.watcher.stop()
    folder.remove()


def test_a_model_by_its_name_is_trained_on_a_copy_in_its_own_job_folder(
    make_panel, viewer, pixels, small_model, started, qtbot, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.patches.json").touch()
    (tmp_path / "a").mkdir()
    viewer.add_image(pixels, name="mine", scale=(40, 4, 4), units=("nm",) * 3)
    panel = make_panel(TaskPanel, "adapt train")
    values = {"patches": "a.patches.json", "labels": "a", "target": ("synapses",)}
    panel.form.set_values({"model": "synapse-vnc", "destination": "fine", **values})
    with qtbot.waitSignal(panel.submitted, timeout=10_000):
        panel.run_button.click()
    panel.watcher.stop()
    assert started[0].request.parameters["on"] == str(started[0].path / "source.ome.zarr")
    assert started[0].path == small_model.path.parent / "fine.job"


def test_layer_without_units_is_asked_about(make_panel, viewer, pixels, started):
    viewer.add_image(pixels, name="mine")
    panel = make_panel(SegmentWidget)
    for button in (panel.run_button, panel.check_button, panel.preview_button):
        panel.form.show_error("")
        button.click()
        assert "does not state its voxel size: enter it as Voxel size" in panel.form.error_text
    assert started == []
    panel.form.set_values({"voxel_size": "40,4,4nm"})
    assert panel.form.error_text == ""
    assert "kB are copied" in panel.note.text()


def test_refusal_leaves_nothing_behind(make_panel, viewer, pixels, started, qtbot, tmp_path):
    viewer.add_image(pixels, name="mine", scale=(40, 4, 4), units=("nm",) * 3)
    panel = make_panel(SegmentWidget)
    panel.form.set_values({"destination": str(tmp_path / "out.ome.zarr"), "box": "0:99,0:9,0:9"})
    panel.run_button.click()
    qtbot.waitUntil(lambda: "is not inside layer" in panel.form.error_text, timeout=10_000)
    assert list(tmp_path.glob("out*")) == []
    assert panel.run_button.isEnabled()


def test_results_appear_and_the_end_is_told(make_panel, viewer, volume_path, result_path, started, qtbot):
    source = add_volume(viewer, open_volume(volume_path))
    panel = make_panel(SegmentWidget)
    with qtbot.waitSignal(panel.submitted, timeout=10_000):
        panel.run()
    panel.watcher.stop()
    events = started[0].events()
    events.write("started")
    events.write("result", kind="image", path=str(result_path), name="probabilities")
    events.write("progress", done=1, total=4, phase="probabilities", fraction=0.25, seconds_left=70)
    with qtbot.waitSignal(panel.layers_shown, timeout=10_000):
        panel.watcher.poll()
    assert panel.status.text() == "probabilities: 1 of 4, 1 min 10 s left"
    assert panel.bar.value() == 250
    assert len(viewer.layers) == 3
    assert viewer.layers.selection.active is source
    panel.cancel_button.click()
    assert started[0].cancel_path.exists()
    events.write("cancelled", message="cancelled; what was finished is kept", exit_code=3)
    panel.watcher.poll()
    assert not panel.resume_button.isHidden()
    panel.resume_button.click()
    assert len(started) == 2
    panel.watcher.stop()
    events.write("started")
    events.write(
        "finished",
        summary={"objects": {"synapses": 7}, "seconds": 95.0, "warnings": ["unlike: --voxel-size"]},
        exit_code=0,
    )
    with qtbot.waitSignal(panel.ended):
        panel.watcher.poll()
    assert panel.status.text() == "Done: found 7 synapses in 1 min 35 s\n⚠ unlike: Voxel size"
    assert panel.resume_button.isHidden()
    qtbot.waitUntil(lambda: not started[0].path.exists(), timeout=5000)


def test_a_layer_that_was_planned_for_stays_to_be_run(make_panel, viewer, pixels, started, qtbot, tmp_path):
    viewer.add_image(pixels, name="mine", scale=(5, 2, 2), units=("um",) * 3)
    panel = make_panel(TaskPanel, "plan-cascade", {"detector": "cells"})
    panel.form.set_values({"destination": str(tmp_path / "mine.cascade.json")})
    with qtbot.waitSignal(panel.submitted, timeout=10_000):
        panel.run_button.click()
    panel.watcher.stop()
    _tidy(started[0])
    assert open_volume(started[0].request.parameters["source"]).shape == pixels.shape


@pytest.mark.parametrize(
    ("task", "can"), [("segment", True), ("adapt suggest", True), ("detect", False), ("reconstruct", False)]
)
def test_preview_is_offered_where_there_is_a_model(make_panel, task, can):
    assert make_panel(TaskPanel, task).preview_button.isHidden() != can


def test_copy_as_command(make_panel, viewer, volume_path, qtbot):
    from qtpy.QtGui import QGuiApplication

    add_volume(viewer, open_volume(volume_path))
    panel = make_panel(SegmentWidget)
    panel.copy_button.click()
    assert QGuiApplication.clipboard().text().startswith(f"connectoscope segment {volume_path} ")


def test_a_file_that_napari_opened_is_not_said_to_be_in_memory_only(make_panel, viewer, pixels, tmp_path):
    path = tmp_path / "plain.tif"
    layer = Image(pixels, name="plain", scale=(40, 4, 4), units=("nm",) * 3)
    object.__setattr__(layer, "_source", layer.source.model_copy(update={"path": str(path)}))
    viewer.add_layer(layer)
    panel = make_panel(SegmentWidget)
    assert panel.note.text().startswith(
        "'plain' is read from its file if the pixels agree, else 92.2 kB are copied"
    )
    panel.copy_button.click()
    assert panel.form.error_text.startswith(f"type {path} as source to copy the command")
    viewer.layers.clear()
    viewer.add_image(pixels, name="mine", scale=(40, 4, 4), units=("nm",) * 3)
    assert panel.note.text().startswith("'mine' is only in memory: 92.2 kB are copied")
    panel.copy_button.click()
    assert "only in memory" in panel.form.error_text


def test_description_of_a_stranger(viewer, pixels):
    text = describe(viewer.add_image(pixels, name="mine"))
    assert text.splitlines() == [
        "mine", "Only in memory", "12 × 96 × 80 voxels (-3, -2, -1), uint8", "Voxel size: not stated",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("add", "said"),
    [
        (lambda viewer: viewer.add_shapes([np.zeros((4, 3))], shape_type="polygon"), "Shapes: 1 item"),
        (lambda viewer: viewer.add_surface((np.eye(4, 3), np.array([[0, 1, 2]]))), "Surface: 4 items"),
        (lambda viewer: viewer.add_points(np.eye(3)), "Points: 3 items"),
        (lambda viewer: viewer.add_vectors(np.zeros((2, 2, 3))), "Vectors: 2 items"),
        (lambda viewer: viewer.add_tracks(np.array([[1, 0, 0, 0], [1, 1, 1, 1.0]])), "Tracks: 2 items"),
    ],
)
def test_description_of_what_has_no_voxels(qtbot, viewer, add, said):
    info = InfoWidget(viewer)
    qtbot.addWidget(info)
    viewer.layers.selection.active = add(viewer)
    assert info.text.text().splitlines()[1:] == ["Only in memory", said, "Unit: not stated"]


def test_description_of_mixed_lengths(viewer, pixels):
    layer = viewer.add_image(
        pixels, scale=(0.04, 4, 4), translate=(1, 0, 0), units=("um", "nm", "nm"), name="mine"
    )
    lines = describe(layer).splitlines()[-2:]
    assert lines == ["Voxel size: 0.04 µm × 4 nm × 4 nm", "Begins at: 1 µm, 0 nm, 0 nm"]


def test_whole_journey_in_plain_napari(make_napari_viewer, small_model, pixels, qtbot, tmp_path):
    """A layer in memory, the widget from the manifest, a real job, and its layers and table."""
    viewer = make_napari_viewer()
    viewer.add_image(pixels, name="mine", scale=(40, 4, 4), units=("nm",) * 3, translate=(400, 0, 0))
    _, panel = viewer.window.add_plugin_dock_widget("connectoscope", "Segment synapses")
    panel.form.set_values({"destination": str(tmp_path / "out.ome.zarr"), "threshold": 100, "min_volume": 0})
    tables = []
    panel.table_made.connect(tables.append)
    with qtbot.waitSignal(panel.ended, timeout=90_000) as ended:
        panel.run_button.click()
    assert ended.args[0].status == "done", ended.args[0].message
    qtbot.waitUntil(lambda: len(viewer.layers) == 4, timeout=10_000)
    names = [layer.name for layer in viewer.layers]
    assert names[0] == "mine"
    assert "Synapses · probability" in names
    assert "Synapses" in names
    for layer in viewer.layers:
        np.testing.assert_allclose(layer.scale, (40, 4, 4))
        np.testing.assert_allclose(layer.translate, (400, 0, 0))
        assert [str(unit) for unit in layer.units] == ["nanometer"] * 3
    assert len(tables) == 1
    panel.close_worker()
