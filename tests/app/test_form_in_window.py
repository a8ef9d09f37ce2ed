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
