"""The form of a task in the window: its buttons have letters of their own, and room."""

from __future__ import annotations

import re

import numpy as np
import pytest
import tifffile
from napari.layers import Image
from qtpy.QtWidgets import QAbstractButton, QApplication

from connectoscope.tasks.base import load_task, task_names
from napari_connectoscope.sources import length_unit


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


def test_what_is_wrong_is_seen_beside_its_field(window, qtbot, tmp_path):
    window.resize(1000, 700)
    window.commands.trigger(window.commands.find("Reconstruct", "Simulate X-ray"))
    panel = window.task_panel
    panel.form.set_values({"source": "sample:fib", "destination": str(tmp_path / "x.zarr")})
    for name, value, said in (
        ("source_voxel_size", "8", "voxel size '8' is not"),  # folded, far below
        ("voxel_size", "30", "Voxel size: '30' is not a length"),
    ):
        field, line = panel.form.fields[name], panel._error
        before = field.value()
        panel.form.set_values({name: value})
        panel.run()
        qtbot.waitUntil(lambda field=field: field.visibleRegion().boundingRect().size() == field.size())
        assert window.focusWidget() is field.line
        assert line.text().startswith(said)
        assert line.visibleRegion().boundingRect().size() == line.size()
        panel.form.set_values({name: before})
        assert line.isHidden()


@pytest.mark.parametrize("path", ["/home/somebody/" + "a_long_name/" * 20 + "x.toml", "x" * 300], ids=len)
def test_a_long_path_that_is_wrong_leaves_the_panel_as_wide(window, path):
    window.commands.trigger(window.commands.find("Models", "Prune"))
    panel = window.task_panel
    QApplication.processEvents()
    least = panel.minimumSizeHint().width()
    panel.form.set_values({"destination": "new", "data": path})
    panel.run()
    assert panel.form.error_text.endswith(f"{path} does not exist; check the name")
    assert panel.minimumSizeHint().width() == least


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


def test_a_voxel_size_that_the_form_was_told_puts_the_image_where_the_preview_lies(
    window, qtbot, tmp_path, monkeypatch
):
    path = tmp_path / "plain.tif"
    tifffile.imwrite(path, np.zeros((4, 64, 64), np.uint8), photometric="minisblack")
    window.open_volume(str(path))
    qtbot.waitUntil(lambda: len(window.viewer.layers) == 1, timeout=20_000)
    window.commands.trigger(window.commands.find("Segment", "Synapses"))
    panel, layer = window.task_panel, window.viewer.layers[0]
    asked = []
    monkeypatch.setattr(panel._controller(), "run", asked.append)
    for ask in (panel.run, panel.check, panel.run_preview):
        panel.form.show_error("another line")
        ask()
        assert panel.form.error_text.startswith(
            "'plain' does not state its voxel size: enter it as Voxel size"
        )
    panel.form.set_values({"voxel_size": "47.5,4.6,4.6nm"})
    panel.run_preview()
    assert panel.form.error_text == ""
    assert len(asked) == 1
    assert (length_unit(layer), tuple(layer.scale)) == ("nanometer", (47.5, 4.6, 4.6))
    qtbot.waitUntil(lambda: window.browser.details.voxel_size is None, timeout=20_000)  # asks no more
    layer.translate = (0, 500, 500)
    panel.run_preview()
    assert "was moved" in panel.form.error_text
    assert len(asked) == 1
    assert window.error_dialog is None


def test_a_preview_goes_with_its_volume(window):
    panel = window.task_panel
    window.commands.trigger(window.commands.find("Segment", "Synapses"))
    controller = panel._controller()
    shown = controller._layers["synapses"] = Image(np.zeros((4, 8, 8), np.uint8))
    window.viewer.add_layer(shown)
    panel.preview_button.setEnabled(False)
    controller.dropped.emit("The preview was removed, since its volume was closed.")
    assert shown not in window.viewer.layers
    assert panel.preview_button.isEnabled()
    assert window.statusBar().currentMessage().startswith("The preview was removed")
    assert window.error_dialog is None
