"""Layers lie where their volume lies, in its unit, lazily; results appear while they grow."""

import csv
import os
import shutil
import time

import numpy as np
import pytest
from qtpy.QtCore import QObject
from showing import add_result, add_volume

from connectoscope.errors import UserError
from connectoscope.volumes import ImageSpec, create_image, open_volume, set_attributes
from connectoscope.volumes.geometry import Box
from napari_connectoscope import layers
from napari_connectoscope.layers import open_in_background
from napari_connectoscope.lazy import LazyArray
from napari_connectoscope.results import (
    add_result_in_background,
    finish_results,
    probability_layers,
    refresh_result,
)
from napari_connectoscope.sources import in_view, is_source, source_of, visible_box

PLACE = {"scale": (40, 4, 4), "translate": (400, 40, 20)}


def assert_in_place(layer):
    np.testing.assert_allclose(layer.scale, PLACE["scale"])
    np.testing.assert_allclose(layer.translate, PLACE["translate"])
    assert [str(unit) for unit in layer.units] == ["nanometer"] * 3


def event(kind, path, name, **facts):
    return {"type": "result", "kind": kind, "path": str(path), "name": name, **facts}


def test_volume_is_a_lazy_pyramid_in_its_place(viewer, volume_path, pixels):
    layer = add_volume(viewer, open_volume(volume_path))
    assert layer.multiscale
    assert all(isinstance(level, LazyArray) for level in layer.data)
    assert_in_place(layer)
    assert source_of(layer) == str(volume_path)
    low, high = layer.contrast_limits
    assert pixels.min() <= low < high <= pixels.max()
    np.testing.assert_array_equal(np.asarray(layer.data[0][3:4]), pixels[3:4])
    assert viewer.dims.point[0] == 400 + 40 * 6  # the middle section
    assert viewer.layers.units is not None


def test_volume_without_unit_is_in_pixels(viewer):
    layer = add_volume(viewer, open_volume(np.zeros((3, 8, 8), np.uint8)))
    assert [str(unit) for unit in layer.units] == ["pixel"] * 3
    assert layer.contrast_limits == [0, 1]
    assert source_of(layer) is None


def test_opening_in_the_background(viewer, volume_path, qtbot):
    opened, failed = [], []
    open_in_background(viewer, volume_path, opened=lambda *a: opened.append(a), failed=failed.append)
    open_in_background(viewer, volume_path / "nowhere", failed=failed.append)
    qtbot.waitUntil(lambda: bool(opened and failed), timeout=10_000)
    assert opened[0][0] in viewer.layers
    assert len(failed) == 1
    assert "nowhere" in failed[0]


def test_probabilities_have_colours_of_their_own(viewer, result_path):
    made = add_result(viewer, event("image", result_path, "probabilities"), targets=("synapses",))
    assert [layer.metadata["connectoscope"]["channel_name"] for layer in made] == ["synapses", "boundary"]
    for layer in made:
        assert_in_place(layer)
        assert layer.blending == "additive"
        assert layer.contrast_limits == [0, 255]
    assert [layer.visible for layer in made] == [True, False]
    assert made[0].colormap.colors[-1] == pytest.approx([1.0, 0x4F / 255, 0xD8 / 255, 1.0], abs=1e-3)
    assert add_result(viewer, event("image", result_path, "probabilities")) == made
    assert len(viewer.layers) == 2


def written_points(path):
    path.write_text("id,z,y,x,unit\n1,400,80,60,nanometer\n")
    return path


def test_a_converted_image_keeps_its_name_and_can_be_asked(viewer, volume_path):
    source = viewer.add_image(np.zeros((4, 4, 4), np.uint8), name="its source")
    (layer,) = add_result(viewer, event("image", volume_path, "image"))
    assert layer.name == open_volume(volume_path).name
    assert is_source(layer)
    assert viewer.layers.selection.active is source  # a form that is being filled in follows the active layer


def test_a_converted_image_of_several_channels_keeps_their_names(viewer, tmp_path, pixels):
    box = Box((0, 0, 0), (8, 32, 32))
    told = make_result(tmp_path / "two.ome.zarr", pixels, box, signature={"task": "convert"})
    layers = add_result(viewer, told)
    assert [layer.name for layer in layers] == ["synapses", "boundary"]
    assert all(is_source(layer) for layer in layers)


def test_layers_of_two_results_are_told_apart(viewer, tmp_path, pixels):
    names = []
    for stem in ("j1", "j2"):
        add_result(viewer, make_result(tmp_path / f"{stem}.ome.zarr", pixels, Box((0, 0, 0), (8, 32, 32))))
        add_result(viewer, event("points", written_points(tmp_path / f"{stem}.csv"), "cells"))
        names.append([layer.name for layer in viewer.layers][len(viewer.layers) // 2 * len(names) :])
    assert names == [
        ["Synapses · probability", "Membranes · probability", "Cells"],
        ["Synapses · probability · j2", "Membranes · probability · j2", "Cells · j2"],
    ]


def test_growing_result_is_shown_coarse_until_it_is_finished(viewer, result_path, pixels):
    layer = add_result(viewer, event("image", result_path, "probabilities"))[0]
    np.testing.assert_array_equal(np.asarray(layer.data[1][2:3]), pixels[2:3, ::2, ::2])
    set_attributes(result_path, finished=True)
    finish_results(viewer, str(result_path))
    assert np.asarray(layer.data[1][2:3]).max() == 0  # the stored level, empty here


def make_result(path, pixels, box, **marks):
    """A run's unfinished result of a box, with two outputs of what ``pixels`` are there."""
    shutil.rmtree(path, ignore_errors=True)
    start = np.array(box.start) * PLACE["scale"] + PLACE["translate"]
    spec = ImageSpec(
        box.shape, np.dtype("u1"), PLACE["scale"], tuple(start), "nanometer", (4, 32, 32),
        channels=("synapses", "boundary"), attributes={"connectoscope": {"finished": False, **marks}},
    )  # fmt: skip
    create_image(path, spec)[0].write(np.stack([pixels[box.slices]] * 2)).result()
    return event("image", path, "probabilities")


def test_another_run_in_its_place_brings_new_layers(viewer, tmp_path, pixels, qtbot):
    """Replace it: the old layers' handles, shape and place are those of files that have gone."""
    owner, answers = QObject(), []

    def tell(result):
        answers.clear()
        add_result_in_background(viewer, result, owner=owner, added=answers.append, failed=answers.append)
        qtbot.waitUntil(lambda: bool(answers), timeout=10_000)
        return answers[0]

    path, part, other = tmp_path / "r.ome.zarr", Box((0, 0, 0), (12, 32, 32)), Box((0, 32, 16), (12, 96, 80))
    first = tell(make_result(path, pixels, part))
    names = [layer.name for layer in first]
    on_top = viewer.add_image(pixels, name="on top", **PLACE, units=("nm",) * 3)
    viewer.layers.selection.active = first[0]
    set_attributes(path, finished=True, summary={"objects": 3})
    assert tell(event("image", path, "probabilities")) == first  # the run that they are of

    second = tell(make_result(path, pixels, other))
    assert list(viewer.layers) == [*second, on_top]
    assert [layer.name for layer in second] == names
    assert viewer.layers.selection.active is second[0]
    for layer in second:
        np.testing.assert_array_equal(np.asarray(layer.data), pixels[other.slices])
        np.testing.assert_allclose(layer.translate, (400, 168, 84))

    again = {"request": {"task": "segment", "parameters": {"model": "another"}}}
    third = add_result(viewer, make_result(path, pixels, other, **again))
    assert list(viewer.layers) == [*third, on_top]
    assert not set(second) & set(third)


def test_points_that_were_found_anew_replace_the_old(viewer, tmp_path):
    table = tmp_path / "points.csv"
    table.write_text("id,z,y,x,unit\n1,440,48,28,nanometer\n")
    (old,) = add_result(viewer, event("points", table, "found"))
    assert add_result(viewer, event("points", table, "found")) == [old]
    table.write_text("id,z,y,x,unit\n1,40,4,8,nanometer\n2,4,4,4,nanometer\n")
    os.utime(table, ns=(1, 1))
    (new,) = add_result(viewer, event("points", table, "found"))
    assert list(viewer.layers) == [new]
    assert len(new.data) == 2


def test_labels_and_points(viewer, tmp_path, pixels):
    from connectoscope.volumes import ImageSpec, create_image

    path = tmp_path / "r.ome.zarr" / "labels" / "synapses"
    path.parent.mkdir(parents=True)
    spec = ImageSpec(
        pixels.shape, np.dtype(np.uint8), (40.0, 4.0, 4.0), (400.0, 40.0, 20.0), "nanometer", (4, 32, 32),
        is_labels=True,
    )  # fmt: skip
    create_image(path, spec)[0].write((pixels > 150).astype(np.uint8)).result()
    (labels,) = add_result(viewer, event("labels", path, "synapses"))
    assert type(labels).__name__ == "Labels"
    assert_in_place(labels)
    assert labels.get_value((450.0, 60.0, 60.0), world=True) in (0, 1, None)

    table = tmp_path / "points.csv"
    with table.open("w", newline="") as file:
        csv.writer(file).writerows([["id", "z", "y", "x", "unit"], [1, 440, 48, 28, "nanometer"]])
    (points,) = add_result(viewer, event("points", table, "found"))
    np.testing.assert_array_equal(points.data, [[440, 48, 28]])
    assert [str(unit) for unit in points.units] == ["nanometer"] * 3
    assert add_result(viewer, event("table", tmp_path / "other.csv", "found")) == []
    assert viewer.layers.units is not None


def test_refresh_is_at_most_twice_a_second_and_only_of_what_is_shown(viewer, result_path, qtbot, monkeypatch):
    layer = add_result(viewer, event("image", result_path, "probabilities"))[0]
    calls = []
    monkeypatch.setattr(type(layer), "refresh", lambda self, **_: calls.append(time.monotonic()))
    for _ in range(20):
        refresh_result(layer)
    assert len(calls) == 1
    qtbot.waitUntil(lambda: len(calls) == 2, timeout=2000)
    assert calls[1] - calls[0] >= 0.45
    layer.visible = False
    calls.clear()
    refresh_result(layer)
    assert calls == []


def test_visible_box_clips_and_maps_units(viewer, volume_path):
    viewer.canvas.size = (200, 100)
    layer = add_volume(viewer, open_volume(volume_path))
    viewer.layers.units = ("um", "um", "um")
    viewer.scene.camera.zoom = 100 / 0.04  # 40 nm, ten voxels, in 100 pixels
    viewer.scene.camera.center = (0, 0.040 + 0.004 * 50, 0.020)
    box = visible_box(viewer, layer, depth=4)
    assert box.shape[0] == 4
    assert (box.start[1], box.stop[1]) == (40, 61)
    assert (box.start[2], box.stop[2]) == (0, 6)
    viewer.scene.camera.center = (0, 5.0, 5.0)
    assert visible_box(viewer, layer).size == 0


def test_visible_box_of_a_layer_that_was_moved_or_turned(viewer, pixels):
    viewer.canvas.size = (100, 100)
    viewer.add_image(pixels, scale=PLACE["scale"], units=("nm",) * 3)  # the slider reaches to 0
    layer = viewer.add_image(pixels, **PLACE, units=("nm",) * 3)
    moved = np.diag([1.0, 2.0, 1.0, 1.0])
    moved[:3, 3] = 80, 5000, -300
    layer.affine = moved  # what napari's transform tool writes
    viewer.dims.set_point(0, layer.data_to_world((5, 0, 0))[0])
    viewer.scene.camera.center = tuple(layer.data_to_world((5, 48, 40)))
    viewer.scene.camera.zoom = 100 / (20 * 4)  # 20 voxels from left to right, ten downwards
    assert visible_box(viewer, layer, depth=1) == Box((5, 43, 30), (6, 54, 51))
    assert in_view(viewer, layer)
    viewer.dims.set_point(0, 400 - 3 * 40)
    assert not in_view(viewer, layer)
    layer.affine = np.eye(4)
    layer.rotate = (0, 0, 90)
    viewer.dims.set_point(0, 400 + 5 * 40)
    viewer.scene.camera.center = tuple(layer.data_to_world((5, 48, 40)))
    viewer.canvas.size = (50, 100)
    assert visible_box(viewer, layer, depth=1).shape == (1, 21, 11)


def test_damaged_result_says_so(viewer, tmp_path):
    with pytest.raises(UserError, match="nothing-here"):
        add_result(viewer, event("image", tmp_path / "nothing-here.ome.zarr", "probabilities"))


def test_colours_are_the_same_everywhere():
    assert layers.colour_of("boundary") == layers.colour_of("membranes")
    assert layers.title_of("boundary") == "Membranes"
    assert layers.title_of("affinity_z") == "Affinity z"


def test_affinities_are_left_out_where_others_are_wanted(tmp_path):
    path, names = tmp_path / "out.ome.zarr", ("boundary", "affinity_0_0_-1")
    spec = ImageSpec(
        (2, 8, 8), np.dtype("u1"), (40.0, 4.0, 4.0), (0.0, 0.0, 0.0), "nanometer", (2, 8, 8), channels=names
    )
    create_image(path, spec)
    for targets, count in ((["neurons"], 1), (["affinity_0_0_-1"], 2), (None, 2)):
        assert len(probability_layers(str(path), targets)[0]) == count


def test_a_corrupt_chunk_is_black_and_said(viewer, tmp_path, pixels, qtbot):
    path = tmp_path / "damaged.ome.zarr"
    spec = ImageSpec(
        pixels.shape, pixels.dtype, (40.0, 4.0, 4.0), (0.0,) * 3, "nanometer", (4, *pixels.shape[1:])
    )
    create_image(path, spec)[0].write(pixels).result()
    chunk = path / "0" / "c" / "1" / "0" / "0"
    chunk.write_bytes(chunk.read_bytes()[:20])
    opened, failed = [], []
    open_in_background(viewer, path, opened=lambda *a: opened.append(a), failed=failed.append)
    qtbot.waitUntil(lambda: bool(opened or failed), timeout=10_000)
    assert not failed
    layer, volume = opened[0]
    assert "1 chunk of the source is corrupt, taken as 0" in volume.warnings[0]
    seen = pixels.copy()
    seen[4:8] = 0
    shown = layer.data[0] if layer.multiscale else layer.data
    np.testing.assert_array_equal(np.asarray(shown[2:9, ::-2]), seen[2:9, ::-2])
    np.testing.assert_array_equal(np.asarray(shown[5]), seen[5])
    assert layer.contrast_limits[0] >= pixels.min()


def test_a_volume_that_lies_elsewhere_is_flown_to(viewer, volume_path, pixels):
    """A finer layer in micrometres, far away: it would not be seen."""
    viewer.canvas.size = (200, 200)
    first = add_volume(viewer, open_volume(volume_path))
    viewer.scene.camera.center = tuple(first.data_to_world((6, 48, 40)))
    viewer.scene.camera.zoom = 0.4
    before = viewer.scene.camera.center
    add_volume(viewer, open_volume(volume_path))
    assert viewer.scene.camera.center == before  # in view: the view stays
    far = open_volume(volume_path, voxel_size="5,2,2um")
    layer = add_volume(viewer, far)
    assert in_view(viewer, layer)
    box = visible_box(viewer, layer, depth=1)
    assert box.shape[1:] == layer.data[0].shape[1:]
    assert box.start[0] in (5, 6)
