"""N5 and precomputed volumes over http: lazily, from servers that stumble, and a word where there is none."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import zarr
from format_files import FORMATS, Given

from connectoscope.errors import UserError
from connectoscope.volumes import open_volume
from connectoscope.volumes.geometry import Box

PIXELS = np.random.default_rng(0).integers(0, 255, (9, 40, 50)).astype("u1")


class Server(ThreadingHTTPServer):
    asked: list[str]
    stumbles: int  # so many answers are 503


class Handler(SimpleHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        if self.server.stumbles:
            self.server.stumbles -= 1
            self.send_error(503)
            return
        self.server.asked.append(self.path)
        super().do_GET()

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    made = Server(("127.0.0.1", 0), partial(Handler, directory=str(tmp_path)))
    made.asked, made.stumbles = [], 0
    thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield made
    made.shutdown()
    made.server_close()
    thread.join()


@pytest.mark.parametrize(
    ("name", "scheme"), [("N5", "n5"), ("Neuroglancer precomputed image", "precomputed")]
)
def test_http(tmp_path: Path, server: Server, name: str, scheme: str) -> None:
    path = FORMATS[name].write(tmp_path, Given(PIXELS))
    url = f"http://127.0.0.1:{server.server_port}/{Path(path).name}"
    for source in (url, f"{scheme}://{url}"):
        server.asked.clear()
        server.stumbles = 1
        volume = open_volume(source)
        assert (volume.source, volume.name, volume.shape) == (url, "a", PIXELS.shape)
        assert volume.voxel_size_nm() == (40.0, 4.0, 8.0)
        before = len(server.asked)
        server.stumbles = 2
        box = Box((0, 0, 0), (4, 8, 8))
        np.testing.assert_array_equal(volume.read(box), PIXELS[box.slices])
        assert len(server.asked) == before + 1  # one chunk of many
        volume.read(box)
        assert len(server.asked) == before + 1  # kept
    np.testing.assert_array_equal(volume.read(Box.of(PIXELS.shape)), PIXELS)
    (tmp_path / "b").mkdir()
    FORMATS[name].write(tmp_path / "b", Given(PIXELS))
    other = open_volume(f"http://127.0.0.1:{server.server_port}/b/{Path(path).name}")
    server.stumbles = 99
    with pytest.raises(UserError, match=r"cannot read voxels 8:9,32:40,48:50 \(is the connection gone\?\)"):
        other.read(Box((8, 32, 48), (9, 40, 50)))
    with pytest.raises(UserError, match="check the address and the connection"):
        open_volume(url)


@pytest.mark.parametrize("fill", [0, np.nan])
def test_what_has_gone_from_a_server_is_not_empty(tmp_path: Path, server: Server, fill: float) -> None:
    array = zarr.create_array(
        tmp_path / "a.zarr", shape=(8, 16, 16), chunks=(4, 8, 8), dtype="f4", fill_value=fill
    )
    volume = open_volume(f"http://127.0.0.1:{server.server_port}/a.zarr")
    np.testing.assert_array_equal(volume.read(Box((0, 0, 0), (4, 8, 8))), array[:4, :8, :8])
    (tmp_path / "a.zarr").rename(tmp_path / "b.zarr")
    with pytest.raises(UserError, match="is the connection gone"):
        volume.read(Box((4, 8, 8), (8, 16, 16)))
