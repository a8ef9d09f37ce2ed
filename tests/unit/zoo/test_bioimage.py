"""bioimage.io packages: ours come back byte for byte, those of others run the same."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import yaml
import zarr
from onnx import helper
from zoo_packages import (
    ARGUMENTS,
    HALO,
    KERNEL,
    Files,
    foreign,
    graph,
    npy,
    packed,
    planes,
    put,
    said,
    unzipped,
)

from connectoscope import cli
from connectoscope.adaptation.uncertainty import Eye
from connectoscope.errors import UserError
from connectoscope.networks.normalise import intensity_range, normalise
from connectoscope.networks.onnx_network import OnnxArguments, OnnxNetwork, device_for, measured_reach
from connectoscope.segmentation import preview
from connectoscope.segmentation.setup import device_of
from connectoscope.zoo import Bundle, find_model
from connectoscope.zoo.card import CARD, ONNX, Imported, Normalisation
from connectoscope.zoo.imports import import_package
from connectoscope.zoo.intensity import wanted_range


def test_our_own_comes_back_byte_for_byte(
    bundle: Bundle, package: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = said(capsys, "import", str(package), "again")
    assert (code, out.split()) == (0, ["imported", str(bundle.path.with_name("again"))])
    again = find_model("again")
    assert sorted(p.name for p in again.path.iterdir()) == sorted(p.name for p in bundle.path.iterdir())
    for file in bundle.path.iterdir():
        assert (again.path / file.name).read_bytes() == file.read_bytes()
    assert (again.hash, again.gate_hash, again.parent) == (bundle.hash, bundle.gate_hash, "large")
    # Also from a folder, under its own name, and never over one that is there.
    shutil.rmtree(bundle.path)
    folder = tmp_path / "unpacked"
    zipfile.ZipFile(package).extractall(folder)
    assert said(capsys, "import", str(folder))[0] == 0
    assert find_model("small").hash == bundle.hash
    code, _, err = said(capsys, "import", str(folder))
    assert code == 2
    assert "exists; choose another name" in err


def test_the_same_model_gives_the_same_package(
    bundle: Bundle, package: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = package.with_name("other.zip")
    assert said(capsys, "export", "small", str(other), "--author", "A. Person")[0] == 0
    assert other.read_bytes() == package.read_bytes()


def test_the_package_holds_what_it_says(bundle: Bundle, package: Path) -> None:
    files = unzipped(package)
    rdf = yaml.safe_load(files["rdf.yaml"])
    named = [rdf["weights"]["onnx"], rdf["documentation"], *rdf["attachments"]]
    named += [rdf[kind][0]["test_tensor"] for kind in ("inputs", "outputs")]
    assert {n["source"] for n in named} | {"rdf.yaml"} == files.keys()
    for file in named:
        assert hashlib.sha256(files[file["source"]]).hexdigest() == file["sha256"]
    space = [a for a in rdf["inputs"][0]["axes"] if a["type"] == "space"]
    assert [(a["id"], a["scale"], a["unit"]) for a in space] == [
        ("z", 40.0, "nanometer"),
        ("y", 8.0, "nanometer"),
        ("x", 8.0, "nanometer"),
    ]
    assert [a.get("halo", 0) for a in rdf["outputs"][0]["axes"][2:]] == list(HALO)
    assert rdf["outputs"][0]["axes"][1]["channel_names"] == ["synapses", "boundary"]
    assert rdf["authors"] == [{"name": "A. Person"}]
    assert b"Halo" in files["README.md"]
    # As another program would: what the description says, by onnxruntime.
    image, expected = (np.load(io.BytesIO(files[f"test_{kind}.npy"])) for kind in ("input", "output"))
    low, high = np.percentile(image, (1, 99))
    seen = np.clip((image - low) / (high - low + 1e-6) - 0.5, -1, 1).astype(np.float32)
    (found,) = onnxruntime.InferenceSession(files["model.onnx"]).run(None, {"image": seen})
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert np.ptp(expected) > 0.05


def test_a_foreign_package_segments_as_the_model_in_it(
    bundle: Bundle, package: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert said(capsys, "import", str(foreign(package)), "theirs")[0] == 0
    theirs = find_model("theirs")
    assert theirs.card.imported
    assert [o.name for o in theirs.card.outputs] == ["synapses", "boundary"]
    assert theirs.card.inputs.voxel_size == (40, 8, 8)
    assert theirs.card.halo == bundle.card.halo
    draw = np.random.default_rng(1)
    volume = draw.integers(0, 255, (7, 45, 38)).astype(np.uint8)
    np.save(tmp_path / "volume.npy", volume)
    out = tmp_path / "out.ome.zarr"
    words = [
        "segment",
        str(tmp_path / "volume.npy"),
        str(out),
        "--model",
        "theirs",
        "--voxel-size",
        "40,8,8nm",
    ]
    assert cli.run([*words, "--threads", "1", "--device", "cpu"]) == 0
    low, high = intensity_range(lambda box: volume[box.slices], volume.shape, 1, 99)  # type: ignore[arg-type]
    rim = [(h, h + 4) for h in HALO]
    image = torch.from_numpy(normalise(np.pad(volume, rim, mode="symmetric"), low, high)[..., :-2, :-2])
    shape = [n // s * s for n, s in zip(image.shape, ARGUMENTS.total_stride, strict=True)]
    image = image[tuple(slice(n) for n in shape)]
    with torch.inference_mode():
        p = bundle.load_network()(image[None, None])[0].sigmoid().numpy()
    inside = tuple(slice(h, h + n) for h, n in zip(HALO, volume.shape, strict=True))
    image_group = zarr.open_group(out, mode="r")
    assert image_group.attrs["connectoscope"]["signature"]["plan"]["precision"] == "float32"
    found = image_group["0"][:]
    assert np.abs(found.astype(int) - np.floor(p[(slice(None), *inside)] * 255 + 0.5)).max() <= 1


@pytest.mark.parametrize(
    "words",
    [
        ("models", "export", "theirs", "a.onnx"),
        ("models", "export", "theirs", "a.zip"),
    ],
)
def test_what_needs_a_network_of_ours_refuses_an_imported_one(
    words: tuple[str, ...],
    package: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert said(capsys, "import", str(foreign(package)), "theirs")[0] == 0
    theirs = find_model("theirs")
    with pytest.raises(UserError, match="imported ONNX network"):
        theirs.load_network()
    with pytest.raises(UserError, match="imported ONNX network"):  # before anything else is asked of it
        Eye(theirs, None, (4, 4, 4), turned=False, device="cpu", threads=1)  # type: ignore[arg-type]
    assert cli.run(words) == 2
    assert "imported ONNX network: it can segment, but not be trained" in capsys.readouterr().err


@pytest.mark.parametrize("pads", [[2, 1, 2, 1], [0, 0, 0, 0]])
def test_a_network_of_single_planes_with_or_without_padding(
    models: Path, tmp_path: Path, pads: list[int]
) -> None:
    made = import_package(packed(tmp_path / "p.zip", *planes(pads)), models)
    card = made.bundle.card
    assert made.notes == ()
    assert made.bundle.path.name == "Planes-of-a-lab"
    assert card.halo.exact == (0, 2, 1)  # measured, or by what is missing at the sides
    assert card.planes
    assert card.inputs.voxel_size == (500, 500, 500)
    volume = np.random.default_rng(3).integers(0, 200, (3, 20, 24)).astype(np.uint8)
    low, high = wanted_range(card.inputs.normalisation, lambda box: volume[box.slices], volume.shape)  # type: ignore[arg-type]
    tile = (3, 18, 16)
    predict = made.bundle.predictor(tile=tile, threads=1)
    found = predict(normalise(volume[:, :18, :16], low, high))
    kernel = torch.from_numpy(KERNEL.astype(np.float32))
    logits = torch.nn.functional.conv2d(
        torch.from_numpy(volume[:, None, :18, :16].astype(np.float32)), kernel
    )
    expected = np.floor(logits.sigmoid().numpy()[:, 0] * 255 + 0.5)
    assert np.abs(found[0].astype(int) - expected).max() <= 1


def test_a_network_of_one_size_sees_the_volume_in_pieces(models: Path, tmp_path: Path) -> None:
    rdf, files = planes([2, 1, 2, 1])
    for axis in rdf["inputs"][0]["axes"][2:]:
        axis["size"] = 32
    made = import_package(packed(tmp_path / "p.zip", rdf, files), models)
    assert made.bundle.card.halo.exact == (0, 2, 1)
    image = np.random.default_rng(3).uniform(0, 0.02, (2, 70, 24)).astype(np.float32)
    weights = files["w.onnx"]
    (whole,) = onnxruntime.InferenceSession(weights).run(
        None, {"image": image[:, None] * made.bundle.card.architecture.arguments["before"][0][1]}
    )
    found = made.bundle.predictor(tile=image.shape, threads=1)(image)  # type: ignore[arg-type]
    expected = np.floor(255 / (1 + np.exp(-whole[:, 0, 2:-2, 1:-1])) + 0.5)
    assert np.abs(found[0].astype(int) - expected).max() <= 1


def test_a_halo_that_the_package_does_not_state_is_measured(package: Path, models: Path) -> None:
    def without(rdf: dict[str, Any], files: Files) -> None:
        for axis in rdf["outputs"][0]["axes"]:
            axis.pop("halo", None)

    halo = import_package(foreign(package, without), models, "theirs").bundle.card.halo.exact
    assert all(r <= m <= h + s for r, m, h, s in zip(ARGUMENTS.reach(), halo, HALO, (1, 2, 2), strict=True))


def test_statistics_over_space_are_marked(models: Path, tmp_path: Path) -> None:
    rdf, files = planes([2, 1, 2, 1])
    one = np.ones(1)
    files["w.onnx"] = graph(
        helper.make_node("InstanceNormalization", ["image", "s", "b"], ["out"]), axes=4, s=one, b=0 * one
    )
    image = np.load(io.BytesIO(files["in.npy"]))
    files["out.npy"] = npy(1 / (1 + np.exp(-(image - image.mean()) / image.std())))
    rdf["inputs"][0]["preprocessing"] = [{"id": "zero_mean_unit_variance", "kwargs": {"axes": ["x", "y"]}}]
    made = import_package(packed(tmp_path / "p.zip", rdf, files), models)
    (note,) = made.notes
    assert "seams between tiles are possible" in note
    assert note in made.bundle.card.description
    assert json.loads((made.bundle.path / CARD).read_text())["imported"]["notes"] == [note]
    arguments = OnnxArguments.parse(made.bundle.card.architecture.arguments)
    network = OnnxNetwork(files["w.onnx"], arguments, threads=1)
    noise = np.random.default_rng(0).uniform(0, 0.01, (1, 32, 32)).astype(np.float32)
    assert measured_reach(network, made.bundle.card.stride, noise) is None


def test_voxel_size_for_a_package_without_one(
    package: Path, models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = foreign(package, put(None, "inputs", 0, "axes", 2, "unit"))
    assert said(capsys, "import", str(path), "theirs", "--voxel-size", "0.03,0.008,0.008um")[0] == 0
    assert find_model("theirs").card.inputs.voxel_size == pytest.approx((30, 8, 8))
    assert (models / "theirs" / ONNX).exists()


def test_what_onnxruntime_cannot_do_here(
    package: Path, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = import_package(foreign(package), models, "theirs").bundle
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    assert [device_for(d, asked=False) for d in ("cpu", "cuda", "mps")] == ["cpu"] * 3
    for asked, device in (("auto", "cpu"), ("cpu", "cpu")):  # what stands in the plan
        context = SimpleNamespace(
            device="cuda" if asked == "auto" else "cpu", request=SimpleNamespace(device=asked)
        )
        assert device_of(bundle, context) == device  # type: ignore[arg-type]
    tile = tuple(2 * h + 4 for h in HALO)
    with pytest.raises(UserError, match="does not know cuda here; use --device cpu"):
        bundle.predictor(tile=tile, device="cuda")  # type: ignore[arg-type]
    predict = bundle.predictor(tile=tile, threads=1)  # type: ignore[arg-type]

    class Full:
        def run(self, *_: object) -> None:
            raise RuntimeError("[ONNXRuntimeError] : 6 : Failed to allocate memory for requested buffer")

    monkeypatch.setattr(predict.network, "_session", Full())
    with pytest.raises(MemoryError, match="Failed to allocate"):  # so that the run goes on with smaller tiles
        predict(np.zeros(tile, np.float32))


def test_the_check_of_the_graph_is_also_of_models_that_were_not_imported_here() -> None:
    model = onnx.load_from_string(
        graph(helper.make_node("Mul", ["image", "k"], ["out"]), axes=5, k=np.ones(1))
    )
    model.graph.initializer[0].external_data.add(key="location", value="/etc/passwd")
    arguments = OnnxArguments("bczyx", "bczyx", (1, 1, 1), (1, 1, 1))
    with pytest.raises(UserError, match="in a second file"):
        OnnxNetwork(model.SerializeToString(), arguments)


def test_a_preview_remembers_intensities_by_the_whole_normalisation() -> None:
    def setup(normalisation: Normalisation | Imported, intensity: tuple[float, float]) -> Any:
        volume = SimpleNamespace(source="s", metadata_hash="h", stamp=None, channel=None, time=None)
        card = SimpleNamespace(inputs=SimpleNamespace(normalisation=normalisation))
        return SimpleNamespace(
            volume=volume, bundle=SimpleNamespace(card=card), grid=SimpleNamespace(level=0, factor=(1, 1, 1)),
            intensity=lambda: intensity,
        )  # fmt: skip

    ours, theirs = Normalisation(low=1, high=99), Imported(method="scale-range", low=1, high=99)
    assert preview._intensity(setup(ours, (1, 2))) == (1, 2)
    assert preview._intensity(setup(theirs, (3, 4))) == (3, 4)
    assert preview._intensity(setup(ours, (5, 6))) == (1, 2)
