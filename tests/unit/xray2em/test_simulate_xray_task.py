"""The task ``simulate-xray``: what it makes, what it repeats, what it refuses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from connectoscope import cli
from connectoscope.errors import Cancelled, UserError
from connectoscope.jobs.context import Context
from connectoscope.tasks.simulate_xray import SimulateXray, run
from connectoscope.volumes import ImageSpec, create_image, open_volume, read_attributes
from connectoscope.volumes.geometry import Box
from connectoscope.xray2em import forward, tomography
from connectoscope.xray2em import run as running

SHAPE = (30, 48, 48)


def written(path: Path, pixels: np.ndarray, scale=(15.0, 15.0, 15.0), unit="nanometer") -> str:
    spec = ImageSpec(pixels.shape, pixels.dtype, scale, (150.0, 0.0, 30.0), unit, pixels.shape)
    (store,) = create_image(path, spec)
    store.write(pixels).result()
    return str(path)


@pytest.fixture
def em(tmp_path: Path) -> str:
    field = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=SHAPE), 2, mode="wrap")
    return written(tmp_path / "em.ome.zarr", (128 + 40 * field / field.std()).clip(0, 255).astype("u1"))


def simulated(folder: Path, source: str, name: str = "out", context: Context | None = None, **parameters):
    destination = folder / f"{name}.ome.zarr"
    asked = SimulateXray(source=source, destination=str(destination), **parameters)
    return destination, run(asked, context or Context.local(folder / f"{name}.job"))


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tenth of the angles, a small surrounding."""
    monkeypatch.setattr(tomography, "angle_count", lambda width: 20)
    monkeypatch.setattr(forward, "angle_count", lambda width: 20)
    monkeypatch.setattr(running, "angle_count", lambda width: 20)
    monkeypatch.setattr(forward, "LEAST_NM", 1000.0)
    monkeypatch.setattr(forward, "MARGIN_NM", 300.0)


def pixels_of(path: Path) -> np.ndarray:
    volume = open_volume(path)
    return volume.read(Box.of(volume.shape))


def test_surrogate_lies_on_the_em_and_looks_like_it(tmp_path: Path, em: str) -> None:
    destination, summary = simulated(tmp_path, em, method="surrogate")
    volume = open_volume(destination)
    assert (volume.shape, volume.voxel_size_nm(), volume.warnings) == ((15, 24, 24), (30.0, 30.0, 30.0), ())
    assert volume.levels[0].translation == (157.5, 7.5, 37.5)  # centre of the first 2 x 2 x 2
    assert summary["blur_nm"] == pytest.approx(62.3)
    coarse = open_volume(em).read(Box.of(SHAPE)).reshape(15, 2, 24, 2, 24, 2).mean((1, 3, 5))
    assert np.corrcoef(coarse.ravel(), pixels_of(destination).ravel())[0, 1] > 0.7  # dark stays dark
    attributes = read_attributes(destination)
    assert attributes["finished"]
    assert attributes["model"]["resolution_nm"] == pytest.approx(62.3)
    assert str(tmp_path / "out") not in (destination / "zarr.json").read_text()


def test_wave_model_of_a_box(tmp_path: Path, em: str, quick) -> None:
    destination, summary = simulated(tmp_path, em, box="4:28,0:48,8:40", counts=1e5, rings=0.0)
    volume = open_volume(destination)
    assert volume.shape == (12, 24, 16)
    assert volume.levels[0].translation == (217.5, 7.5, 157.5)
    assert summary["angles"] == 20
    assert summary["resolution_nm"] >= 60
    coarse = open_volume(em).read(Box.of(SHAPE)).reshape(15, 2, 24, 2, 24, 2).mean((1, 3, 5))[2:14, :, 4:20]
    assert np.corrcoef(coarse.ravel(), pixels_of(destination).ravel())[0, 1] > 0.6  # with 20 angles


def test_same_seed_same_bytes_other_seed_others(tmp_path: Path, em: str, quick) -> None:
    for method in ("wave", "surrogate"):
        one, same, other = (
            pixels_of(simulated(tmp_path, em, f"{method}{k}", method=method, seed=s)[0])
            for k, s in enumerate((0, 0, 1))
        )
        np.testing.assert_array_equal(one, same)
        assert (one != other).any()


def test_slabs_agree_with_the_whole(tmp_path: Path, em: str, quick, monkeypatch) -> None:
    monkeypatch.setattr(forward, "MARGIN_NM", 600.0)
    whole = pixels_of(simulated(tmp_path, em, "whole", counts=1e7, rings=0.0)[0]).astype(float)
    monkeypatch.setattr(running, "SLAB", 8)
    slabs = pixels_of(simulated(tmp_path, em, "slabs", counts=1e7, rings=0.0)[0]).astype(float)
    assert np.corrcoef(whole.ravel(), slabs.ravel())[0, 1] > 0.98


def test_an_interrupted_scan_leaves_no_destination_and_goes_on(tmp_path: Path, em: str, quick, monkeypatch):
    monkeypatch.setattr(running, "SLAB", 8)
    expected = pixels_of(simulated(tmp_path, em, "whole")[0])

    class Stopping(Context):
        left = 30  # angles: in the second slab

        def check_cancelled(self) -> None:
            self.left -= 1
            if self.left < 0:
                raise Cancelled("stop")

    with pytest.raises(Cancelled):
        simulated(tmp_path, em, context=Stopping.local(tmp_path / "job"))
    assert not (tmp_path / "out.ome.zarr").exists()
    scans = []
    real = forward.scan
    monkeypatch.setattr(forward, "scan", lambda *a, **k: scans.append(1) or real(*a, **k))
    destination, _ = simulated(tmp_path, em, context=Context.local(tmp_path / "job"))
    assert len(scans) == 1
    np.testing.assert_array_equal(pixels_of(destination), expected)


def test_finished_is_not_repeated_and_another_request_is_refused(tmp_path: Path, em: str) -> None:
    destination, summary = simulated(tmp_path, em, method="surrogate")
    stamp = (destination / "zarr.json").stat().st_mtime_ns
    assert simulated(tmp_path, em, method="surrogate")[1] == summary
    assert (destination / "zarr.json").stat().st_mtime_ns == stamp
    with pytest.raises(UserError, match="another request"):
        simulated(tmp_path, em, method="surrogate", seed=1)
    context = Context.local(tmp_path / "job", overwrite=True)
    simulated(tmp_path, em, method="surrogate", seed=1, context=context)


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"voxel_size": "10nm"}, "finer than the voxels of em"),
        ({"voxel_size": "100nm"}, "at least 8 are needed"),
        ({"resolution": "5nm"}, r"not possible: at least a voxel \(30 nm\)"),
        ({"resolution": "1mm"}, r"at most half of the smallest extent \(225 nm\)"),
        ({"box": "0:99,0:48,0:48"}, "reaches outside"),
        ({"level": 3}, "no level 3"),
    ],
)
def test_refused_parameters(tmp_path: Path, em: str, parameters: dict, said: str) -> None:
    with pytest.raises(UserError, match=said):
        simulated(tmp_path, em, method="surrogate", **parameters)
    assert not (tmp_path / "out.ome.zarr").exists()


def test_refused_sources(tmp_path: Path, monkeypatch) -> None:
    noise = np.random.default_rng(0).random(SHAPE, dtype=np.float32)
    thin = written(tmp_path / "a.ome.zarr", noise, scale=(40.0, 4.0, 4.0))
    blank = written(tmp_path / "b.ome.zarr", np.full(SHAPE, 7, np.uint8))
    bad = noise.copy()
    bad[10, 10, 10] = np.nan
    holed = written(tmp_path / "c.ome.zarr", bad)
    plain = tmp_path / "d.npy"
    np.save(plain, noise)
    for source, said in {
        thin: "40 × 4 × 4 nm: X-ray volumes can be simulated from isotropic EM only",
        blank: "constant",
        holed: "not numbers",
        str(plain): "--source-voxel-size",
        str(tmp_path / "none.tif"): "none.tif",
    }.items():
        for method in ("wave", "surrogate"):
            with pytest.raises(UserError, match=said):
                simulated(tmp_path, source, method=method)
    assert not (tmp_path / "out.ome.zarr").exists()
    assert simulated(tmp_path, str(plain), method="surrogate", source_voxel_size="15nm")[0].exists()
    monkeypatch.setattr(running, "WIDEST", 10)
    with pytest.raises(UserError, match="too wide for the wave model"):
        simulated(tmp_path, str(plain), "wide", source_voxel_size="15nm")
    monkeypatch.setattr(running, "MOST", 1000)
    with pytest.raises(UserError, match="too many"):
        simulated(tmp_path, str(plain), "large", source_voxel_size="15nm", method="surrogate")


def test_from_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "x.ome.zarr"
    assert cli.run(["simulate-xray", "sample:vnc", str(out)]) == 2
    assert "isotropic" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
    arguments = ["--method", "surrogate", "--resolution", "90nm", "--seed", "3"]
    assert cli.run(["simulate-xray", "sample:fib", str(out), *arguments]) == 0
    assert [p.name for p in tmp_path.iterdir()] == ["x.ome.zarr"]
