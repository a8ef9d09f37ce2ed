"""The command line as a user meets it: help, usage errors, the way to the window."""

import io
import subprocess
import sys

import pytest

from connectoscope import __version__, cli
from connectoscope.tasks.base import load_task, parameter_facts, task_names
from connectoscope.terminal import JobReporter, summary_text


def said(capsys, *arguments: str) -> tuple[int, str, str]:
    code = cli.run(arguments)
    out, err = capsys.readouterr()
    assert "Traceback" not in out + err
    return code, out, err


def test_help_names_every_command_and_loads_nothing_heavy():
    script = "import sys; from connectoscope.cli import run; code = run(['--help']); print(*sys.modules); sys.exit(code)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    shown, _, modules = done.stdout.rstrip().rpartition("\n")
    for name in task_names():
        assert (f"\n  {name.split()[0]} " in shown) != load_task(name).hidden
    heavy = {"torch", "numpy", "tensorstore", "zarr", "scipy", "napari", "rich", "psutil", "multiprocessing"}
    assert not heavy & set(modules.split())


@pytest.mark.parametrize("name", task_names())
def test_help_of_a_task_shows_every_parameter(capsys, name):
    code, out, _ = said(capsys, *name.split(), "--help")
    assert code == 0
    assert ":mod:" not in out
    assert "[default: False]" not in out
    for field, info in load_task(name).parameters.model_fields.items():
        argument = parameter_facts(info).get("argument")
        assert (field.upper() if argument else "--" + field.replace("_", "-")) in out


@pytest.mark.parametrize("name", ["segment", "convert", "train", "adapt train", "models show"])
def test_a_command_alone_is_one_line(capsys, name):
    code, _, err = said(capsys, *name.split())
    assert code == 2
    assert err.count("\n") == 1


def test_bounds_and_defaults_are_shown(capsys):
    out = " ".join(said(capsys, "segment", "--help")[1].split())
    assert "[1 to 255]" in out
    assert "[at least 0] [default: 0]" in out
    assert "[default: synapse-vnc]" in out
    assert "nm³" in out
    # Its own parameters come before those that it shares.
    assert out.index("--skip-corrupt") < out.index("--box") < out.index("--json")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (
            ("segment", "a", "b.zarr", "--threshold", "300"),
            "--threshold: input should be less than or equal to 255, got 300",
        ),
        (
            ("segment", "a", "b.zarr", "--threshold", "many"),
            "--threshold: input should be a valid integer, got many",
        ),
        (
            ("segment", "a", "b.zarr", "--device", "tpu"),
            "--device: input should be 'auto', 'cpu', 'cuda' or 'mps', got tpu",
        ),
        (
            ("segment", "a", "b.zarr", "--threads", "0"),
            "--threads: input should be greater than or equal to 1, got 0",
        ),
        (("segment", "a", "b.zarr", "--colour"), "No such option: --colour"),
        (("segment", "a"), "Missing argument 'DESTINATION' (see 'connectoscope segment --help')"),
        (
            ("models", "burn"),
            "action: input should be 'list', 'show', 'export', 'import' or 'remove', got burn",
        ),
        (("--colour",), "No such option: --colour"),
        (("run",), "name a job folder"),
        (("run", "nothing"), "is not a job folder"),
        (("segmnt", "a"), "did you mean 'segment'?"),
        (("info", "x" * 300), "File name too long; check the path"),
        (("info", "~nosuchuser/a.zarr"), "~nosuchuser/a.zarr does not exist"),
        (("convert", "sample:vnc", "y" * 300 + "/out.ome.zarr"), "File name too long"),
        (("x" * 300 + ".zarr",), "File name too long"),
        (("nothing.ome.zarr",), "there is no file or folder 'nothing.ome.zarr'"),
    ],
)
def test_wrong_usage_is_one_line_and_2(capsys, monkeypatch, tmp_path, arguments, text):
    monkeypatch.chdir(tmp_path)
    code, out, err = said(capsys, *arguments)
    assert (code, out) == (2, "")
    assert err.startswith("connectoscope: ")
    assert err.count("\n") == 1
    assert text in err
    assert list(tmp_path.iterdir()) == []


def test_version(capsys):
    assert said(capsys, "--version") == (0, f"connectoscope {__version__}\n", "")


class Entry:
    def __init__(self, opened) -> None:
        self.load = lambda: opened


def test_paths_open_the_window(capsys, monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(cli.metadata, "entry_points", lambda group: [Entry(asked.append)])
    (tmp_path / "a.h5").touch()
    paths = [f"{tmp_path}/a.h5::/raw", "https://a.org/b.zarr", "sample:vnc"]
    assert said(capsys, *paths) == (0, "", "")
    assert said(capsys) == (0, "", "")
    assert asked == [paths, []]


def missing(paths: list[str]) -> None:
    raise ModuleNotFoundError("No module named 'PySide6'", name="PySide6")


@pytest.mark.parametrize("entries", [[], [Entry(missing)]])
def test_without_the_window_it_says_how_to_get_it(capsys, monkeypatch, entries):
    monkeypatch.setattr(cli.metadata, "entry_points", lambda group: entries)
    code, _, err = said(capsys)
    assert code == 2
    assert "pip install 'connectoscope[desktop]'" in err


def test_a_bug_points_to_a_log(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(cli, "_open_window", lambda paths: 1 / 0)
    code, _, err = said(capsys)
    assert code == 1
    assert "ZeroDivisionError" in err
    (log,) = tmp_path.iterdir()
    assert str(log) in err
    assert "1 / 0" in log.read_text()


def test_ctrl_c_is_3_and_a_closed_pipe_is_nobodys_fault(capsys, monkeypatch):
    def interrupt(paths):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_open_window", interrupt)
    assert said(capsys)[0] == 3
    pipe = f"{sys.executable} -m connectoscope models --json | true"
    assert subprocess.run(pipe, shell=True, capture_output=True, text=True, check=True).stderr == ""


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def progress(done: int) -> dict:
    return {
        "type": "progress",
        "phase": "network",
        "done": done,
        "total": 8,
        "fraction": done / 8,
        "seconds_left": 75.0,
    }


def test_progress_is_one_line_in_a_terminal():
    stream = Terminal()
    reporter = JobReporter(stream)
    reporter(progress(1))
    reporter({"type": "warning", "message": "thin ice"})
    reporter(progress(2))
    reporter.close()
    lines = stream.getvalue().split("\r\x1b[K")
    assert lines[1].split() == ["network", "12", "%", "1/8", "1", "min", "15", "s", "left"]
    assert lines[2] == "warning: thin ice\n"
    assert "2/8" in lines[3]
    assert lines[4] == ""


def test_elsewhere_progress_is_a_line_now_and_then(monkeypatch):
    stream = io.StringIO()
    reporter = JobReporter(stream)
    reporter(progress(1))
    assert stream.getvalue() == ""
    monkeypatch.setattr("connectoscope.terminal.PLAIN_SECONDS", 0.0)
    reporter(progress(2))
    assert stream.getvalue().startswith("network   25 %  2/8")


def test_summary_for_people():
    text = summary_text(
        {"task": "x", "warnings": ["w"], "objects": {"synapses": 7}, "seconds": 1.23456789, "vi": None}
    )
    assert text.split("\n") == ["objects  synapses 7", "seconds  1.23457"]


@pytest.mark.parametrize("module", ["typer", "numpy", "tensorstore"])
@pytest.mark.parametrize("seen_as", ["KeyboardInterrupt", "ImportError"])
def test_ctrl_c_while_modules_load_is_one_line(module: str, seen_as: str) -> None:
    script = f"""
import builtins, signal, sys
def load(name, *rest):
    if name == {module!r}:
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            raise {seen_as} from None  # as C extensions do
    return real(name, *rest)
real, builtins.__import__ = builtins.__import__, load
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.argv = ["connectoscope", "info", "sample:vnc"]
from connectoscope.__main__ import main
main()
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("connectoscope: cancelled")
