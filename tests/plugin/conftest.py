"""napari with a configuration of its own, small volumes, and a small model that needs no training."""

from __future__ import annotations

import os
import tempfile

# Before napari is imported: it reads and writes the user's settings otherwise.
os.environ["NAPARI_CONFIG"] = os.path.join(tempfile.mkdtemp(prefix="napari-tests-"), "settings.yaml")  # noqa: PTH118
os.environ.setdefault("QT_API", "pyside6")

import numpy as np
import pytest


@pytest.fixture
def viewer(qapp):
    """A viewer without a canvas: quick, and enough for layers, forms and panels."""
    from napari.components import ViewerModel

    model = ViewerModel()
    yield model
    model.layers.clear()
    model._layer_slicer.shutdown()


@pytest.fixture
def pixels():
    """(12, 96, 80) uint8, smooth."""
    z, y, x = np.indices((12, 96, 80))
    return (120 + 60 * np.sin(y / 9) * np.cos(x / 7) + 40 * np.sin(z / 3)).astype(np.uint8)


@pytest.fixture
def volume_path(tmp_path, pixels):
    """An OME-Zarr of ``pixels`` with a pyramid, 40 x 4 x 4 nm, beginning at (400, 40, 20) nm."""
    from connectoscope.volumes import ImageSpec, create_image, pyramid_factors
    from connectoscope.volumes.conversion import fill_pyramid

    path = tmp_path / "cell.ome.zarr"
    spec = ImageSpec(
        shape=pixels.shape,
        dtype=pixels.dtype,
        scale=(40.0, 4.0, 4.0),
        translation=(400.0, 40.0, 20.0),
        unit="nanometer",
        chunks=(4, 32, 32),
        factors=pyramid_factors(pixels.shape, (40.0, 4.0, 4.0), smallest=48),
        name="cell",
    )
    stores = create_image(path, spec)
    fill_pyramid(
        path,
        stores,
        spec,
        lambda lead, box: pixels[box.slices],
        source_chunks=(4, 32, 32),
        progress=lambda *_: None,
    )
    return path


@pytest.fixture
def result_path(tmp_path, pixels):
    """An unfinished result of two outputs with two levels; level 1 is not yet written."""
    from connectoscope.volumes import ImageSpec, create_image

    path = tmp_path / "cell-synapses.ome.zarr"
    spec = ImageSpec(
        shape=pixels.shape,
        dtype=np.dtype(np.uint8),
        scale=(40.0, 4.0, 4.0),
        translation=(400.0, 40.0, 20.0),
        unit="nanometer",
        chunks=(4, 32, 32),
        channels=("synapses", "boundary"),
        factors=((1, 1, 1), (1, 2, 2)),
        attributes={"connectoscope": {"finished": False, "request": {"task": "segment"}}},
    )
    stores = create_image(path, spec)
    stores[0].write(np.stack([pixels, 255 - pixels])).result()
    return path


@pytest.fixture
def small_model(tmp_path, monkeypatch):
    """The bundle ``synapse-vnc`` for this test: one convolution with fixed weights; True outputs are blobs."""
    import torch

    from connectoscope.networks.unet3d import UNet3d, UNet3dArguments
    from connectoscope.zoo import Card
    from connectoscope.zoo.writing import write_bundle

    arguments = UNet3dArguments(outputs=2, features=(2,), kernels=(((1, 3, 3),),), strides=())
    torch.manual_seed(0)
    network = UNet3d(arguments)
    field = arguments.receptive_field()
    card = Card(
        schema=1,
        name="synapse-vnc",
        version="1",
        description="For tests",
        architecture={"name": "unet3d", "arguments": arguments.to_json()},
        inputs={"voxel_size": (40.0, 4.0, 4.0)},
        outputs=[
            {"name": "synapses", "meaning": "active zones", "instances": True, "threshold": 128},
            {"name": "boundary", "meaning": "membranes", "instances": False},
        ],
        receptive_field=field,
        stride=arguments.total_stride,
        halo={"exact": arguments.halo(), "practical": arguments.halo()},
        licence="BSD-3-Clause",
        files=(),
    )
    models = tmp_path / "models"
    monkeypatch.setenv("CONNECTOSCOPE_MODELS", str(models))
    return write_bundle(models / "synapse-vnc", card, network.state_dict())
