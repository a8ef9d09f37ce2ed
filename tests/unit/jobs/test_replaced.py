"""What --overwrite replaces is there until something of the new result is, however the run ends."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from connectoscope.errors import UserError
from connectoscope.jobs import replaced
from connectoscope.jobs.context import Context
from connectoscope.jobs.folder import JobFolder
from connectoscope.jobs.request import JobRequest
from connectoscope.jobs.run import run_job

KILLED = """
import os, signal, sys
from pathlib import Path
from connectoscope.jobs.context import Context
job, place = Path(sys.argv[1]), Path(sys.argv[2])
context = Context.local(job, overwrite=True)
with context.replacing(place):
    (place / "new").mkdir(parents=True)
    context.progress(int(sys.argv[3]), 9, "blocks")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def old_result(folder: Path, *, linked: bool = False) -> Path:
    place = folder / "result"
    real = folder / "elsewhere" / "real" if linked else place
    real.mkdir(parents=True)
    (real / "old").write_text("old")
    if linked:
        place.symlink_to(real)
    return place


def hidden(folder: Path) -> list[Path]:
    return [p for p in folder.rglob(".*") if "result" in p.name or "real" in p.name]


@pytest.mark.parametrize("linked", [False, True])
@pytest.mark.parametrize("blocks", [1, 2])
def test_a_killed_run_gives_it_back_while_nothing_is_done(tmp_path: Path, linked: bool, blocks: int) -> None:
    place, job = old_result(tmp_path, linked=linked), tmp_path / "job"
    code = subprocess.run(
        [sys.executable, "-c", KILLED, job, place, str(blocks)], check=False, timeout=60
    ).returncode
    assert code == -signal.SIGKILL
    assert not (place / "old").exists()
    JobFolder(job).put_back()
    assert (place / "old").exists() is (blocks == 1)
    assert (place / "new").exists() is (blocks == 2)
    assert place.is_symlink() is linked
    assert not hidden(tmp_path)


def test_it_comes_back_before_the_folder_is_removed_or_taken(tmp_path: Path) -> None:
    place, job = old_result(tmp_path), tmp_path / "job"
    subprocess.run([sys.executable, "-c", KILLED, job, place, "1"], check=False, timeout=60)
    JobFolder(job).remove()
    assert [p.name for p in place.iterdir()] == ["old"]
    assert not job.exists()


def test_the_supervisor_puts_it_back(tmp_path: Path) -> None:
    numbers = {"source": "none", "destination": str(tmp_path / "numbers.txt")}
    job = JobFolder.create(JobRequest.make("fake", numbers, keep_job=True))
    place = old_result(tmp_path)
    subprocess.run([sys.executable, "-c", KILLED, job.path, place, "1"], check=False, timeout=60)
    job.ledger_path.write_text("0\n")  # what it had noted is of what goes
    assert not (place / "old").exists()
    assert run_job(job) == 0
    assert [p.name for p in place.iterdir()] == ["old"]
    assert (tmp_path / "numbers.txt").read_text() == "0\n1\n2\n3\n"


def test_an_error_gives_it_back_and_an_end_does_not(tmp_path: Path) -> None:
    place, file = old_result(tmp_path), tmp_path / "table.csv"
    file.write_text("old")
    context = Context.local(tmp_path / "job", overwrite=True)
    with pytest.raises(UserError, match="unreadable"):
        _replace(context, place, file, tmp_path / "none")
    assert file.read_text() == "old"
    assert (place / "old").exists()
    with context.replacing(place, file):
        pass
    assert not place.exists()
    assert not file.exists()
    assert not hidden(tmp_path)


def test_a_kill_while_the_old_one_is_deleted_does_not_bring_it_back(tmp_path: Path, monkeypatch) -> None:
    place = old_result(tmp_path)
    context = Context.local(tmp_path / "job", overwrite=True)
    with monkeypatch.context() as patch:
        patch.setattr(replaced, "_remove", _killed)
        with pytest.raises(KeyboardInterrupt):
            _begin(context, place)
    context.job.put_back()
    assert [p.name for p in place.iterdir()] == ["new"]
    assert not hidden(tmp_path)


def _replace(context: Context, place: Path, file: Path, none: Path) -> None:
    with context.replacing(place, file, none):
        assert not place.exists()
        file.write_text("new")
        raise UserError("unreadable")


def _killed(path: Path, **_: bool) -> None:
    raise KeyboardInterrupt


def _begin(context: Context, place: Path) -> None:
    with context.replacing(place):
        (place / "new").mkdir(parents=True)
        context.progress(2, 9, "blocks")


def test_workers_elsewhere_write_no_more(tmp_path: Path) -> None:
    place, job = old_result(tmp_path), JobFolder(tmp_path / "job")
    subprocess.run([sys.executable, "-c", KILLED, job.path, place, "1"], check=False, timeout=60)
    job.scratch.mkdir(exist_ok=True)
    job.run_name_path.write_text("the run that was killed")
    job.put_back()
    assert not job.run_name_path.exists()


def test_an_old_one_that_cannot_be_deleted_ends_no_run(tmp_path: Path, monkeypatch) -> None:
    place = old_result(tmp_path)
    context = Context.local(tmp_path / "job", overwrite=True)

    def held(path: Path, **_: bool) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    with monkeypatch.context() as patch:
        patch.setattr(replaced, "_remove", held)
        _begin(context, place)
    context.job.put_back()
    assert [p.name for p in place.iterdir()] == ["new"]


def test_what_is_not_there_is_not_put_back(tmp_path: Path) -> None:
    context = Context.local(tmp_path / "job", overwrite=True)
    context.job.ledger_path.write_text("0\n")
    with pytest.raises(UserError, match="unreadable"):
        _replace(context, tmp_path / "a", tmp_path / "b", tmp_path / "c")
    assert context.job.ledger_path.read_text() == "0\n"


def test_what_cannot_be_moved_stays(tmp_path: Path, monkeypatch) -> None:
    place, file = old_result(tmp_path), tmp_path / "table.csv"
    file.write_text("old")
    rename = Path.rename

    def refused(self: Path, target: Path) -> Path:
        if self == file:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refused)
    context = Context.local(tmp_path / "job", overwrite=True)
    with pytest.raises(UserError, match=r"cannot be replaced \(Permission denied\)"):
        _replace(context, place, file, tmp_path / "none")
    assert (place / "old").exists()
    assert file.read_text() == "old"
    assert not hidden(tmp_path)
