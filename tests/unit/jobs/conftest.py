"""A tiny task, ``fake``, that every process of a test finds among the real ones."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

import connectoscope.tasks

FAKE_TASK = '''
"""A task for tests: writes numbered blocks, and fails as told.

Until the file DST.ok exists it does at block 2 what ``trouble`` says.
"""
import errno, os, signal, sys, time
from pathlib import Path
from typing import Literal
from connectoscope.errors import Cancelled, UserError
from connectoscope.tasks.base import Parameters, Task, parameter

class Fake(Parameters):
    """Numbers into a file."""
    source: str = parameter(role="source", argument=True, help="Anything.")
    destination: str = parameter(role="destination", argument=True, help="Text file.")
    blocks: int = parameter(4, ge=1, le=9, help="How many.")
    trouble: Literal["none", "wait", "stubborn", "kill", "memory", "full", "denied", "bug", "user", "exit"] = parameter(
        "none", help="What goes wrong.")

def run(p, context):
    destination = Path(p.destination)
    calm = Path(p.destination + ".ok")
    part = context.job.path / "part"
    ledger = context.job.ledger_path
    done = ledger.read_text().split() if ledger.exists() else []
    if destination.exists() and not done and not context.overwrite:
        raise UserError(f"{destination} exists")
    if p.trouble == "user":
        raise UserError("source is no volume")
    print("chatter of a library")
    context.warn("the moon is full")
    for block in range(p.blocks):
        if str(block) in done:
            continue
        context.check_cancelled()
        if block == 2 and not calm.exists():
            trouble(p.trouble, context, calm)
        with part.open("a") as file:
            file.write(f"{block}\\n")
        with ledger.open("a") as file:
            file.write(f"{block}\\n")
        context.progress(block + 1, p.blocks, "counting")
    destination.write_text(part.read_text())
    context.result("table", destination, "numbers")
    return {"blocks": p.blocks, "tile_scale": context.tile_scale, "pid": os.getpid()}

def trouble(kind, context, calm):
    context.log("in trouble")
    while kind in ("wait", "stubborn") and not calm.exists():
        if kind == "wait":
            context.check_cancelled()
        time.sleep(0.01)
    if kind == "kill" and context.tile_scale == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "memory":
        raise MemoryError
    if kind in ("full", "denied"):
        number = {"full": errno.ENOSPC, "denied": errno.EACCES}[kind]
        raise OSError(number, os.strerror(number), "/some/where")
    if kind == "bug":
        raise KeyError("surprise")
    if kind == "exit":
        os._exit(7)

TASK = Task(name="fake", summary="Count.", parameters=Fake, run=run, destination="destination")
'''
FAKE_REPORT = '''
"""Reports a number, in the terminal's own process."""
from connectoscope.tasks.base import Parameters, Task, parameter

class FakeReport(Parameters):
    """A number."""
    number: float = parameter(argument=True, gt=0, help="A number.")
    bug: bool = parameter(False, help="Fail.")

def run(p, context):
    print("chatter of a library")
    if p.bug:
        raise RuntimeError("surprise")
    return {"half": p.number / 2}

TASK = Task(name="fake-report", summary="Halve.", parameters=FakeReport, run=run, in_process=True)
'''
SITE = "import connectoscope.tasks\nconnectoscope.tasks.__path__.append({!r})\n"


@pytest.fixture(autouse=True)
def _fake_tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tasks = tmp_path / "site" / "tasks"
    tasks.mkdir(parents=True)
    (tasks / "fake.py").write_text(FAKE_TASK)
    (tasks / "fake_report.py").write_text(FAKE_REPORT)
    (tmp_path / "site" / "sitecustomize.py").write_text(SITE.format(str(tasks)))
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setattr(connectoscope.tasks, "__path__", [*connectoscope.tasks.__path__, str(tasks)])
    for name in ("fake", "fake_report"):
        monkeypatch.delitem(sys.modules, f"connectoscope.tasks.{name}", raising=False)
    monkeypatch.chdir(tmp_path)


def listen_to_interrupts() -> None:
    """A suite that was started in the background ignores SIGINT, and its children inherit that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.fixture
def start():
    """Starts ``connectoscope ARGUMENTS…`` for real; what still runs at the end of the test is killed."""
    processes: list[subprocess.Popen[str]] = []

    def start_one(*arguments: object) -> "subprocess.Popen[str]":
        command: Sequence[str] = [sys.executable, "-m", "connectoscope", *map(str, arguments)]
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ},
            preexec_fn=listen_to_interrupts if os.name == "posix" else None,
        )
        processes.append(process)
        return process

    yield start_one
    for process in processes:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.fixture
def finish():
    """Waits for a process: (exit code, stdout, stderr); a traceback fails the test."""

    def wait(process: "subprocess.Popen[str]") -> tuple[int, str, str]:
        out, err = process.communicate(timeout=30)
        assert "Traceback" not in out + err
        return process.returncode, out, err

    return wait


@pytest.fixture
def command(start, finish):
    """Runs ``connectoscope ARGUMENTS…`` to its end: (exit code, stdout, stderr)."""
    return lambda *arguments: finish(start(*arguments))


@pytest.fixture
def until():
    """Waits for a condition that another process brings about."""

    def wait(condition: Callable[[], object], seconds: float = 20.0) -> None:
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, "it did not happen"
            time.sleep(0.01)

    return wait
