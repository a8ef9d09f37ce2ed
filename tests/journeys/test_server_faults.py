"""The server of a volume drops, delays and truncates, or is gone: retried, then one clear line, and the same bytes."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections import Counter
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest
from eight_blocks import BLOCKS, done, make_volume, same, supervised

pytestmark = pytest.mark.timeout(240)
STUMBLES = ("drop", "truncate", "delay")
# Decoded chunks are not kept, so that each block asks the server.
FORGETFUL = "from connectoscope.volumes import stores; stores.ENGINE_CACHE_BYTES = 0"


class Server(ThreadingHTTPServer):
    """Serves a folder: well, badly (the first answer for each path), or not at all."""

    mood = "well"
    leaves = staticmethod(lambda: False)  # asked at each request
    asked: Counter[str]
    stumbled: Counter[str]


class Handler(SimpleHTTPRequestHandler):
    server: Server

    def do_GET(self):
        if self.server.leaves():
            self.server.mood = "gone"
        asked, mood = self.server.asked, self.server.mood
        asked[self.path] += 1
        stumble = "drop" if mood == "gone" else ""
        if mood == "badly" and asked[self.path] == 1:
            stumble = STUMBLES[len(asked) % len(STUMBLES)]
            self.server.stumbled[stumble] += 1
        if stumble == "drop":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()  # with a reset
            return
        if stumble == "delay":
            time.sleep(0.5)
        self.half = stumble == "truncate"
        super().do_GET()

    def copyfile(self, source, outputfile):
        data = source.read()
        outputfile.write(data[: len(data) // 2] if self.half else data)

    def finish(self):
        with contextlib.suppress(OSError):  # after a reset
            super().finish()

    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("served")
    make_volume(folder / "volume.ome.zarr")
    made = Server(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
    made.asked, made.stumbled = Counter(), Counter()
    made.url = f"http://127.0.0.1:{made.server_port}/volume.ome.zarr"
    thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield made
    made.shutdown()
    made.server_close()
    thread.join()


@pytest.fixture(scope="module")
def stumbled(server, tmp_path_factory):
    """A result made while the server stumbled at every path once."""
    out = tmp_path_factory.mktemp("stumbled") / "out.ome.zarr"
    server.mood = "badly"
    with pytest.MonkeyPatch.context() as patch:
        code, job = supervised(patch, server.url, out)
    server.mood = "well"
    assert code == 0, job.state().message
    return out


def test_a_server_that_drops_delays_and_truncates(server, stumbled, monkeypatch):
    assert set(server.stumbled) == set(STUMBLES)
    out = stumbled.with_name("well.ome.zarr")
    assert supervised(monkeypatch, server.url, out)[0] == 0
    assert same(out, stumbled)


def test_a_server_goes_away_and_comes_back(server, stumbled, monkeypatch):
    out = stumbled.with_name("back.ome.zarr")
    try:
        monkeypatch.setattr(server, "leaves", lambda: done(out) >= 2)
        code, job = supervised(monkeypatch, server.url, out, FORGETFUL)
        state = job.state()
        assert (code, state.status) == (4, "paused"), state.message
        assert "(is the connection gone?)" in state.message
        assert state.message.endswith("finished blocks are kept: fix that, then resume")
        before = done(out)
        assert 2 <= before < BLOCKS
        code, _ = supervised(monkeypatch, server.url, out)
        state = job.state()
        assert (code, state.status) == (4, "paused"), state.message
        assert "check the address and the connection" in state.message
        assert state.message.endswith("fix that, then resume")
        assert done(out) == before
    finally:
        monkeypatch.undo()
        server.mood = "well"
    code, job = supervised(monkeypatch, server.url, out)
    assert code == 0, job.state().message
    assert same(stumbled, out)


def test_a_server_is_away_from_the_start(server, tmp_path, monkeypatch):
    server.mood = "gone"
    try:
        code, job = supervised(monkeypatch, server.url, tmp_path / "out.ome.zarr")
    finally:
        server.mood = "well"
    assert code == 2
    assert "check the address and the connection" in job.state().message
    assert "\n" not in job.state().message
    assert not (tmp_path / "out.ome.zarr").exists()
