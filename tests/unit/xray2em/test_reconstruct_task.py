"""Reconstruction through the command: the finer grid, blocks, boxes, interruption, and what is said of the result."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import zarr
from made_tissue import tissue

from connectoscope import cli
from connectoscope.errors import Cancelled, Corrupt, UserError
from connectoscope.jobs.context import Context
from connectoscope.networks import upscaling
from connectoscope.networks.normalise import intensity_range, normalise
from connectoscope.tasks.reconstruct import Reconstruct, run
from connectoscope.volumes import ImageSpec, create_image, open_volume, read_attributes
from connectoscope.volumes.geometry import Box, Index3
from connectoscope.xray2em import predict
from connectoscope.xray2em import reconstruct as room
from connectoscope.zoo import find_model

SHAPE = (10, 22, 26)


def written(path: Path, pixels: np.ndarray, voxel: tuple[float, float, float] = (30.0, 30.0, 30.0)) -> str:
    spec = ImageSpec(pixels.shape, pixels.dtype, voxel, (300.0, 0.0, 60.0), "nanometer", pixels.shape)
    create_image(path, spec)[0].write(pixels).result()
    return str(path)


@pytest.fixture
def xray(tmp_path: Path) -> str:
    fine = tissue((30, 66, 78), 4).reshape(10, 3, 22, 3, 26, 3).mean((1, 3, 5))
    return written(tmp_path / "xray.ome.zarr", fine.astype(np.uint8))


@pytest.fixture
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cores of 8 x 10 x 8 X-ray voxels."""

    def tile(grid: Index3, halo: Index3, stride: Index3, voxels: int) -> tuple[int, ...]:
        return tuple(c + 2 * h for c, h in zip((8, 10, 8), halo, strict=True))

    monkeypatch.setattr(room, "choose_tile", tile)


def made(model: Path, source: str, out: Path, context: Context | None = None, **more: object) -> dict:
    asked = Reconstruct(source=source, destination=str(out), model=str(model), **more)
    return run(asked, context or Context.local(out.with_suffix(".job"), threads=1))


def stored(path: Path) -> np.ndarray:
    return zarr.open_array(path / "0", mode="r")[...]


def reference(model: Path, source: str) -> np.ndarray:
    """The whole volume in one pass, float32."""
    bundle = find_model(model)
    volume = open_volume(source)
    image = volume.read(Box.of(volume.shape))
    seen = normalise(image, *intensity_range(lambda box: image[box.slices], image.shape, 1.0, 99.0))
    halo = bundle.halo(True)
    pad = [(h, h + -n % 2) for h, n in zip(halo, image.shape, strict=True)]
    x = torch.from_numpy(np.pad(seen, pad, mode="symmetric"))[None, None]
    with torch.inference_mode():
        told = predict.load_network(bundle)(x, halo)[:, 0]
        mean, aleatoric, epistemic = upscaling.combined(told)
        scale = bundle.card.calibration["scale"]
        every = torch.stack((mean, scale * aleatoric.sqrt(), scale * epistemic.sqrt()))
    return every[:, :30, :66, :78].numpy()


def test_result_lies_on_the_finer_grid_and_says_what_it_is(trained: Path, xray: str, tmp_path: Path, capsys):
    out = tmp_path / "em.ome.zarr"
    model = str(trained / "tiny-xray")
    assert cli.run(["reconstruct", xray, str(out), "--model", model, "--json", "--resolution", "90nm"]) == 0
    summary = json.loads(capsys.readouterr().out)
    volume = open_volume(out, channel="em")
    assert volume.channels == ("em", "aleatoric_sd", "epistemic_sd")
    assert (volume.shape, volume.dtype, volume.voxel_size_nm()) == (
        (30, 66, 78),
        np.float16,
        (10.0, 10.0, 10.0),
    )
    assert volume.levels[0].translation == (290.0, -10.0, 50.0)  # the first third of the first X-ray voxel
    card = json.loads((trained / "tiny-xray" / "card.json").read_text())
    scores = {score["metric"]: score["value"] for score in card["scores"]}
    assert summary["calibration"]["coverage_80"] == scores["coverage_80"]
    sd = np.hypot(*stored(out)[1:].astype(np.float32))
    untrusted = (sd > card["calibration"]["trusted_sd"]).mean()
    assert summary["untrusted_share"] == pytest.approx(untrusted, abs=1e-4)
    attributes = read_attributes(out)
    assert attributes["finished"]
    assert attributes["calibration"] == card["calibration"]
    assert str(tmp_path / "em") not in (out / "zarr.json").read_text()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["em.ome.zarr", "xray.ome.zarr"]


def test_blocks_are_the_whole_volume(
    trained: Path, xray: str, tmp_path: Path, small_tiles, monkeypatch
) -> None:
    monkeypatch.setattr("connectoscope.segmentation.setup.best_precision", lambda device: "float32")
    out = tmp_path / "em.ome.zarr"
    summary = made(trained / "tiny-xray", xray, out, exact=True)
    assert summary["blocks"] == 2 * 3 * 4
    np.testing.assert_allclose(stored(out), reference(trained / "tiny-xray", xray), atol=1e-3)
    level = zarr.open_array(out / "1", mode="r")[...] if (out / "1").exists() else None
    assert level is None or level.dtype == np.float16


def test_a_box_gives_the_values_of_the_full_run_cut_out(
    trained: Path, xray: str, tmp_path: Path, small_tiles
):
    made(trained / "tiny-xray", xray, tmp_path / "whole.ome.zarr")
    made(trained / "tiny-xray", xray, tmp_path / "part.ome.zarr", box="1:9,3:20,0:25")
    np.testing.assert_array_equal(
        stored(tmp_path / "part.ome.zarr"), stored(tmp_path / "whole.ome.zarr")[:, 3:27, 9:60, 0:75]
    )
    part = open_volume(tmp_path / "part.ome.zarr", channel=0)
    assert part.levels[0].translation == (320.0, 80.0, 50.0)


def test_halved_tiles_give_the_same_up_to_rounding(trained: Path, xray: str, tmp_path: Path, small_tiles):
    made(trained / "tiny-xray", xray, tmp_path / "whole.ome.zarr", exact=True)
    context = Context.local(tmp_path / "job", threads=1)
    context.tile_scale = 1
    summary = made(trained / "tiny-xray", xray, tmp_path / "halved.ome.zarr", context, exact=True)
    assert any("smaller tile" in text for text in summary["warnings"])
    whole, halved = (stored(tmp_path / f"{name}.ome.zarr") for name in ("whole", "halved"))
    np.testing.assert_allclose(halved, whole, atol=0.02)  # bfloat16


def tree(path: Path) -> dict[str, bytes]:
    return {str(p.relative_to(path)): p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file()}


class Stopping(Context):
    left = 5  # blocks

    def check_cancelled(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise Cancelled("stop")


@pytest.mark.parametrize("box", [None, "1:9,3:20,0:25"])
def test_interrupted_and_resumed_gives_the_same_bytes(
    trained: Path, xray: str, tmp_path: Path, small_tiles, monkeypatch, box: str | None
) -> None:
    model, one, other = trained / "tiny-xray", tmp_path / "one.ome.zarr", tmp_path / "other.ome.zarr"
    whole = made(model, xray, one, box=box)
    with pytest.raises(Cancelled):
        made(model, xray, other, Stopping.local(tmp_path / "job", threads=1), box=box)
    assert not read_attributes(other)["finished"]
    calls = []
    real = predict.Reconstructor.__call__
    monkeypatch.setattr(predict.Reconstructor, "__call__", lambda *a: calls.append(1) or real(*a))
    resumed = made(model, xray, other, Context.local(tmp_path / "job", threads=1), box=box)
    assert len(calls) == whole["blocks"] - 5
    assert tree(one) == tree(other)
    del whole["megavoxels_per_second"], resumed["megavoxels_per_second"]
    assert whole == resumed
    again = made(model, xray, other, Context.local(tmp_path / "more", threads=1), box=box)
    assert again == whole | {"already_complete": True}
    with pytest.raises(UserError, match=r"another request: parameters\.exact"):
        made(model, xray, other, Context.local(tmp_path / "third", threads=1), box=box, exact=True)


def test_what_was_never_seen_is_doubted(trained: Path, xray: str, tmp_path: Path, monkeypatch) -> None:
    volume = open_volume(xray)
    known = volume.read(Box.of(volume.shape))
    noise = np.random.default_rng(0).normal(size=SHAPE) ** 3
    strange = written(tmp_path / "noise.ome.zarr", noise.astype(np.float32))
    monkeypatch.setattr(room, "UNKNOWN", 1000.0)  # a model of 40 updates knows little
    usual = made(trained / "tiny-xray", xray, tmp_path / "a.ome.zarr")
    odd = made(trained / "tiny-xray", strange, tmp_path / "b.ome.zarr")
    assert any("does not look like the scans" in text for text in odd["warnings"])
    assert not any("disagree" in text for text in usual["warnings"])
    wide = written(tmp_path / "wide.ome.zarr", (known.astype(np.float64) * 100 + 1e4).astype(np.float32))
    made(trained / "tiny-xray", wide, tmp_path / "c.ome.zarr")  # the range of the intensities does not matter
    np.testing.assert_allclose(stored(tmp_path / "c.ome.zarr"), stored(tmp_path / "a.ome.zarr"), atol=0.02)
    far = made(trained / "tiny-xray", xray, tmp_path / "d.ome.zarr", resolution="400nm")
    assert any("outside of the 60 to 130 nm" in text for text in far["warnings"])
    monkeypatch.setattr(room, "UNKNOWN", 0.01)
    doubted = made(trained / "tiny-xray", xray, tmp_path / "e.ome.zarr")
    assert any("disagree" in text for text in doubted["warnings"])


def test_constant_and_missing_voxels_are_told(trained: Path, tmp_path: Path, small_tiles) -> None:
    image = tissue((8, 10, 200), 1).astype(np.float32)
    image[..., 100:] = 90.0
    image[3, 3, 3] = np.inf
    source = written(tmp_path / "part.ome.zarr", image)
    with pytest.raises(UserError, match="not numbers or infinite"):  # the sample of the intensities sees it
        made(trained / "tiny-xray", source, tmp_path / "a.ome.zarr")
    assert not (tmp_path / "a.ome.zarr").exists()
    image[3, 3, 3] = 90.0
    summary = made(trained / "tiny-xray", written(tmp_path / "flat.ome.zarr", image), tmp_path / "b.ome.zarr")
    assert any("blocks were constant" in text for text in summary["warnings"])
    em, _, epistemic = stored(tmp_path / "b.ome.zarr")
    assert (em[..., -24:] == 0).all()
    assert (epistemic[..., -24:] == 1).all()  # nothing is known there
    assert summary["untrusted_share"] > 0.3
    assert summary["epistemic_sd"] < 0.3  # of where the networks were asked


def test_nothing_is_trusted_where_chunks_are_corrupt(
    trained: Path, tmp_path: Path, small_tiles, monkeypatch
) -> None:
    image = tissue((8, 40, 60), 1).astype(np.uint8)
    path, gone = tmp_path / "x.ome.zarr", Box((0, 10, 40), (8, 20, 60))
    spec = ImageSpec(image.shape, image.dtype, (30.0, 30.0, 30.0), (0, 0, 0), "nanometer", (8, 10, 20))
    create_image(path, spec)[0].write(image).result()
    chunk = path / "0" / "c" / "0" / "1" / "2"
    chunk.write_bytes(chunk.read_bytes()[:-9])
    model, out = trained / "tiny-xray", tmp_path / "em.ome.zarr"
    seen = []
    monkeypatch.setattr(room, "texture", lambda parts: seen.extend(parts) or (0.0, 0.0, 0.0))
    with pytest.raises(Corrupt):
        made(model, str(path), out)
    assert not out.exists()
    summary = made(model, str(path), out, skip_corrupt=True)
    assert summary["skipped_chunks"] == [str(gone)]
    assert any(f"taken as 0: {gone}" in text for text in summary["warnings"])
    hidden = np.zeros(image.shape, bool)
    hidden[gone.slices] = True
    np.testing.assert_array_equal(np.isnan(seen[0]), hidden)
    em, aleatoric, epistemic = stored(out)
    halo = find_model(model).halo(False)
    fine = Box(*(tuple(3 * n for n in ends) for ends in (gone.start, gone.stop)))
    around = fine.grown(tuple(3 * h for h in halo)).intersection(Box.of(em.shape))
    assert not em[fine.slices].any()
    for sd in (aleatoric, epistemic):
        doubted = np.isinf(sd)
        assert doubted[around.slices].all()
        assert doubted.sum() == around.size
    assert summary["untrusted_share"] >= round(around.size / em.size, 5)
    json.dumps(summary, allow_nan=False)
    assert made(model, str(path), out, skip_corrupt=True)["already_complete"]
    with pytest.raises(UserError, match="made with --skip-corrupt and lacks 1 damaged"):
        made(model, str(path), out)


@pytest.mark.parametrize(
    ("pixels", "voxel", "more", "said"),
    [
        (np.full(SHAPE, 7, np.uint8), 30.0, (), "constant"),
        (np.full(SHAPE, np.nan, np.float32), 30.0, (), "not numbers"),
        (tissue(SHAPE, 0), (30.0, 8.0, 8.0), (), "X-ray volumes have equal sides"),
        (tissue(SHAPE, 0), 100.0, (), "more than twice the model's"),
        (tissue(SHAPE, 0), 30.0, ("--box", "0:99,0:4,0:4"), "reaches outside"),
        (tissue(SHAPE, 0), 30.0, ("--model", "synapse-vnc"), "does not make EM from X-ray"),
        (tissue(SHAPE, 0), 30.0, ("--model", "none"), "there is no model 'none'"),
    ],
)
def test_refused_from_the_terminal(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], pixels, voxel, more, said: str
) -> None:
    size = voxel if isinstance(voxel, tuple) else (voxel,) * 3
    source, out = written(tmp_path / "x.ome.zarr", pixels, size), tmp_path / "out.ome.zarr"
    asked = Reconstruct(
        source=source,
        destination=str(out),
        **{"model": str(trained / "tiny-xray")}
        | {a[2:]: b for a, b in zip(more[::2], more[1::2], strict=True)},
    )
    with pytest.raises(UserError, match=said) as refusal:
        run(asked, Context.local(tmp_path / "job", threads=1))
    assert "\n" not in str(refusal.value)
    assert not out.exists()


def test_unknown_voxel_size_and_wrong_commands_end_with_2(trained: Path, tmp_path: Path, capsys) -> None:
    plain = tmp_path / "x.npy"
    np.save(plain, tissue(SHAPE, 0))
    model = ["--model", str(trained / "tiny-xray")]
    assert cli.run(["reconstruct", str(plain), str(tmp_path / "out.ome.zarr"), *model]) == 2
    assert "--voxel-size" in capsys.readouterr().err
    assert cli.run(["reconstruct", str(plain), str(tmp_path / "out.tif"), *model]) == 2
    assert "is an OME-Zarr" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["x.npy"]


def test_other_tasks_refuse_the_model(trained: Path, tmp_path: Path) -> None:
    from connectoscope.tasks.models import Models
    from connectoscope.tasks.models import run as models

    asked = Models(action="export", name=str(trained / "tiny-xray"), file=str(tmp_path / "x.onnx"))
    with pytest.raises(UserError, match="only 'connectoscope reconstruct' can use it"):
        models(asked, Context.local(tmp_path / "job"))


def test_swapped_contrast_is_told(tmp_path: Path) -> None:
    part = {"box": "0:16,0:32,0:32"}
    usual = made("xray2em-fib", "sample:xnh", tmp_path / "usual.ome.zarr", **part)
    scan = open_volume("sample:xnh")
    bright = 255 - scan.read(Box.of(scan.shape)).astype(np.float32)
    path = tmp_path / "swapped.ome.zarr"
    spec = ImageSpec(scan.shape, bright.dtype, (30.0, 30.0, 30.0), (0, 0, 0), "nanometer", (16, 64, 64))
    create_image(path, spec)[0].write(bright).result()
    swapped = made("xray2em-fib", str(path), tmp_path / "em.ome.zarr", **part)
    assert not any("does not look like" in text for text in usual["warnings"])
    assert any("details -0." in text and "dense stain dark" in text for text in swapped["warnings"])
