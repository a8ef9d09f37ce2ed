"""A layer as a source: its file where the pixels agree, else a copy with the same voxel size and place."""

import dask.array as da
import numpy as np
import pytest
import tifffile
from showing import add_volume

from connectoscope.errors import UserError
from connectoscope.volumes import open_volume, pyramid_factors
from connectoscope.volumes.geometry import Box
from napari_connectoscope.sources import (
    agreeing_source,
    check_unmoved,
    layer_facts,
    length_unit,
    place_by,
    snapshot,
    source_of,
    spill,
    visible_box,
)
from napari_connectoscope.writer import write_image

PLACE = {"scale": (40, 4, 4), "translate": (400, 40, 20), "units": ("nm",) * 3}


def from_file(viewer, path, data, **place):
    layer = viewer.add_image(data, **{**PLACE, **place})
    object.__setattr__(layer, "_source", layer.source.model_copy(update={"path": str(path)}))
    return layer


def test_file_is_used_where_the_pixels_agree(viewer, volume_path, pixels):
    image = snapshot(viewer, from_file(viewer, volume_path, da.from_array(pixels)))
    found = agreeing_source(image)
    assert found["source"] == str(volume_path)
    assert open_volume(**found).voxel_size_nm() == (40.0, 4.0, 4.0)


@pytest.mark.parametrize("change", ["pixels", "shape", "dtype", "place"])
def test_file_is_not_used_where_anything_differs(viewer, volume_path, pixels, change):
    data, place = pixels.copy(), {}
    if change == "pixels":
        data[5, 40, 40] += 1
    elif change == "shape":
        data = data[:, 1:]
    elif change == "dtype":
        data = data.astype(np.uint16)
    else:
        place = {"translate": (400, 44, 20)}
    assert agreeing_source(snapshot(viewer, from_file(viewer, volume_path, data, **place))) is None


def test_format_that_we_do_not_read_is_copied(viewer, tmp_path, pixels):
    (tmp_path / "x.png").write_bytes(b"no volume")
    assert agreeing_source(snapshot(viewer, from_file(viewer, tmp_path / "x.png", pixels))) is None


@pytest.mark.parametrize("wrap", [np.asarray, da.from_array, lambda a: [a, a[:, ::2, ::2]]])
def test_copy_keeps_pixels_scale_and_place(viewer, tmp_path, pixels, wrap):
    data = wrap(pixels)
    layer = viewer.add_image(data, multiscale=isinstance(data, list), **PLACE)
    told = []
    path = tmp_path / "copy.ome.zarr"
    box = Box((2, 10, 20), (9, 90, 70))
    spill(snapshot(viewer, layer), box, path, lambda *done: told.append(done))
    volume = open_volume(path)
    np.testing.assert_array_equal(volume.read(Box.of(volume.shape)), pixels[box.slices])
    assert volume.voxel_size_nm() == (40.0, 4.0, 4.0)
    assert volume.levels[0].translation == (480.0, 80.0, 100.0)
    assert told[-1][0] == told[-1][1] > 0


def test_what_is_moved_is_copied_to_its_place_and_what_is_turned_is_refused(viewer, tmp_path, pixels):
    moved = np.diag([2.0, 1.0, 1.0, 1.0])
    moved[:3, 3] = 7, 8, 9
    image = snapshot(viewer, viewer.add_image(pixels, affine=moved, **PLACE))
    assert (image.scale, image.translation) == ((80, 4, 4), (807, 48, 29))
    mirrored = ({"affine": np.diag([1, 1, -1, 1])}, {"scale": (40, -4, 4)})
    for how in ({"rotate": 30}, {"shear": [0.1, 0, 0]}, *mirrored):
        layer = viewer.add_image(pixels, name="askew", **{**PLACE, **how})
        with pytest.raises(UserError, match="turned, sheared or mirrored"):
            snapshot(viewer, layer)
        with pytest.raises(UserError, match="turned, sheared or mirrored"):
            write_image(str(tmp_path / "x.ome.zarr"), *layer.as_layer_data_tuple()[:2])
    assert not any(tmp_path.glob("x.*"))


def test_no_pyramid_of_a_mirrored_volume():
    with pytest.raises(ValueError, match="above 0"):
        pyramid_factors((8, 320, 320), (40.0, -4.0, 4.0))


def test_same_copy_is_kept_and_another_replaced(viewer, tmp_path, pixels):
    path = tmp_path / "copy.ome.zarr"
    spill(snapshot(viewer, viewer.add_image(pixels, **PLACE)), None, path)
    before = (path / "zarr.json").stat().st_mtime_ns
    spill(snapshot(viewer, viewer.add_image(pixels.copy(), **PLACE)), None, path)
    assert (path / "zarr.json").stat().st_mtime_ns == before
    spill(snapshot(viewer, viewer.add_image(255 - pixels, **PLACE)), None, path)
    assert open_volume(path).read(Box((0, 0, 0), (1, 1, 1)))[0, 0, 0] == 255 - pixels[0, 0, 0]


def test_voxel_size_is_asked_for_and_not_guessed(viewer, pixels):
    layer = viewer.add_image(pixels, scale=(40, 4, 4))
    with pytest.raises(UserError, match="does not state its voxel size"):
        snapshot(viewer, layer)
    image = snapshot(viewer, layer, "50,5,5nm")
    assert (image.scale, image.unit) == ((50.0, 5.0, 5.0), "nanometer")
    flat = viewer.add_image(pixels[0], scale=(4, 4), units=("nm", "nm"))
    with pytest.raises(UserError, match="does not state its voxel size"):
        snapshot(viewer, flat)
    assert snapshot(viewer, flat, "50,5,5nm").shape == (1, *pixels.shape[1:])


def test_other_axes_are_fixed_where_the_viewer_stands(viewer, pixels):
    series = viewer.add_image(
        np.stack([pixels, 255 - pixels]), scale=(1, 40, 4, 4), units=("s", *("nm",) * 3)
    )
    viewer.dims.set_current_step(0, 1)
    image = snapshot(viewer, series)
    whole = Box.of(pixels.shape)
    np.testing.assert_array_equal(image.read(whole), 255 - pixels)


def test_a_series_is_asked_for_what_it_shows_itself(viewer, pixels):
    axes = {"scale": (2, 40, 4, 4), "translate": (10, 0, 0, 0), "units": ("s", *("nm",) * 3)}
    series = viewer.add_image(np.stack([pixels, pixels + 1, pixels + 2]), name="late", **axes)
    viewer.add_image(np.stack([pixels] * 2), scale=(1, 40, 4, 4), units=axes["units"])  # every s from 0
    for seconds, index in ((10, 0), (12, 1), (13.4, 2), (14, 2)):
        viewer.dims.set_point(0, seconds)
        assert snapshot(viewer, series).leading == (index,)
        section = pixels[round(viewer.dims.point[1] / 40)]
        np.testing.assert_array_equal(series._slice.image.raw, section + index)  # as it is shown
    for seconds in (0, 5):
        viewer.dims.set_point(0, seconds)
        with pytest.raises(UserError, match="'late' has nothing at this time point"):
            snapshot(viewer, series)


def test_a_series_in_another_unit_of_time(viewer, pixels):
    axes = {"scale": (1, 40, 4, 4), "units": ("s", *("nm",) * 3)}
    viewer.add_image(np.stack([pixels] * 4), **axes)
    series = viewer.add_image(
        np.stack([pixels] * 4), **{**axes, "scale": (1000, 40, 4, 4), "units": ("ms", *("nm",) * 3)}
    )
    viewer.dims.set_point(0, 3 * viewer.dims.range[0].step)
    assert snapshot(viewer, series).leading == (3,)


@pytest.mark.parametrize("made", ["projection", "inverted", "crop", "lazy crop", "turned round"])
def test_what_is_made_of_a_file_is_not_the_file(viewer, volume_path, pixels, made):
    layer = add_volume(viewer, open_volume(volume_path))
    assert source_of(layer) == str(volume_path)
    place = {"scale": layer.scale, "units": layer.units, "metadata": layer.metadata}
    if made == "projection":
        layer = viewer.add_image(pixels.max(axis=0), metadata=layer.metadata)
    elif made == "inverted":
        layer.data = [255 - np.asarray(level) for level in layer.data]
    elif made == "crop":
        layer = viewer.add_image(pixels[4:], **place)
    elif made == "lazy crop":
        layer = viewer.add_image(layer.data[0][4:], **place)
    else:
        layer = viewer.add_image(layer.data[0][::-1], **place)
    assert source_of(layer) is None
    check_unmoved(layer)
    if layer.ndim == 3:
        assert agreeing_source(snapshot(viewer, layer)) is None


def test_lengths_in_several_units_are_one_place(viewer, pixels, tmp_path):
    mixed = {"scale": (0.04, 4, 4), "translate": (0.4, 40, 20), "units": ("um", "nm", "nm")}
    layer = viewer.add_image(pixels, **mixed)
    image = snapshot(viewer, layer)
    assert (image.scale, image.unit) == (pytest.approx((40, 4, 4)), "nanometer")
    assert image.translation == pytest.approx((400, 40, 20))
    write_image(str(tmp_path / "mixed.ome.zarr"), *layer.as_layer_data_tuple()[:2])
    volume = open_volume(tmp_path / "mixed.ome.zarr")
    assert volume.voxel_size_nm() == pytest.approx((40, 4, 4))
    layer.units = ("pixel", "nm", "nm")
    with pytest.raises(UserError, match="does not state its voxel size"):
        snapshot(viewer, layer)
    with pytest.raises(UserError, match=r"several units \(nanometer, pixel\)"):
        write_image(str(tmp_path / "no.ome.zarr"), *layer.as_layer_data_tuple()[:2])
    assert not (tmp_path / "no.ome.zarr").exists()


def test_box_outside_is_one_line(viewer, tmp_path, pixels):
    image = snapshot(viewer, viewer.add_image(pixels, **PLACE))
    with pytest.raises(UserError, match="is not inside layer"):
        spill(image, Box((0, 0, 0), (99, 9, 9)), tmp_path / "x.ome.zarr")
    assert not (tmp_path / "x.ome.zarr").exists()


@pytest.mark.parametrize("file", [True, False])
def test_a_layer_is_put_where_its_results_will_lie(viewer, tmp_path, pixels, file):
    viewer.canvas.size = (400, 400)
    if file:
        tifffile.imwrite(tmp_path / "plain.tif", pixels, photometric="minisblack")
        layer = add_volume(viewer, open_volume(tmp_path / "plain.tif"))
    else:
        layer = viewer.add_image(pixels, translate=(0, 10, 0))
    viewer.dims.set_point(0, 5)
    viewer.scene.camera.center = (0, 40, 30)
    viewer.scene.camera.zoom = 10
    seen = visible_box(viewer, layer, depth=4)
    place_by(viewer, layer, "40,4,4nm")
    assert visible_box(viewer, layer, depth=4) == seen
    image = snapshot(viewer, layer)
    assert (image.scale, image.unit) == ((40, 4, 4), "nanometer")
    assert image.translation == (0, 0 if file else 40, 0)
    place_by(viewer, layer, "40,4,4nm")
    assert snapshot(viewer, layer).translation == image.translation
    check_unmoved(layer)
    place_by(viewer, layer, "0.05,0.005,0.005um")  # mistyped before
    assert (snapshot(viewer, layer).scale, length_unit(layer)) == ((0.05, 0.005, 0.005), "micrometer")
    check_unmoved(layer)
    assert visible_box(viewer, layer, depth=4) == seen
    if file:
        assert layer_facts(layer)["voxel_size"] == "0.05,0.005,0.005um"
        assert "--voxel-size" not in " ".join(layer_facts(layer)["warnings"])
        opened = open_volume(tmp_path / "plain.tif", voxel_size="0.05,0.005,0.005um")
        assert snapshot(viewer, layer).translation == opened.levels[0].translation


def test_channels_of_a_file_are_put_together(viewer, tmp_path, pixels):
    np.save(tmp_path / "two.npy", pixels)
    *layers, moved = (add_volume(viewer, open_volume(tmp_path / "two.npy")) for _ in range(3))
    moved.translate = (5, 5, 5)
    alone = viewer.add_image(np.stack([pixels, pixels]))
    place_by(viewer, layers[0], "40,4,4nm")
    assert [length_unit(layer) for layer in layers] == ["nanometer"] * 2
    assert length_unit(moved) is None
    place_by(viewer, alone, "40,4,4nm")
    assert [str(u) for u in alone.units] == ["pixel", "nanometer", "nanometer", "nanometer"]
    assert tuple(alone.scale) == (1, 40, 4, 4)
    place_by(viewer, flat := viewer.add_image(pixels[0]), "40,4,4nm")
    assert tuple(flat.scale) == (4, 4)
