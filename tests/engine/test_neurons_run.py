"""Neurons by the whole road, with a stand-in that sees affinities or membranes: quality, blocks, resume, tables."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
import torch
import zarr
from filter_model import FilterBundle, Killed, files_of
from neuron_model import NeuronBundle, tissue

from connectoscope.cli import main
from connectoscope.errors import Cancelled, UserError
from connectoscope.evaluation.partitions import Contingency, adapted_rand_error, variation_of_information
from connectoscope.networks.unet3d import UNet3d, UNet3dArguments
from connectoscope.segmentation.neurons import maker
from connectoscope.volumes import ImageSpec, create_image, open_volume
from connectoscope.zoo import Card
from connectoscope.zoo.writing import write_bundle


def opened(array, voxel="8nm"):
    return open_volume(array, voxel_size=voxel)


def labels_of(destination):
    return zarr.open_array(destination / "labels" / "neurons" / "0", mode="r")[...]


def vi(a, b):
    return sum(variation_of_information(Contingency.of(a, b)))


def rows_of(path):
    with path.open() as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(
    ("outputs", "voxel", "limit"),
    [
        (None, (8.0, 8.0, 8.0), 0.01),
        (("boundary",), (8.0, 8.0, 8.0), 0.45),
        (("boundary",), (40.0, 8.0, 8.0), 0.9),
    ],
    ids=["affinities", "boundary", "boundary, thick sections"],
)
def test_neurons_are_found_and_cells_leave_no_trace(run, tmp_path, monkeypatch, outputs, voxel, limit):
    flat = voxel[0] / voxel[1]
    shape = (int(48 // flat**0.5), 64, 64)
    truth = tissue(shape, 10, 1, (flat, 1, 1))
    bundle = NeuronBundle(voxel_size=voxel, **({} if outputs is None else {"outputs": outputs}))
    volume = opened(truth, ",".join(map(str, voxel)) + "nm")
    found = []
    for side in (200, 32, 16):  # 1, 8 or 9, and about 64 cells
        monkeypatch.setattr(maker, "CELL", side)
        out = tmp_path / f"{side}.ome.zarr"
        run(volume, out, core=(16, 32, 32), bundle=bundle, target=("neurons",))
        found.append(labels_of(out))
    known = Contingency.of(found[0], truth)
    assert vi(found[0], truth) < limit
    assert adapted_rand_error(known) < limit
    assert vi(found[1], found[0]) <= 0.02
    assert vi(found[2], found[0]) <= 0.02
    assert (found[0] > 0).all()
    first = [np.flatnonzero(found[0] == n)[0] for n in range(1, found[0].max() + 1)]
    assert first == sorted(first)


def test_tables_say_what_neurons_are_and_where_they_touch(run, tmp_path, monkeypatch):
    monkeypatch.setattr(maker, "CELL", 16)
    truth = tissue((24, 32, 40), 6, 2)
    out = tmp_path / "out.ome.zarr"
    summary = run(opened(truth), out, core=(16, 16, 16), bundle=NeuronBundle(), target=("neurons",))
    labels = labels_of(out)
    rows = rows_of(out / "tables" / "neurons.csv")
    assert summary["objects"] == {"neurons": len(rows)} == {"neurons": labels.max()}
    for row in rows:
        where = np.argwhere(labels == int(row["id"]))
        np.testing.assert_allclose([float(row[a]) for a in "zyx"], where.mean(axis=0) * 8, atol=1e-6)
        assert float(row["volume_nm3"]) == len(where) * 512
    expected = {}
    for axis in range(3):
        a, b = np.moveaxis(labels, axis, 0)[:-1], np.moveaxis(labels, axis, 0)[1:]
        for pair in zip(a[a != b].tolist(), b[a != b].tolist(), strict=True):
            key = (min(pair), max(pair))
            expected[key] = expected.get(key, 0) + 64
    contacts = rows_of(out / "tables" / "neurons-adjacency.csv")
    assert {(int(r["a"]), int(r["b"])): int(r["contact_nm2"]) for r in contacts} == expected
    assert all(0.9 < float(r["mean_boundary"]) <= 1 for r in contacts)
    assert (out / "tables" / "neurons-adjacency.json").exists()


@pytest.mark.parametrize("end", [Cancelled, Killed], ids=str)
def test_interrupted_anywhere_and_resumed_gives_the_same_bytes(run, tmp_path, monkeypatch, end):
    monkeypatch.setattr(maker, "CELL", 12)
    volume = opened(tissue((16, 24, 20), 5, 3))
    options = {"core": (8, 16, 16), "bundle": NeuronBundle(), "target": ("neurons",)}
    whole = tmp_path / "a" / "out.ome.zarr"
    whole.parent.mkdir()
    run(volume, whole, **options)
    expected, looks = files_of(whole), run.looks
    for stop_at in range(0, looks, max(looks // 8, 1)):
        out = tmp_path / str(stop_at) / "out.ome.zarr"
        out.parent.mkdir()
        with pytest.raises(end):
            run(volume, out, stop_at=stop_at, end=end, **options)
        run(volume, out, **options)
        assert files_of(out) == expected, stop_at


def test_only_within_the_mask(run, tmp_path):
    truth = tissue((16, 32, 32), 5, 4)
    spec = ImageSpec(
        (16, 32, 32), np.dtype(np.uint8), (8.0, 8.0, 8.0), (0.0, 0.0, 0.0), "nanometer", (16, 16, 16)
    )
    mask = np.zeros((16, 32, 32), np.uint8)
    mask[:, 4:20] = 1
    create_image(tmp_path / "mask.ome.zarr", spec)[0].write(mask).result()
    out = tmp_path / "out.ome.zarr"
    run(
        opened(truth),
        out,
        core=(16, 16, 16),
        bundle=NeuronBundle(),
        target=("neurons",),
        within=str(tmp_path / "mask.ome.zarr"),
    )
    labels = labels_of(out)
    assert not labels[mask == 0].any()
    assert (labels > 0)[mask > 0].mean() > 0.95


def test_command_segments_and_evaluates_and_refuses_in_one_line(tmp_path, capsys, monkeypatch):
    """Through the command line, with a network that has learned nothing."""
    truth = np.zeros((16, 24, 24), np.uint16)
    truth[:] = 1 + (np.arange(24) > 11)
    truth[0, :4, :4] = 3  # too few voxels to be scored
    rng = np.random.default_rng(0)
    for name, data in (("truth", truth), ("raw", rng.integers(0, 255, truth.shape).astype(np.uint8))):
        spec = ImageSpec(data.shape, data.dtype, (8.0, 8.0, 8.0), (0.0, 0.0, 0.0), "nanometer", (16, 24, 24))
        create_image(tmp_path / f"{name}.ome.zarr", spec)[0].write(data).result()
    architecture = UNet3dArguments(6, (4, 4), (((3, 3, 3),), ((3, 3, 3),)), ((2, 2, 2),))
    card = NeuronBundle().card.model_dump(by_alias=True) | {
        "architecture": {"name": "unet3d", "arguments": architecture.to_json()},
        "receptive_field": architecture.receptive_field(),
        "stride": architecture.total_stride,
        "halo": {"exact": architecture.halo(), "practical": architecture.halo()},
    }
    torch.manual_seed(0)
    weights = UNet3d(architecture).state_dict()
    write_bundle(tmp_path / "models" / "filter", Card.model_validate(card), weights)
    card["outputs"] = [o | {"name": f"thing{i}"} for i, o in enumerate(card["outputs"])]
    write_bundle(tmp_path / "models" / "blind", Card.model_validate(card | {"name": "blind"}), weights)

    def command(*words):
        monkeypatch.setattr("sys.argv", ["connectoscope", *map(str, words)])
        with pytest.raises(SystemExit) as end:
            main()
        return int(end.value.code or 0), *capsys.readouterr()

    raw, out = tmp_path / "raw.ome.zarr", tmp_path / "out.ome.zarr"
    options = ("--target", "neurons", "--json")
    code, said, err = command("segment", raw, out, "--model", tmp_path / "models" / "filter", *options)
    assert code == 0, err
    assert set(json.loads(said)["objects"]) == {"neurons"}
    code, said, err = command(
        "evaluate", out, tmp_path / "truth.ome.zarr", *options, "--box", "0:12,0:24,0:24"
    )
    assert code == 0, err
    known = truth[:12] < 3
    table = Contingency.of(labels_of(out)[:12][known], truth[:12][known])
    scores = json.loads(said)
    assert (scores["vi_split"], scores["vi_merge"]) == pytest.approx(variation_of_information(table))
    assert scores["arand"] == pytest.approx(adapted_rand_error(table))
    other = tmp_path / "other.ome.zarr"
    code, _, err = command("segment", raw, other, "--model", tmp_path / "models" / "blind", *options[:2])
    assert code == 2
    assert "neither affinities nor boundary" in err
    assert len(err.strip().splitlines()) == 1


def test_what_cannot_be_done_is_refused(run, tmp_path):
    volume = opened(tissue((8, 16, 16), 3))
    bundle = NeuronBundle(outputs=("synapses",))
    with pytest.raises(UserError, match="neither affinities nor boundary"):
        run(volume, tmp_path / "a.ome.zarr", bundle=bundle, target=("neurons",))
    with pytest.raises(UserError, match="cascade off"):
        run(volume, tmp_path / "b.ome.zarr", bundle=NeuronBundle(), target=("neurons",), cascade="auto")


def test_a_model_of_membranes_makes_neurons_beside_its_own_targets(run, tmp_path):
    truth = tissue((16, 24, 24), 4, 5)
    out = tmp_path / "out.ome.zarr"
    summary = run(opened(truth), out, bundle=FilterBundle(), target=("synapses", "neurons"))
    assert set(summary["objects"]) == {"synapses", "neurons"}
