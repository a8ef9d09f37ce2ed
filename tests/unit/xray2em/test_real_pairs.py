"""Real pairs: X-ray and EM of the same tissue, the EM shifted, turned by a degree, stretched, of other voxels."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from made_tissue import RECIPE, tissue
from scipy import ndimage

from connectoscope import cli
from connectoscope.errors import UserError
from connectoscope.jobs.context import Context
from connectoscope.tasks.reconstruct import Reconstruct
from connectoscope.tasks.reconstruct import run as reconstruct
from connectoscope.tasks.train import Train, run
from connectoscope.training.recipe import load_recipe
from connectoscope.volumes import ImageSpec, Volume, create_image, open_volume
from connectoscope.volumes.geometry import Box
from connectoscope.xray2em import real_pairs, surrogate
from connectoscope.xray2em.forward import stain_density
from connectoscope.xray2em.real_pairs import RealPair, RealSampler, open_pair
from connectoscope.xray2em.registration import check
from connectoscope.xray2em.training import XrayTrainer

SHAPE = (144, 108, 108)  # of the true EM on the fine grid, 10 nm: 48 x 36 x 36 X-ray voxels of 30 nm
TRUE = tissue(SHAPE, 5)
START = np.array((310.0, 610.0, -290.0))  # world of the X-ray's first voxel
EM_VOXEL = np.array((7.0, 9.0, 8.0))
EM_START = np.array((120.0, -40.0, 500.0))


def turned_by_a_degree() -> np.ndarray:
    """X-ray world to EM world (3, 4), nm; the middle of the tissue becomes the middle of EM of 180 x 110 x 120 voxels."""
    a = np.radians(1)
    about_z = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    about_y = np.array([[np.cos(a), 0, np.sin(a)], [0, 1, 0], [-np.sin(a), 0, np.cos(a)]])
    linear = 0.95 * about_z @ about_y
    middle = START + 10 * (np.array(SHAPE) / 2 - 1.5)
    to = EM_START + EM_VOXEL * np.array((180, 110, 120)) / 2
    return np.column_stack((linear, to - linear @ middle))


MATRIX = turned_by_a_degree()


def written(path: Path, pixels: np.ndarray, voxel: np.ndarray, start: np.ndarray) -> None:
    spec = ImageSpec(pixels.shape, pixels.dtype, tuple(voxel), tuple(start), "nanometer", (32, 32, 32))
    create_image(path, spec)[0].write(pixels).result()


def transform(path: Path, matrix: np.ndarray, unit: str = "nm") -> str:
    path.write_text(json.dumps({"unit": unit, "matrix": matrix.tolist()}))
    return str(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``scan.ome.zarr``, ``em.ome.zarr``, ``affine.json`` and the recipe, whose own volumes are nowhere."""
    folder = tmp_path_factory.mktemp("pair")
    z, y, x = (n // 3 for n in SHAPE)
    coarse = TRUE.reshape(z, 3, y, 3, x, 3).mean((1, 3, 5))
    like = replace(surrogate.at(30.0, counts=1e4, rings=0.01), resolution_nm=70.0)
    scan = -surrogate.simulate(stain_density(coarse, 60, 200), 30.0, like, 1)
    written(folder / "scan.ome.zarr", scan.astype(np.float32), np.full(3, 30.0), START)
    fine_start = START - 10  # a third of an X-ray voxel's centre
    back = np.linalg.inv(np.vstack((MATRIX, (0, 0, 0, 1))))
    linear = back[:3, :3] @ np.diag(EM_VOXEL) / 10
    offset = (back[:3, :3] @ EM_START + back[:3, 3] - fine_start) / 10
    em = ndimage.affine_transform(TRUE.astype(np.float32), linear, offset, (180, 110, 120), order=3)
    written(folder / "em.ome.zarr", np.clip(em, 0, 255).astype(np.uint8), EM_VOXEL, EM_START)
    transform(folder / "affine.json", MATRIX)
    text = RECIPE.replace("em.ome.tif", "nowhere.ome.tif").replace("steps = 40", "steps = 8")
    (folder / "tiny.toml").write_text(text.replace("choose_every = 20", "choose_every = 8"))
    return folder


@pytest.fixture
def joined(folder: Path, tmp_path: Path) -> Callable[[np.ndarray], RealPair]:
    """The pair, joined by a matrix."""

    def join(matrix: np.ndarray) -> RealPair:
        path = transform(tmp_path / "affine.json", matrix)
        recipe = load_recipe(folder / "tiny.toml")
        return open_pair(recipe, str(folder / "scan.ome.zarr"), str(folder / "em.ome.zarr"), path)

    return join


def moved(voxels: float) -> np.ndarray:
    """The right matrix, off by X-ray voxels along y."""
    return MATRIX + np.pad([[0.0], [30.0 * voxels], [0.0]], ((0, 0), (3, 0)))


def likeness(pair: RealPair) -> float:
    """Correlation with the truth of the EM that the sampler takes."""
    values = []
    for box in pair.boxes((12, 12, 12), pair.parts["train"], 6):
        truth = TRUE[tuple(slice(3 * a, 3 * b) for a, b in zip(box.start, box.stop, strict=True))]
        values.append(np.corrcoef(truth.ravel(), pair.target(box, 3).ravel())[0, 1])
    return float(np.mean(values))


def asked(folder: Path, out: Path, **other: str | None) -> Train:
    files = {"xray": "scan.ome.zarr", "em": "em.ome.zarr", "transform": "affine.json"}
    given = {name: str(folder / file) for name, file in files.items()} | other
    return Train(**{"recipe": str(folder / "tiny.toml"), "destination": str(out)} | given)


def test_em_of_a_patch_is_the_true_one_however_the_volumes_lie(joined: Callable[[np.ndarray], RealPair]):
    right = joined(MATRIX)
    assert likeness(right) > 0.93
    unturned = MATRIX.copy()
    middle = np.array((1020.0, 1150.0, 250.0))
    unturned[:, :3] = np.eye(3)
    unturned[:, 3] = (MATRIX[:, :3] - np.eye(3)) @ middle + MATRIX[:, 3]
    assert likeness(joined(unturned)) < likeness(right) - 0.1
    assert likeness(joined(moved(1))) < 0.6


def test_parts_lie_in_both_volumes_and_apart(joined: Callable[[np.ndarray], RealPair]):
    pair = joined(MATRIX)
    (a, b), (c, d), (e, f) = (pair.parts[name] for name in ("train", "choose", "report"))
    assert 0 <= a < b < c < d < e < f <= 48
    assert c - b == e - d == pair.gap == 4
    assert 0.6 < (b - a) / (f - a - 8) < 0.75
    assert 0.15 < (f - e) / (f - a - 8) < 0.25
    for part in ("choose", "report"):
        first, last = pair.parts[part]
        for held in pair.held_out(part):
            assert np.isfinite(held.em).all()
            assert held.em.shape == tuple(3 * n for n in held.xray.shape)
            assert held.scored.stop - held.scored.start == 3 * (last - first)
            rows = 3 * held.xray.shape[1]
            assert np.abs(held.em[held.scored]).sum() > 0.1 * rows  # and not the zeros around it


def test_patches_are_drawn_from_seed_step_and_place_alone(
    folder: Path, joined: Callable[[np.ndarray], RealPair]
):
    sampler = RealSampler(joined(MATRIX), load_recipe(folder / "tiny.toml"), 2)
    xray, em = sampler.batch(5)
    assert (xray.shape, em.shape) == ((4, 1, 12, 12, 12), (4, 1, 36, 36, 36))
    sampler.batch(0)
    again, same = sampler.batch(5)
    assert torch.equal(xray, again)
    assert torch.equal(em, same)
    assert len({float(x.sum()) for x in xray}) == 4
    coarse = em.reshape(4, 12, 3, 12, 3, 12, 3).mean((2, 4, 6))
    for one, other in zip(xray[:, 0], coarse, strict=True):
        assert np.corrcoef(one.ravel(), other.ravel())[0, 1] > 0.5


def test_finer_em_is_averaged_not_picked(folder: Path, tmp_path: Path):
    noise = np.random.default_rng(0).integers(0, 255, (108, 108, 108)).astype(np.uint8)
    written(tmp_path / "xray.ome.zarr", TRUE[:36, :36, :36], np.full(3, 30.0), np.zeros(3))
    written(tmp_path / "fine.ome.zarr", noise, np.full(3, 10.0), np.full(3, -10.0))
    path = transform(tmp_path / "affine.json", np.eye(4))
    recipe = load_recipe(folder / "tiny.toml")
    pair = open_pair(recipe, str(tmp_path / "xray.ome.zarr"), str(tmp_path / "fine.ome.zarr"), path)
    box = Box((4, 4, 4), (16, 16, 16))
    black, white = pair.em_range
    exact = (noise[12:48, 12:48, 12:48] - black) / (white - black)
    assert np.allclose(pair.target(box, 3), exact, atol=1e-5)
    averaged = exact.reshape(12, 3, 12, 3, 12, 3).mean((1, 3, 5))
    assert np.allclose(pair.target(box, 1), averaged, atol=1e-5)


def test_of_large_volumes_only_what_a_patch_needs_is_read(
    joined: Callable[[np.ndarray], RealPair], monkeypatch: pytest.MonkeyPatch
):
    kept = joined(MATRIX)
    monkeypatch.setattr(real_pairs, "IN_MEMORY", 0)
    lazy = joined(MATRIX)
    read: list[int] = []
    plain = Volume.read

    def watched(self: Volume, box: Box, level: int = 0) -> np.ndarray:
        read.append(box.size)
        return plain(self, box, level)

    monkeypatch.setattr(Volume, "read", watched)
    box = Box((20, 8, 10), (32, 20, 22))
    assert np.array_equal(lazy.target(box, 3), kept.target(box, 3))
    assert np.array_equal(lazy.read_xray(box), kept.read_xray(box))
    em, xray = read
    assert xray == 12**3
    assert em < 2 * (360 * 0.95) ** 3 / (7 * 9 * 8)


def test_registration_is_measured(joined: Callable[[np.ndarray], RealPair]):
    pair = joined(MATRIX)
    good = check(pair)
    assert good.warnings(pair) == []
    assert good.residual < 0.6
    assert good.correlation > 0.6
    off = joined(moved(3))
    found = check(off)
    (said,) = found.warnings(off)
    assert "em.ome.zarr does not lie where affine.json says" in said
    assert found.residual == pytest.approx(3, abs=0.7)
    assert found.shift[1] == pytest.approx(-3, abs=0.7)  # the EM shows it too early
    match = re.search(r"adding (\S+), (\S+), (\S+) nm", said)
    assert match is not None
    mended = moved(3) + np.pad([[float(n)] for n in match.groups()], ((0, 0), (3, 0)))
    assert np.abs(mended - MATRIX).max() < 20
    stretched = joined(MATRIX @ np.diag((1.1, 1.1, 1.1, 1)))
    assert any("does not" in text or "DOES NOT" in text for text in check(stretched).warnings(stretched))


def test_another_tissue_and_inverted_contrast_are_told(folder: Path, tmp_path: Path):
    recipe, path = load_recipe(folder / "tiny.toml"), str(folder / "affine.json")
    source = open_volume(folder / "em.ome.zarr")
    pixels = source.read(Box.of(source.shape))
    for name, other, said in (
        ("mirrored", pixels[::-1, ::-1, ::-1], "THE PAIR DOES NOT FIT"),
        ("inverted", 255 - pixels, "inverted.ome.zarr is bright where scan.ome.zarr is dark"),
    ):
        em = tmp_path / f"{name}.ome.zarr"
        written(em, np.ascontiguousarray(other), EM_VOXEL, EM_START)
        pair = open_pair(recipe, str(folder / "scan.ome.zarr"), str(em), path)
        (text,) = check(pair).warnings(pair)
        assert text.startswith(said)


def test_a_model_of_a_real_pair_says_so_and_reconstructs(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    model, scan, em = tmp_path / "model", str(folder / "scan.ome.zarr"), str(folder / "em.ome.zarr")
    line = ["train", str(folder / "tiny.toml"), str(model), "--xray", scan, "--em", em]
    code = cli.run([*line, "--transform", str(folder / "affine.json"), "--json", "--threads", "1"])
    told = capsys.readouterr()
    assert code == 0, told.err
    summary = json.loads(told.out)
    assert summary["warnings"] == []
    assert summary["registration"]["residual_voxels"] < 0.6
    text = (model / "card.json").read_text()
    assert str(folder) not in text  # no paths of this machine
    assert "simulated" not in text
    card = json.loads(text)
    training = card["training"]
    assert training["pairs"].startswith("real pairs: scan.ome.zarr (X-ray) and em.ome.zarr (EM)")
    assert training["registration"] == summary["registration"]
    assert training["data"] == ["scan.ome.zarr", "em.ome.zarr"]
    assert np.allclose(training["transform_nm"], MATRIX)
    assert {score["metric"] for score in card["scores"]} >= {"psnr", "coverage_80", "ece"}
    assert "a real pair" in card["scores"][0]["data"]
    assert "resolution_nm" not in card["calibration"]
    out = tmp_path / "made.ome.zarr"
    wanted = Reconstruct(source=scan, destination=str(out), model=str(model), resolution="90nm")
    summary = reconstruct(wanted, Context.local(tmp_path / "job", threads=1))
    assert summary["shape"] == list(SHAPE)
    assert not [text for text in summary["warnings"] if "does not look like" in text]


def test_resumed_training_ends_with_the_same_weights_and_another_pair_is_refused(
    folder: Path, tmp_path: Path, joined: Callable[[np.ndarray], RealPair]
):
    text = (folder / "tiny.toml").read_text()
    path = tmp_path / "tiny.toml"
    path.write_text(text.replace("steps = 8", "steps = 4").replace("choose_every = 8", "choose_every = 2"))
    recipe = load_recipe(path)
    assert recipe.xray is not None
    torch.set_num_threads(1)

    def trainer(matrix: np.ndarray) -> XrayTrainer:
        return XrayTrainer(recipe, recipe.xray, "cpu", joined(matrix))

    def stop(step: int, values: dict[str, float]) -> None:
        if step == 4:
            raise KeyboardInterrupt

    whole, cut, resumed = trainer(MATRIX), trainer(MATRIX), trainer(MATRIX)
    whole.run(tmp_path / "whole.safetensors", lambda step, values: None)
    with pytest.raises(KeyboardInterrupt):
        cut.run(tmp_path / "cut.safetensors", stop)
    with pytest.raises(UserError, match="the real pair changed since"):
        trainer(moved(0.1)).resume(tmp_path / "cut.safetensors")
    resumed.resume(tmp_path / "cut.safetensors")
    assert resumed.progress.step == 2
    resumed.run(tmp_path / "cut.safetensors", lambda step, values: None)
    for name, value in whole.network.state_dict().items():
        assert torch.equal(value, resumed.network.state_dict()[name]), name


def test_a_pair_that_lies_wrong_is_told_of_and_noted(folder: Path, tmp_path: Path):
    recipe = tmp_path / "tiny.toml"
    recipe.write_text((folder / "tiny.toml").read_text().replace("steps = 8", "steps = 1"))
    path = transform(tmp_path / "off.json", moved(3))
    context = Context.local(tmp_path / "job", threads=1)
    summary = run(asked(folder, tmp_path / "model", recipe=str(recipe), transform=path), context)
    (said,) = context.warnings
    assert "em.ome.zarr does not lie where off.json says: a residual of" in said
    assert summary["warnings"] == [said]
    registration = json.loads((tmp_path / "model" / "card.json").read_text())["training"]["registration"]
    assert registration["residual_voxels"] == pytest.approx(3, abs=0.7)
    assert registration["shift_nm"][1] == pytest.approx(-90, abs=20)


def test_the_command_refuses_in_one_line(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    scan, out = str(folder / "scan.ome.zarr"), tmp_path / "model"
    assert cli.run(["train", str(folder / "tiny.toml"), str(out), "--xray", scan]) == 2
    assert "needs all of --xray, --em and --transform" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


IDENTITY = np.eye(4)[:3].tolist()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "is not JSON"),
        ("[1, 2]", "must be"),
        (json.dumps({"matrix": IDENTITY}), "must be"),
        (json.dumps({"unit": "voxel", "matrix": IDENTITY}), "unit 'voxel' is not a unit of length"),
        (json.dumps({"unit": "nm", "matrix": [[1, 0, 0], [0, 1, 0], [0, 0, 1]]}), "3 or 4 rows of 4 numbers"),
        (json.dumps({"unit": "nm", "matrix": [[1, 0, 0, 0], [0, 1]]}), "3 or 4 rows of 4 numbers"),
        (json.dumps({"unit": "nm", "matrix": "identity"}), "3 or 4 rows of 4 numbers"),
        (json.dumps({"unit": "nm", "matrix": [*IDENTITY, [0, 0, 1, 1]]}), "last row of an affine matrix"),
        (json.dumps({"unit": "nm", "matrix": [[float("nan")] * 4, *IDENTITY[1:]]}), "not finite"),
        (json.dumps({"unit": "nm", "matrix": [[0, 0, 0, 0], *IDENTITY[1:]]}), "not invertible"),
        (json.dumps({"unit": "nm", "matrix": (30 * np.eye(4)[:3]).tolist()}), "not voxels to voxels"),
        (json.dumps({"unit": "um", "matrix": MATRIX.tolist()}), "do not overlap"),
    ],
)
def test_transforms_that_cannot_be(folder: Path, tmp_path: Path, content: str, said: str) -> None:
    path = tmp_path / "affine.json"
    path.write_text(content)
    with pytest.raises(UserError, match=said) as error:
        run(asked(folder, tmp_path / "out", transform=str(path)), Context.local(tmp_path / "job"))
    assert error.value.exit_code == 2
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"em": None}, "needs all of --xray, --em and --transform"),
        ({"transform": None, "em": None}, "needs all of --xray, --em and --transform"),
        ({"transform": "gone.json"}, "gone.json cannot be read"),
        ({"xray": "gone.ome.zarr"}, "gone.ome.zarr"),
        ({"recipe": "recipes/synapse-vnc.toml"}, "synapse-vnc has none"),
        ({"xray": "unknown.npy"}, "unknown does not state its voxel size"),
        ({"xray": "flat.ome.zarr"}, "X-ray volumes have equal sides"),
        ({"xray": "coarse.ome.zarr"}, "more than twice the model's"),
        ({"em": "coarse.ome.zarr"}, "more than twice those of the X-ray"),
        ({"em": "blank.ome.zarr"}, "blank.ome.zarr: the volume is constant"),
        ({"xray": "small.ome.zarr"}, "overlap too little: no patch"),
        ({"xray": "short.ome.zarr"}, "share 15 X-ray planes"),
    ],
)
def test_pairs_that_cannot_be(
    folder: Path, tmp_path: Path, other: dict[str, str | None], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONNECTOSCOPE_DATA", str(tmp_path))
    rng = np.random.default_rng(0)

    def grey(*shape: int) -> np.ndarray:
        return rng.integers(0, 255, shape).astype(np.uint8)

    np.save(tmp_path / "unknown.npy", grey(20, 20, 20))
    written(tmp_path / "flat.ome.zarr", grey(20, 20, 20), np.array((40.0, 30.0, 30.0)), START)
    written(tmp_path / "coarse.ome.zarr", grey(20, 20, 20), np.full(3, 70.0), START)
    written(tmp_path / "blank.ome.zarr", np.full((180, 110, 120), 7, np.uint8), EM_VOXEL, EM_START)
    written(tmp_path / "small.ome.zarr", grey(8, 20, 20), np.full(3, 30.0), START + 300)
    written(tmp_path / "short.ome.zarr", grey(15, 20, 20), np.full(3, 30.0), START + 300)
    given = {
        name: value if value is None or name == "recipe" else str(tmp_path / value)
        for name, value in other.items()
    }
    root = Path(__file__).parents[3]
    if "recipe" in given:
        given["recipe"] = str(root / str(given["recipe"]))
    with pytest.raises(UserError, match=said) as error:
        run(asked(folder, tmp_path / "out", **given), Context.local(tmp_path / "job"))
    assert error.value.exit_code == 2
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()
