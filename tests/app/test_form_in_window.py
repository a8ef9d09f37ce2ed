"""The form of a task in the window: its buttons have letters of their own, and room."""

from __future__ import annotations

import re

from qtpy.QtWidgets import QAbstractButton, QApplication

from connectoscope.tasks.base import load_task, task_names


def test_no_button_has_the_letter_of_a_menu(window):
    window.commands.trigger(window.commands.find("Segment", "Synapses"))
    shown = [button for button in window.findChildren(QAbstractButton) if button.isVisible()]
    texts = [part.text() for part in (*window.menuBar().actions(), *shown)]
    letters = [letter.lower() for text in texts for letter in re.findall("&(.)", text)]
    assert sorted(letters) == sorted(set(letters))


def test_forms_fit_into_a_small_window(window):
    window.resize(1000, 700)
    panel = window.task_panel
    for task in map(load_task, task_names()):
        for entry in task.menu:
            window.commands.trigger(window.commands.find(entry.menu, entry.title))
            QApplication.processEvents()
            assert window.width() <= 1024, entry.title
            for widget in (panel.form, panel.copy_button, panel.check_button):
                visible = widget.visibleRegion().boundingRect()
                assert widget.isHidden() or visible.width() == widget.width(), entry.title


def test_a_key_pressed_twice_starts_one_job(window, tmp_path, monkeypatch):
    started = []
    monkeypatch.setattr("connectoscope_app.task_panel.start", lambda *args, **slots: started.append(args))
    window.commands.trigger(window.commands.find("Detect", "Cells"))
    values = {"source": "sample:vnc", "diameter": 5, "destination": str(tmp_path / "cells.csv")}
    window.task_panel.form.set_values(values)
    run = window.commands.find("Tools", "Run Task")
    window.commands.trigger(run)
    window.commands.trigger(run)
    assert len(started) == 1
