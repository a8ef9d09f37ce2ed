"""Runs with a randomly initialised network of the real kind: tiles, halo and preview against one forward pass."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from filter_model import blobs, files_of

from connectoscope.jobs.context import Context
from connectoscope.networks.normalise import intensity_range, normalise
from connectoscope.networks.registry import build_network
from connectoscope.networks.unet3d import UNet3dArguments
from connectoscope.segmentation import setup as set_up_module
from connectoscope.tasks.base import load_task
from connectoscope.volumes import ImageSpec, create_image, open_volume
from connectoscope.volumes.geometry import Box, parse_box
from connectoscope.zoo import Card, find_model
from connectoscope.zoo.writing import write_bundle

HALO = (4, 20, 20)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    arguments = UNet3dArguments(
        outputs=2, features=(4, 6), kernels=(((1, 3, 3), (3, 3, 3)), ((3, 3, 3),)), strides=((1, 2, 2),)
    )
    torch.manual_seed(0)
    network = build_network("unet3d", arguments.to_json())
    halo = tuple(-(-r // s) * s for r, s in zip(arguments.reach(), arguments.total_stride, strict=True))
    card = Card(
        schema=1, name="random", version="1", description="random weights",
        architecture={"name": "unet3d", "arguments": arguments.to_json()}, inputs={"voxel_size": (8.0, 8.0, 8.0)},
        outputs=[
            {"name": "synapses", "meaning": "", "instances": True, "threshold": 128, "min_volume_nm3": 0.0},
            {"name": "boundary", "meaning": "", "instances": False, "threshold": 128, "min_volume_nm3": 0.0},
        ],
        receptive_field=arguments.receptive_field(), stride=arguments.total_stride,
        halo={"exact": halo, "practical": halo}, licence="BSD-3-Clause", files=[],
    )  # fmt: skip
    return write_bundle(tmp_path_factory.mktemp("zoo") / "random", card, network.state_dict()).path


@pytest.fixture
def source(tmp_path):
    array = blobs((10, 45, 50), 4)
    spec = ImageSpec(array.shape, array.dtype, (8.0,) * 3, (0.0,) * 3, "nanometer", (5, 20, 20))
    create_image(tmp_path / "source.zarr", spec)[0].write(array).result()
    return tmp_path / "source.zarr", array


@pytest.fixture(autouse=True)
def _float32(monkeypatch):
    monkeypatch.setattr("connectoscope.segmentation.setup.best_precision", lambda device: "float32")
    monkeypatch.setattr("connectoscope.segmentation.preview.best_precision", lambda device: "float32")


def run_task(name, folder, **values):
    task = load_task(name)
    return task.run(task.parameters(**values), Context.local(folder, threads=1))


def whole(model, array):
    """One forward pass over everything, padded symmetrically."""
    halo, stride = find_model(model).card.halo.exact, find_model(model).card.stride
    low, high = intensity_range(lambda box: array[box.slices], array.shape, 1.0, 99.0)
    pad = [(h, h + -n % s) for h, n, s in zip(halo, array.shape, stride, strict=True)]
    x = np.pad(normalise(array, low, high), pad, mode="symmetric")
    with torch.inference_mode():
        p = torch.sigmoid(find_model(model).load_network()(torch.from_numpy(x)[None, None]))[0].numpy()
    inner = tuple(slice(h, h + n) for h, n in zip(halo, array.shape, strict=True))
    return p[(slice(None), *inner)] * 255


def test_tiles_equal_one_forward_pass_and_a_box_is_cut_out(model, source, tmp_path, monkeypatch):
    monkeypatch.setattr(
        set_up_module,
        "choose_tile",
        lambda grid, halo, stride, voxels: tuple(2 * h + c for h, c in zip(halo, (4, 16, 16), strict=True)),
    )
    path, array = source
    out = tmp_path / "out.ome.zarr"
    run_task(
        "segment", tmp_path / "job", source=str(path), destination=str(out), model=str(model), exact=True
    )
    made = np.stack([open_volume(out, channel=c).read(Box.of(array.shape)) for c in range(2)])
    assert np.abs(made - whole(model, array)).max() <= 0.5 + 255 * 1e-5
    text = "2:9,7:40,11:50"
    cut = tmp_path / "cut.ome.zarr"
    run_task(
        "segment",
        tmp_path / "job2",
        source=str(path),
        destination=str(cut),
        model=str(model),
        exact=True,
        box=text,
    )
    box = parse_box(text)
    for c in range(2):
        np.testing.assert_array_equal(
            open_volume(cut, channel=c).read(Box.of(box.shape)), made[(c, *box.slices)]
        )


def test_preview_shows_what_the_run_will_give(model, source, tmp_path):
    path, _ = source
    out = tmp_path / "out.ome.zarr"
    run_task("segment", tmp_path / "job", source=str(path), destination=str(out), model=str(model))
    for number, text in enumerate(("2:9,7:40,11:50", "3:4,5:20,30:50")):
        box = parse_box(text)
        job = tmp_path / f"preview{number}"
        run_task("preview", job, source=str(path), model=str(model), box=text)
        shown = open_volume(job / "preview.ome.zarr", channel="synapses")
        run = open_volume(out, channel="synapses").read(box)
        assert np.abs(shown.read(Box.of(shown.shape)).astype(int) - run).max() <= 1
        assert shown.levels[0].translation == tuple(8.0 * s for s in box.start)
    events, _ = Context.local(tmp_path / "preview0").job.read_events()
    assert [e["thresholds"] for e in events if e["type"] == "result"] == [{"synapses": 128, "boundary": 128}]


def test_the_same_request_gives_the_same_bytes(model, source, tmp_path):
    path, _ = source
    for name in "ab":
        run_task(
            "segment",
            tmp_path / f"{name}.job",
            source=str(path),
            destination=str(tmp_path / f"{name}.ome.zarr"),
            model=str(model),
        )
    assert files_of(tmp_path / "a.ome.zarr") == files_of(tmp_path / "b.ome.zarr")
