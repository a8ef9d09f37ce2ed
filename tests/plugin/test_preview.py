"""The preview: a warm worker answers for what is visible, and the threshold is only a matter of contrast."""

import os
import signal

import numpy as np
import pytest
from napari.layers import Image
from showing import add_volume

from connectoscope.volumes import open_volume
from connectoscope.volumes.geometry import Box
from connectoscope.zoo import find_model
from napari_connectoscope.preview import LARGEST_SIDE, PreviewController, ThresholdPanel, _clipped


def test_box_is_clipped_around_its_middle():
    assert _clipped(Box((0, 10, 0), (8, 20, 2000))) == Box((0, 10, 616), (8, 20, 616 + LARGEST_SIDE))


def test_threshold_is_all_or_nothing_and_keeps_what_was_chosen(qtbot):
    panel = ThresholdPanel()
    qtbot.addWidget(panel)
    layer = Image(np.arange(256, dtype=np.uint8).reshape(1, 16, 16), contrast_limits=(0, 255))
    panel.set_layers({"synapses": layer}, {"synapses": 90})
    assert layer.contrast_limits == [89, 90]
    with qtbot.waitSignal(panel.changed) as changed:
        panel.sliders["synapses"].setValue(200)
    assert changed.args == ["synapses", 200]
    assert layer.contrast_limits == [199, 200]
    panel.as_objects.setChecked(False)
    assert layer.contrast_limits == [0, 255]
    again = Image(np.zeros((1, 4, 4), np.uint8), contrast_limits=(0, 255))
    panel.as_objects.setChecked(True)
    panel.set_layers({"synapses": again}, {"synapses": 90})
    assert again.contrast_limits == [199, 200]
    panel.forget()
    panel.set_layers({"synapses": again}, {"synapses": 90})
    assert again.contrast_limits == [89, 90]


@pytest.fixture
def controller(viewer, qtbot, small_model):
    viewer.canvas.size = (200, 200)
    controller = PreviewController(viewer)
    qtbot.addWidget(controller.threshold)
    yield controller
    worker = controller._worker
    controller.close()
    if worker is not None:
        assert worker.state() == worker.ProcessState.NotRunning


def look_at(viewer, layer, voxels):
    """40 voxels of the layer fill the canvas."""
    viewer.scene.camera.center = tuple(layer.data_to_world(voxels))
    viewer.scene.camera.zoom = 200 / (40 * 4)
    viewer.dims.set_point(0, layer.data_to_world(voxels)[0])


def test_worker_answers_for_what_is_visible(controller, viewer, volume_path, qtbot, pixels):
    layer = add_volume(viewer, open_volume(volume_path))
    look_at(viewer, layer, (6, 48, 40))
    values = {"source": str(volume_path), "model": "synapse-vnc", "target": ["synapses"]}
    failures = []
    controller.failed.connect(failures.append)
    controller.run(values)
    with qtbot.waitSignal(controller.ready, timeout=60_000):
        controller.run({**values, "threshold": 77})  # the first question is dropped
    assert failures == []
    previews = [la for la in viewer.layers if la.name.startswith("Preview")]
    assert [la.name for la in previews] == ["Preview · Synapses"]
    assert viewer.layers.selection.active is layer
    (preview,) = previews
    assert preview.data.shape == (8, 41, 41)
    np.testing.assert_allclose(preview.translate, layer.data_to_world((2, 28, 20)))
    assert preview.contrast_limits == [76, 77]

    # In memory: the visible part is copied. The worker is warm now.
    memory = viewer.add_image(pixels, name="mine", scale=(40, 4, 4), units=("nm",) * 3)
    look_at(viewer, memory, (6, 48, 40))
    with qtbot.waitSignal(controller.ready, timeout=20_000):
        controller.run({**values, "source": "layer:mine"})
    (preview,) = [la for la in viewer.layers if la.name.startswith("Preview")]
    assert preview.contrast_limits[1] == find_model("synapse-vnc").card.outputs[0].threshold  # not 77
    np.testing.assert_allclose(preview.translate, memory.data_to_world((2, 28, 20)))

    # Renamed meanwhile, it is still there.
    with qtbot.waitSignal(controller.ready, timeout=20_000):
        controller.run({**values, "source": "layer:mine"})
        memory.name = "other"
    memory.name = "mine"

    # What was closed meanwhile has no preview.
    with qtbot.waitSignal(controller.dropped, timeout=20_000) as dropped:
        controller.run({**values, "source": "layer:mine"})
        viewer.layers.remove(memory)
    assert "was closed" in dropped.args[0]
    assert not any(la.name.startswith("Preview") for la in viewer.layers)

    # Killed: it says so, and the next one starts a new worker.
    process = controller._worker.processId()
    os.kill(process, signal.SIGSTOP)  # so that it cannot answer before
    controller.run(values)
    qtbot.waitUntil(lambda: controller._watcher is not None, timeout=10_000)
    with qtbot.waitSignal(controller.failed, timeout=20_000) as failed:
        os.kill(process, signal.SIGKILL)
    assert "worker ended" in failed.args[0]
    with qtbot.waitSignal(controller.ready, timeout=60_000):
        controller.run(values)


def test_what_cannot_be_previewed_is_one_line(controller, viewer, volume_path, qtbot):
    told = []
    controller.failed.connect(told.append)
    controller.run({"source": "elsewhere.tif", "model": "synapse-vnc"})
    layer = add_volume(viewer, open_volume(volume_path))
    viewer.scene.camera.center = (0, 1e6, 1e6)
    controller.run({"source": str(volume_path), "model": "synapse-vnc"})
    assert len(told) == 2
    assert "in the viewer first" in told[0]
    assert "nothing of 'cell' is in view" in told[1]
    look_at(viewer, layer, (6, 48, 40))
    with qtbot.waitSignal(controller.failed, timeout=60_000) as failed:
        controller.run({"source": str(volume_path), "model": "nothing"})
    assert "there is no model 'nothing'" in failed.args[0]


def test_reconstructed_em_is_previewed_and_other_results_are_not(controller, viewer, volume_path):
    layer = add_volume(viewer, open_volume(volume_path))
    facts = layer.metadata["connectoscope"]
    facts["result"] = str(volume_path)
    assert controller._layer_of(str(volume_path)) is None
    facts["part"] = "em"
    assert controller._layer_of(str(volume_path)) is layer
