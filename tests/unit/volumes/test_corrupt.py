"""Damaged chunks: told from a lost connection, named, and read past."""

from __future__ import annotations

import errno
from pathlib import Path

import numpy as np
import pytest
import zarr
from format_files import FORMATS, Given

from connectoscope.errors import Corrupt, Unreadable
from connectoscope.networks.normalise import intensity_range
from connectoscope.volumes import ImageSpec, create_image, open_volume, set_attributes
from connectoscope.volumes.corrupt import chunk_name, is_corrupt, told_of_skipped
from connectoscope.volumes.geometry import Box
from connectoscope.volumes.marks import set_marks, told_of

PIXELS = np.random.default_rng(0).integers(1, 255, (9, 40, 50)).astype("u1")
WHOLE = Box.of(PIXELS.shape)


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("OME-Zarr 0.4", "0/1.2.3"),
        ("OME-Zarr 0.5", "0/c/1/0/0"),  # a shard: all of its chunks
        ("N5", "s0/1/2/1"),
        ("Neuroglancer precomputed image", "8_4_40/10-18_5-13_2-6"),  # not anchored at voxel 0
    ],
)
def test_only_what_is_damaged_is_taken_as_0(tmp_path: Path, name: str, file: str) -> None:
    path = Path(FORMATS[name].write(tmp_path, Given(PIXELS)))
    chunk = path / file
    assert chunk.is_file(), sorted(map(str, chunk.parent.iterdir()))
    chunk.write_bytes(chunk.read_bytes()[:20])
    volume = open_volume(path)
    with pytest.raises(Corrupt, match=r"cannot read voxels .* \(damaged or incomplete file\?\)") as raised:
        volume.read(WHOLE)
    assert str(chunk) in str(raised.value)
    assert "\n" not in str(raised.value)

    skipping = open_volume(path).skipping_corrupt()
    assert skipping.skipped_in(WHOLE) == []
    voxels = skipping.read(WHOLE)
    skipped = skipping.skipped_in(WHOLE)
    expected = PIXELS.copy()
    for box in skipped:
        expected[box.slices] = 0
        assert chunk_name(box, 0) in str(raised.value) or len(skipped) > 1
    np.testing.assert_array_equal(voxels, expected)
    assert 0 < sum(box.size for box in skipped) < PIXELS.size / 2
    # A part of a damaged chunk is as damaged.
    last = skipped[-1]
    corner = Box(tuple(n - 1 for n in last.stop), last.stop)
    again = open_volume(path).skipping_corrupt()
    assert again.read(corner) == 0
    assert again.skipped_in(WHOLE) == [last]


def test_a_damaged_chunk_and_the_identity(tmp_path: Path) -> None:
    path = Path(FORMATS["OME-Zarr 0.4"].write(tmp_path, Given(PIXELS)))
    volume = open_volume(path)
    assert volume.skipping_corrupt().identity() == volume.identity()
    (path / "0" / "0.0.0").write_bytes(b"")
    damaged = volume.identity()
    assert damaged["chunks"].startswith("corrupt 1 of 16, ")
    assert volume.skipping_corrupt().identity() == damaged
    (path / "0" / "0.0.0").unlink()
    (path / "0" / "0.0.1").write_bytes(b"")
    assert volume.identity()["chunks"] != damaged["chunks"]


@pytest.mark.parametrize("shards", [None, (8, 40, 50)])
def test_changed_bytes_are_noticed(tmp_path: Path, shards) -> None:
    path = tmp_path / "a.ome.zarr"
    spec = ImageSpec((8, 40, 50), np.dtype("u1"), (1, 1, 1), (0, 0, 0), None, (8, 20, 50), shards=shards)
    create_image(path, spec)[0].write(PIXELS[:8]).result()
    np.testing.assert_array_equal(zarr.open_array(path / "0", mode="r")[...], PIXELS[:8])
    file = path / "0" / "c" / "0" / "0" / "0"
    data = bytearray(file.read_bytes())
    for place in range(500, 600):
        data[place] ^= 0x55
    file.write_bytes(data)
    volume = open_volume(path).skipping_corrupt()
    np.testing.assert_array_equal(volume.read(Box((0, 20, 0), (8, 40, 50))), PIXELS[:8, 20:])
    assert not volume.read(Box.of((8, 20, 50))).any()
    with pytest.raises(Corrupt):
        open_volume(path).read(Box.of(volume.shape))


def test_a_result_that_lacks_chunks_is_told(tmp_path: Path) -> None:
    assert told_of(str(tmp_path / "none.ome.zarr")) == []
    assert told_of("https://example.org/a.zarr") == []
    path = tmp_path / "a.ome.zarr"
    create_image(path, ImageSpec((2, 4, 4), np.dtype("u1"), (1, 1, 1), (0, 0, 0), None, (2, 4, 4)))
    set_attributes(path, summary={"skipped_chunks": ["0:1,0:4,0:4"]})
    assert told_of(str(path)) == [
        "a.ome.zarr was made with --skip-corrupt: 1 chunk of its source is missing in it"
    ]
    (tmp_path / "a.h5").touch()
    set_marks(tmp_path / "a.h5", summary={"skipped_chunks": ["0:1,0:4,0:4"]})
    assert told_of(f"{tmp_path / 'a.h5'}::/raw")[0].startswith("a.h5 was made with")


@pytest.mark.parametrize(
    ("error", "corrupt"),
    [
        (ValueError("DATA_LOSS: Error reading shard entry"), True),
        (
            ValueError('FAILED_PRECONDITION: Error reading local file "x": Invalid blosc-compressed data'),
            True,
        ),
        (ValueError("plane 3: DeflateError: bad data"), True),
        (OSError("Can't read data (inflate() failed)"), True),
        (OSError(errno.EIO, "Input/output error"), False),
        (PermissionError(errno.EACCES, "Permission denied"), False),
        (ValueError("PERMISSION_DENIED: Forbidden [HTTP code 403]"), False),
        (ValueError("ABORTED: All 3 retry attempts failed: CURL error"), False),
        (ValueError("UNAVAILABLE: nobody there"), False),
    ],
)
def test_what_is_damaged_and_what_is_away(error: Exception, corrupt: bool) -> None:
    assert is_corrupt(error) is corrupt
    volume = open_volume(PIXELS)
    found = volume.unreadable(WHOLE, error)
    assert isinstance(found, Corrupt if corrupt else Unreadable)
    assert isinstance(found, Corrupt) is corrupt


def test_many_are_counted() -> None:
    assert told_of_skipped(["a"]) == "1 chunk of the source is corrupt, taken as 0: a"
    assert told_of_skipped(list("abcde")).endswith(
        "5 chunks of the source are corrupt, taken as 0: a; b; c and 2 more"
    )


def test_nothing_to_normalise_by() -> None:
    with pytest.raises(Exception, match="none of the sampled voxels can be read"):
        intensity_range(lambda box: np.empty(0, "u1"), (4, 4, 4), 1, 99)


@pytest.mark.parametrize("name", ["OME-Zarr 0.4", "OME-Zarr 0.5", "N5", "Neuroglancer precomputed image"])
def test_what_has_gone_away_is_not_black(tmp_path: Path, name: str) -> None:
    path = Path(FORMATS[name].write(tmp_path, Given(PIXELS)))
    volume = open_volume(path)
    path.rename(tmp_path / "elsewhere")
    with pytest.raises(Unreadable, match=r"is the disk gone.*No such file"):
        volume.read(WHOLE)
