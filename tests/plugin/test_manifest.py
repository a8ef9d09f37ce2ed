"""The manifest is valid, and everything it promises runs in a real napari."""

from pathlib import Path

import h5py
import npe2
import numpy as np
import pytest
import tifffile

import napari_connectoscope
from connectoscope.errors import UserError
from connectoscope.volumes import open_volume
from napari_connectoscope import readers, writer
from napari_connectoscope.layers import make_layer

MANIFEST = npe2.PluginManifest.from_file(Path(napari_connectoscope.__file__).with_name("napari.yaml"))


def test_manifest_is_valid_and_every_command_exists():
    MANIFEST.validate_imports()
    contributions = MANIFEST.contributions
    used = {
        c.command
        for kind in ("readers", "writers", "widgets", "sample_data")
        for c in getattr(contributions, kind)
    }
    used |= {item.command for items in contributions.menus.values() for item in items}
    assert used <= {command.id for command in contributions.commands}


def test_menus_are_ones_that_napari_lets_us_use():
    from napari._app_model.constants import MenuId

    allowed = {str(menu) for menu in MenuId.contributables()}
    assert set(MANIFEST.contributions.menus) <= allowed


@pytest.mark.parametrize("sample", [s.key for s in MANIFEST.contributions.sample_data])
def test_samples_open_in_their_place(sample):
    for layer in getattr(readers, sample)():
        assert set(layer[1]["units"]) <= {"nanometer", "micrometer"}
        assert make_layer(layer).ndim == 3


def test_reader_takes_what_we_read(volume_path, tmp_path):
    for name in (
        "a.ome.zarr",
        "b.zarr/",
        "c.TIF",
        "d.ome.tiff",
        "e.h5",
        "https://x.org/f.ome.zarr",
        "g.h5::/raw",
        *(f"h{ending}" for ending in readers.KNOWN),
    ):
        assert readers.get_reader(name) is not None, name
    assert readers.get_reader(["a.zarr", "b.png"]) is None
    patterns = set(MANIFEST.contributions.readers[0].filename_patterns)
    assert patterns == {
        f"*{ending}" for ending in (*readers.KNOWN, ".ome.zarr", ".ome.tif", ".ome.tiff", ".csv")
    }
    ((_, options, kind),) = readers.get_reader(str(volume_path))(str(volume_path))
    assert kind == "image"
    assert options["scale"] == (40.0, 4.0, 4.0)
    assert options["multiscale"] is True


def test_all_volumes_of_a_file_are_opened(tmp_path, pixels):
    path = tmp_path / "many.h5"
    with h5py.File(path, "w") as file:
        file["raw"], file["more/labels"], file["meta"] = pixels, pixels // 2, "text"
        file["unnamed axes"] = pixels.reshape(2, 2, 3, 96, 80)
    layers = readers.read(str(path))
    shown = [(options["name"], options.get("visible", True)) for _, options, _ in layers]
    assert shown == [("many /more/labels", True), ("many /raw", False)]
    assert layers[1][1]["metadata"]["connectoscope"]["source"] == f"{path}::/raw"
    with h5py.File(tmp_path / "more.h5", "w") as file:
        for number in range(9):
            file[f"raw{number}"] = pixels
    assert len(readers.read(str(tmp_path / "more.h5"))) == 8


def test_a_colour_image_is_opened_as_its_channels(tmp_path, pixels):
    path = tmp_path / "colour.tif"
    tifffile.imwrite(path, np.stack([pixels, pixels // 2, pixels // 3], axis=-1), photometric="rgb")
    layers = readers.read(str(path))
    assert [(o["name"], o["colormap"].name.split()[1]) for _, o, _ in layers] == [
        ("colour · red", "red"), ("colour · green", "green"), ("colour · blue", "blue"),
    ]  # fmt: skip
    np.testing.assert_array_equal(np.asarray(layers[2][0]), pixels // 3)


def test_a_stack_is_refused_in_words(volume_path):
    with pytest.raises(UserError, match="not stacked"):
        readers.read([str(volume_path)] * 2)


def test_result_opens_with_its_outputs_and_labels(result_path, pixels):
    from connectoscope.volumes import ImageSpec, create_image

    spec = ImageSpec(
        pixels.shape,
        np.dtype(np.uint8),
        (40.0, 4.0, 4.0),
        (0.0, 0.0, 0.0),
        "nanometer",
        (4, 32, 32),
        is_labels=True,
    )
    create_image(result_path / "labels" / "synapses", spec)
    names = [(kind, options["name"]) for _, options, kind in readers.read(str(result_path))]
    assert names == [
        *(("image", "Synapses · probability"), ("image", "Membranes · probability")),
        ("labels", "Synapses"),
    ]


@pytest.mark.parametrize("labels", [False, True])
def test_writer_keeps_scale_units_and_place(tmp_path, pixels, labels):
    path = tmp_path / "saved.ome.zarr"
    layer = {
        "name": "x",
        "scale": (0.04, 0.004, 0.004),
        "translate": (1, 0, 0.5),
        "units": ("micrometer",) * 3,
    }
    write = writer.write_labels if labels else writer.write_image
    assert write(str(path), pixels, layer) == [str(path)]
    volume = open_volume(path)
    assert volume.voxel_size_nm() == pytest.approx((40, 4, 4))
    assert volume.levels[0].translation == pytest.approx((1, 0, 0.5))
    np.testing.assert_array_equal(np.asarray(volume.levels[0].array), pixels)
    (again,) = readers.read(str(path))
    assert again[2] == ("labels" if labels else "image")


def test_writer_refuses_in_one_line(tmp_path, pixels):
    with pytest.raises(UserError, match="colour picture"):
        writer.write_image(str(tmp_path / "x.zarr"), pixels, {"name": "x", "rgb": True})
    with pytest.raises(UserError, match="is not saved: "):  # napari would say nothing of a ValueError
        writer.write_image(str(tmp_path / "x.zarr"), pixels, {"name": "x", "scale": "ab"})
    (tmp_path / "there.ome.zarr").mkdir()
    (tmp_path / "there.ome.zarr" / "mine.txt").write_text("precious")
    with pytest.raises(UserError, match="exists"):
        writer.write_image(str(tmp_path / "there.ome.zarr"), pixels, {"name": "x", "units": ("nm",) * 3})


def test_in_napari_itself(make_napari_viewer, volume_path, tmp_path):
    viewer = make_napari_viewer()
    (layer,) = viewer.open(str(volume_path), plugin="connectoscope")
    assert [str(unit) for unit in layer.units] == ["nanometer"] * 3
    assert viewer.open_sample("connectoscope", "vnc")
    layer.save(str(tmp_path / "saved.ome.zarr"), plugin="connectoscope")
    np.testing.assert_array_equal(
        np.asarray(open_volume(tmp_path / "saved.ome.zarr").levels[0].array), np.asarray(layer.data[0])
    )
    _, panel = viewer.window.add_plugin_dock_widget("connectoscope", "Segment synapses")
    assert panel.form.values()["target"] == ["synapses"]
    _, info = viewer.window.add_plugin_dock_widget("connectoscope", "Info…")
    viewer.layers.selection.active = layer
    assert "40 × 4 × 4 nm" in info.text.text()
    assert str(volume_path) in info.text.text()


def test_plans_and_points_in_napari_itself(make_napari_viewer, volume_path, tmp_path):
    viewer = make_napari_viewer()
    viewer.open(str(volume_path), plugin="connectoscope")
    path = tmp_path / "cells.csv"
    path.write_text("id,z,y,x,unit,radius,score\n1,440,48,28,nanometer,30,1\n")
    (points,) = viewer.open(str(path), plugin="connectoscope")
    np.testing.assert_allclose(points.data_to_world(points.data[0]), (440, 48, 28))
    points.save(str(tmp_path / "again.csv"), plugin="connectoscope")
    assert readers.get_reader(str(tmp_path / "again.csv")) is not None
    _, detect = viewer.window.add_plugin_dock_widget("connectoscope", "Detect cells")
    assert detect.form.values()["detector"] == "cells"
    _, plan = viewer.window.add_plugin_dock_widget("connectoscope", "Plan a cascade")
    plan.plotted.emit({"name": "Time against recall", "series": {"two levels": [[0.1, 0.9], [0.2, 1.0]]}})
    plan.metric.emit({"name": "curve", "step": 1, "values": {"loss": 2.0}})
    plan.metric.emit({"name": "curve", "step": 2, "values": {"loss": 1.0}})
    plan.plan_made.emit(
        {"kind": "plan", "name": "c", "path": "/x.cascade.json", "text": "It pays.", "task": "segment"}
    )
    docks = viewer.window.dock_widgets
    assert {"Time against recall", "curve", "Plan of a cascade"} <= set(docks)
    docks["Plan of a cascade"].run_button.click()
    form = viewer.window.dock_widgets["Synapses with a plan"].form
    assert form.values()["cascade"] == "/x.cascade.json"
    assert form.values()["source"] == str(volume_path)
