"""What an error of the machine becomes, and what is none; schedulers that cannot be."""

from __future__ import annotations

import errno
import os
from collections import deque
from concurrent.futures import Future
from pathlib import Path

import pytest

from connectoscope.blockwise import crew
from connectoscope.errors import ConnectoscopeError, Corrupt, Stopped, Unwritable, UserError
from connectoscope.jobs.engine import understood
from connectoscope.jobs.folder import JobFolder
from connectoscope.jobs.request import JobRequest
from connectoscope.volumes.conversion import _wait


def job(folder: Path, **more: object) -> JobFolder:
    values = {"source": "sample:vnc", "destination": str(folder / "a.ome.zarr"), **more}
    return JobFolder.create(JobRequest.make("segment", values))


def caused(error: ConnectoscopeError, number: int) -> ConnectoscopeError:
    error.__cause__ = OSError(number, os.strerror(number))
    return error


def test_only_what_could_not_be_written_is_blamed_on_the_place(tmp_path: Path) -> None:
    here = job(tmp_path)
    for number in (errno.EACCES, errno.ENOSPC):
        ours = caused(UserError(f"cannot read a/zarr.json ({os.strerror(number)})"), number)
        assert understood(ours, here) is ours
    assert isinstance(understood(caused(Unwritable("x"), errno.ENOSPC), here), Stopped)
    assert "the destination is not accessible" in str(understood(caused(Unwritable("x"), errno.EROFS), here))
    for number in (errno.EIO, errno.ESTALE):
        text = os.strerror(number)
        for away in (
            caused(Unwritable("x"), number),
            OSError(number, text),
            ValueError(f"[OS error: {text}]"),
        ):
            assert isinstance(understood(away, here), Stopped)
            assert text.lower() in str(understood(away, here))
    odd = caused(Unwritable("x"), errno.EXDEV)
    assert understood(odd, here) is odd
    assert isinstance(understood(ValueError("FAILED: No space left on device"), here), Stopped)
    bug = ValueError("a bug")
    assert understood(bug, here) is bug


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            "local file [OS error 28: ENOSPC No space left on device] [tensorstore_spec=…]",
            "^the disk is full; make",
        ),
        ("the server said no", "cannot be written any more .the server said no.; make room"),
    ],
)
def test_a_voxel_that_cannot_be_written_is_told_without_tensorstores_words(error: str, said: str) -> None:
    written: Future[None] = Future()
    written.set_exception(ValueError(error))
    with pytest.raises(Stopped, match=said):
        _wait(deque([written]), Path("a.ome.zarr"), most=0)


def test_the_switch_is_proposed_where_it_is_off(tmp_path: Path) -> None:
    assert "--skip-corrupt" in str(understood(Corrupt("x"), job(tmp_path)))
    (tmp_path / "more").mkdir()
    assert str(understood(Corrupt("x"), job(tmp_path / "more", skip_corrupt=True))) == "x"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("/not/there.json", "there is no file /not/there.json"),
        ("there.json", "there is no file there.json"),
        ("some/where", "there is no file some/where"),
        ("slrum", "there is no scheduler 'slrum'; choose local, slurm"),
    ],
)
def test_schedulers_that_cannot_be_are_refused_at_once(tmp_path: Path, name: str, said: str) -> None:
    values = {"source": "sample:vnc", "destination": str(tmp_path / "a.ome.zarr")}
    for task in ("segment", "preflight"):
        with pytest.raises(UserError, match=said):
            JobRequest.make(task, values, scheduler=name)
    with pytest.raises(UserError, match=said):
        crew.Crew(name, 1)


def test_a_queue_that_is_not_described(tmp_path: Path) -> None:
    config = pytest.importorskip("dask.config")
    values = {"source": "sample:vnc", "destination": str(tmp_path / "a.ome.zarr")}
    with (
        config.set({"jobqueue.slurm": {"cores": 4}}),
        pytest.raises(
            UserError, match=r"jobqueue: slurm: memory \(of a job\) in ~/.config/dask/jobqueue.yaml"
        ),
    ):
        JobRequest.make("segment", values, scheduler="slurm")
    with config.set({"jobqueue.slurm": {"cores": 4, "memory": "8GB"}}):
        assert JobRequest.make("segment", values, scheduler="slurm").scheduler == "slurm"
