"""The tables of objects beside the window that asks for them."""

from __future__ import annotations

from pathlib import Path

import pytest

from connectoscope_app import tables_panel
from connectoscope_app.tables_panel import TablesPanel
from napari_connectoscope.table import read_table


@pytest.fixture
def waiting(monkeypatch):
    """What is read, answered when the test says so."""
    asked: list = []
    monkeypatch.setattr(tables_panel, "background", lambda owner, *answers: asked.append(answers))
    return asked


def table(folder: Path, name: str, count: int) -> str:
    lines = [f"{i},0,0,0,nanometer" for i in range(count)]
    (folder / name).write_text("\n".join(["id,z,y,x,unit", *lines]) + "\n")
    return str(folder / name)


def test_an_answer_to_what_was_asked_before_is_dropped(qtbot, tmp_path, waiting):
    panel = TablesPanel()
    qtbot.addWidget(panel)
    path = table(tmp_path, "a.csv", 1)
    panel.show_table(path, "Cells")
    early = waiting[0][0]()
    table(tmp_path, "a.csv", 2)
    panel.show_table(path, "Cells")
    waiting[1][1](read_table(Path(path)))
    waiting[0][1](early)  # of the same file, as it was
    assert panel.table.model.rowCount() == 2
    other = table(tmp_path, "b.csv", 3)
    panel.show_table(other, "Synapses")
    assert panel.table.model is None  # a click flies to nothing that is not chosen
    waiting[0][2]("cannot be read")
    waiting[2][1](read_table(Path(other)))
    assert panel.table.model.rowCount() == 3
    assert panel.hint.isHidden()
