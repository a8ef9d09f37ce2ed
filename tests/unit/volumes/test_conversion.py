"""Sources whose chunks are larger than what is written at once: each is decoded once, by way of a temporary file."""

from __future__ import annotations

import io
import itertools
import tempfile
from collections import Counter
from pathlib import Path

import imagecodecs
import numpy as np
import pytest

from connectoscope.errors import Cancelled, Stopped
from connectoscope.jobs.context import Context
from connectoscope.tasks import convert
from connectoscope.volumes import ImageSpec, conversion, create_image, open_volume, tiff_write
from connectoscope.volumes.conversion import fill_pyramid
from connectoscope.volumes.geometry import Box, Index3
from connectoscope.volumes.ome_zarr_write import open_image_for_writing
from connectoscope.volumes.tiff_write import planar_factors, write_ome_tiff

SHAPE = (20, 300, 290)
PIXELS = np.random.default_rng(0).integers(0, 1000, SHAPE).astype("u2")


@pytest.fixture(autouse=True)
def little_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversion, "_REGION_BYTES", 2**16)
    monkeypatch.setattr(tiff_write, "_BAND_BYTES", 2**16)


class Source:
    """Counts how often each chunk is decoded where nothing is cached."""

    def __init__(self, chunks: Index3, scratch: Path) -> None:
        self.chunks, self.scratch, self.decoded = chunks, scratch, Counter[Index3]()

    def read(self, lead: tuple[int, ...], box: Box) -> np.ndarray:
        spans = (range(a // c, -(-b // c)) for a, b, c in zip(box.start, box.stop, self.chunks, strict=True))
        self.decoded.update(itertools.product(*spans))
        assert not list(self.scratch.iterdir())  # nothing with a name, that a kill would leave behind
        return PIXELS[box.slices]


def spec_of(**more) -> ImageSpec:
    return ImageSpec(SHAPE, PIXELS.dtype, (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), None, (8, 64, 64), **more)


def filled(path: Path, source: Source) -> None:
    spec = spec_of(factors=((1, 1, 1), (2, 2, 2)))
    stores = open_image_for_writing(path) if path.exists() else create_image(path, spec)
    fill_pyramid(
        path, stores, spec, source.read,
        source_chunks=source.chunks, progress=lambda *_: None, scratch=source.scratch,
    )  # fmt: skip


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("chunks", [(1, *SHAPE[1:]), (1, 32, 290), (2, 128, 145), (8, 300, 100)])
def test_folders_decode_each_chunk_once(tmp_path: Path, chunks: Index3) -> None:
    (tmp_path / "scratch").mkdir()
    source = Source(chunks, tmp_path / "scratch")
    filled(tmp_path / "a.zarr", source)
    assert set(source.decoded.values()) == {1}
    np.testing.assert_array_equal(open_volume(tmp_path / "a.zarr").read(Box.of(SHAPE)), PIXELS)


def test_rows_that_are_there_are_not_read_again(tmp_path: Path) -> None:
    (tmp_path / "scratch").mkdir()
    source = Source((1, *SHAPE[1:]), tmp_path / "scratch")
    filled(tmp_path / "a.zarr", source)
    expected = files_of(tmp_path / "a.zarr")
    source.decoded.clear()
    next((tmp_path / "a.zarr").glob("0/c/1/2/3")).unlink()
    filled(tmp_path / "a.zarr", source)
    assert set(source.decoded) == {(z, 0, 0) for z in range(8, 16)}
    assert files_of(tmp_path / "a.zarr") == expected


@pytest.mark.parametrize("chunks", [(8, 64, 64), (8, *SHAPE[1:]), (1, *SHAPE[1:])])
def test_tiff_decodes_each_chunk_once(tmp_path: Path, chunks: Index3) -> None:
    (tmp_path / "scratch").mkdir()
    source = Source(chunks, tmp_path / "scratch")
    spec = spec_of(factors=planar_factors(SHAPE, (1, 1, 1)))
    source.scratch = tmp_path / "scratch" / "empty"
    source.scratch.mkdir()
    path = tmp_path / "scratch" / "a.tif"
    write_ome_tiff(path, spec, source.read, source_chunks=chunks, progress=lambda *_: None)
    assert set(source.decoded.values()) == {1}
    np.testing.assert_array_equal(open_volume(path).read(Box.of(SHAPE)), PIXELS)


def test_tiles_of_coarse_levels_are_read_a_row_at_a_time() -> None:
    class File(io.BytesIO):
        largest = 0

        def read(self, size: int | None = -1) -> bytes:
            self.largest = max(self.largest, size or 0)
            return super().read(size)

    file = File(PIXELS.tobytes())
    tiles = tiff_write._tiles_again(file, SHAPE[1:], PIXELS.dtype)
    expected = (tile for section in PIXELS for tile in tiff_write._tiles(section))
    assert all(np.array_equal(a, b) for a, b in zip(tiles, expected, strict=True))
    assert 0 < file.largest <= 256 * SHAPE[2] * 2


@pytest.fixture
def sections(tmp_path: Path) -> Path:
    (tmp_path / "sections").mkdir()
    for k, section in enumerate(PIXELS):
        (tmp_path / "sections" / f"s{k:03d}.png").write_bytes(imagecodecs.png_encode(section))
    return tmp_path / "sections"


def converted(folder: Path, name: str, job: str = "job", context: Context | None = None, **more):
    parameters = convert.Convert(source=str(folder / "sections"), destination=str(folder / name), **more)
    return convert.run(parameters, context or Context.local(folder / job))


@pytest.mark.parametrize("name", ["out.n5", "out.ome.tif", "out.h5"])
def test_a_full_scratch_folder_is_told(tmp_path: Path, sections: Path, name: str, monkeypatch) -> None:
    class Full(io.BytesIO):
        def write(self, data: object) -> int:
            raise OSError(28, "No space left on device")

    with monkeypatch.context() as disk:
        disk.setattr(tempfile, "TemporaryFile", lambda **_: Full())
        with pytest.raises(Stopped, match=r"job.scratch cannot be written \(No space left on device\)"):
            converted(tmp_path, name)
    converted(tmp_path, name)
    np.testing.assert_array_equal(open_volume(tmp_path / name).read(Box.of(SHAPE)), PIXELS)


def test_a_row_of_sections_can_be_cancelled_and_gone_on_with(tmp_path: Path, sections: Path) -> None:
    class Stopping(Context):
        left = 5

        def check_cancelled(self) -> None:
            self.left -= 1
            if self.left < 0:
                raise Cancelled("stop")

    (sections / "s003.png").write_bytes(b"\x89PNG")
    expected = PIXELS.copy()
    expected[3] = 0
    for left in (5, 25, 10**9):
        stopping = Stopping.local(tmp_path / "job")
        stopping.left = left
        try:
            summary = converted(tmp_path, "out.n5", context=stopping, skip_corrupt=True)
        except Cancelled:
            assert left < 10**9
    assert summary["skipped_chunks"] == ["3:4,0:300,0:290"]
    np.testing.assert_array_equal(open_volume(tmp_path / "out.n5").read(Box.of(SHAPE)), expected)
