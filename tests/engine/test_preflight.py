"""What a run will need is said before, and nothing is written."""

from __future__ import annotations

import json
import subprocess
import sys
from types import SimpleNamespace

import pytest
from filter_model import FilterBundle, blobs

from connectoscope import cli
from connectoscope.jobs.context import Context
from connectoscope.segmentation import preflight as module
from connectoscope.segmentation import setup as set_up_module
from connectoscope.segmentation.preflight import preflight, render
from connectoscope.tasks.segment import Segment
from connectoscope.volumes import open_volume


@pytest.fixture
def ask(tmp_path, monkeypatch):
    """ask(**parameters): the preflight of a volume of 30 x 20 x 20 in blocks of 8 x 8 x 8."""
    monkeypatch.setattr(
        set_up_module,
        "choose_tile",
        lambda grid, halo, stride, voxels: tuple(8 + 2 * h for h in halo),
    )
    volume = open_volume(blobs((30, 20, 20)), voxel_size="8,8,8nm")

    def ask_(**parameters):
        values = Segment(source="memory", destination=str(tmp_path / "out.ome.zarr"), **parameters)
        return preflight(volume, FilterBundle(), values, Context.local(tmp_path / "job", threads=1))

    return ask_


def test_blocks_and_disk_are_counted(ask, tmp_path):
    found = ask()
    assert found["blocks"] == 4 * 3 * 3
    assert found["seconds"] > 0
    assert found["halo_share"] == pytest.approx(1 - 8**3 / 12**3, abs=1e-3)
    assert found["warnings"] == []
    assert ask(box="0:8,0:8,0:9")["blocks"] == 2
    assert not (tmp_path / "out.ome.zarr").exists()
    assert render(found).splitlines()[0] == "blocks  36 of 12 × 12 × 12 voxels on cpu"


def test_too_little_disk_and_memory_are_told(ask, monkeypatch):
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    monkeypatch.setattr(module, "free_memory", lambda: 0)
    monkeypatch.setattr(module, "peak_memory_mb", lambda: 0.0)
    disk, memory = ask()["warnings"]
    assert "choose another place, or --box" in disk
    assert "memory may be too small" in memory


def command(*words):
    line = [sys.executable, "-m", "connectoscope", *map(str, words)]
    return subprocess.run(line, capture_output=True, text=True, timeout=100, check=False)


def test_dry_run_on_the_command_line(tmp_path):
    out = tmp_path / "out.ome.zarr"
    done = command("segment", "sample:vnc", out, "--model", "membrane-vnc", "--dry-run", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["blocks"] == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "more", "said"),
    [
        ("none/out.ome.zarr", (), "does not exist"),
        ("theirs.ome.zarr", (), "was not made by connectoscope"),
        ("theirs.ome.zarr/labels/out.ome.zarr", (), "lies in the volume"),
        ("out.ome.zarr", ("--cascade", "none.cascade.json"), "none.cascade.json"),
        ("out.ome.zarr", ("--cascade", "auto", "--workers", "2"), "a cascade decides in one process"),
    ],
)
def test_what_the_run_would_refuse_the_dry_run_does(tmp_path, capsys, name, more, said):
    (tmp_path / "theirs.ome.zarr" / "labels").mkdir(parents=True)
    (tmp_path / "theirs.ome.zarr" / "zarr.json").write_text('{"attributes": {"ome": {"multiscales": []}}}')
    words = ["segment", "sample:vnc", str(tmp_path / name), "--model", "synapse-vnc", *more]
    for dry in ((), ("--dry-run",)):
        assert cli.run([*words, *dry]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert all(said in line for line in lines)


def test_a_result_that_is_to_be_replaced_is_in_no_ones_way(tmp_path, capsys):
    out = tmp_path / "out.ome.zarr"
    out.mkdir()
    marks = {"connectoscope": {"signature": {"input": {}, "model": "other"}, "finished": True, "summary": {}}}
    (out / "zarr.json").write_text(json.dumps({"attributes": marks}))
    words = ["segment", "sample:vnc", str(out), "--model", "membrane-vnc", "--dry-run"]
    assert cli.run(words) == 2
    assert "was made by another request" in capsys.readouterr().err
    assert cli.run([*words, "--overwrite"]) == 0
    assert [path.name for path in out.iterdir()] == ["zarr.json"]
