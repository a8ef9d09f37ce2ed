"""The window: opens, tells, remembers and leaves nothing behind."""

from __future__ import annotations

import errno
import shutil
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from qtpy.QtCore import QMimeData, QPointF, QRect, Qt, QUrl
from qtpy.QtGui import QDropEvent, QGuiApplication
from qtpy.QtWidgets import QApplication, QComboBox, QLabel, QMessageBox

from connectoscope_app import commands
from connectoscope_app.palette import matches
from connectoscope_app.settings import load_settings
from connectoscope_app.window import MainWindow
from napari_connectoscope.sources import layer_facts

WAIT = 60_000  # ms; a limit, not a pause: threads import slowly on a busy machine


def drop(window, *, urls=(), text=""):
    mime = QMimeData()
    if urls:
        mime.setUrls([QUrl(u) if "://" in u else QUrl.fromLocalFile(u) for u in urls])
    if text:
        mime.setText(text)
    event = QDropEvent(
        QPointF(200, 200),
        Qt.DropAction.CopyAction,
        mime,
        Qt.MouseButton.LeftButton,
        Qt.KeyboardModifier.NoModifier,
    )
    window.dropEvent(event)


def test_pyside_does_not_lose_references(qapp):
    label = QLabel()
    before = sys.getrefcount(None)
    for _ in range(300):
        label.setObjectName("name")
    assert sys.getrefcount(None) > before - 100  # 6.12.0 lost one at every call and then aborted


def test_every_command_has_words_a_key_and_a_place(window):
    titles = set()
    keys = []
    shown = set()
    for menu in window.menuBar().actions():
        for action in menu.menu().actions():
            shown |= {id(a) for a in (action.menu().actions() if action.menu() else [action])}
    for command in window.commands:
        action = window.commands.action(command)
        assert command.title
        assert command.tooltip
        assert command.shortcut, f"{command.palette_text} has no short cut"
        assert action.toolTip() == command.tooltip
        assert id(action) in shown, f"{command.palette_text} is in no menu"
        titles.add(command.palette_text)
        keys.append(action.shortcut().toString())
    assert len(keys) == len(set(keys)), "two commands share a short cut"
    palette = commands.open_palette(window)
    assert {c.palette_text for c in palette.visible_commands()} == titles
    palette.close()


def test_empty_menus_are_hidden(window):
    for action in window.menuBar().actions():
        assert action.isVisible() == (not action.menu().isEmpty())
    assert next(a.text() for a in window.menuBar().actions() if a.isVisible()) == "&File"


def test_palette_finds_and_runs(window, qtbot):
    assert matches("syn seg", "Segment: Synapses")
    palette = commands.open_palette(window)
    qtbot.keyClicks(palette.search, "synap")
    assert all("ynaps" in c.palette_text for c in palette.visible_commands())
    assert palette.list.currentItem().text().startswith("Segment: Synapses")
    palette.search.clear()
    qtbot.keyClicks(palette.search, "light colours")
    assert [c.title for c in palette.visible_commands()] == ["Light"]
    qtbot.keyClick(palette.search, Qt.Key.Key_Return)
    assert window.settings.theme == "light"


def test_theme_reaches_docks_and_canvas(window):
    for kind in ("light", "dark"):
        window.set_theme(kind)
        assert window.viewer.theme == kind
        red = window.jobs.palette().window().color().red()
        assert (red > 128) == (kind == "light")
    assert window.settings.theme == "dark"


def test_opening_shows_levels_and_is_remembered(window, qtbot, volume_file):
    assert not window.welcome.isHidden()
    window.open_volume(str(volume_file))
    qtbot.waitUntil(lambda: len(window.viewer.layers) == 1, timeout=WAIT)
    assert window.welcome.isHidden()
    words = " ".join(label.text() for label in window.browser.details.findChildren(QLabel))
    assert "40 × 4 × 4 nm" in words
    assert window.settings.recent == (str(volume_file),)
    assert window.commands.find("File/Open Recent", volume_file.name)


def test_what_is_described_is_a_volume_that_is_open(window, qtbot, volume_file, tmp_path):
    second = tmp_path / "second.ome.tif"
    shutil.copy(volume_file, second)
    for number, path in enumerate((volume_file, second), 1):
        window.open_volume(str(path))
        qtbot.waitUntil(lambda number=number: len(window.viewer.layers) == number, timeout=WAIT)
    assert window.windowTitle().startswith(window.browser.details.volume.name)
    window.viewer.add_image(np.zeros((4, 8, 8), np.uint8), name="mine")  # the active one now
    for expected in ("small", None):
        window.viewer.layers.remove(window.browser.details.volume.name)
        volume = window.browser.details.volume
        assert (volume and volume.name) == expected
        assert window.windowTitle() == (f"{expected} — Connectoscope" if expected else "Connectoscope")
    assert window.welcome.isHidden()


def test_the_first_window_is_no_larger_than_the_screen(make_window, monkeypatch):
    small = SimpleNamespace(availableGeometry=lambda: QRect(0, 0, 1067, 667))
    monkeypatch.setattr(MainWindow, "screen", lambda self: small)
    window = make_window()
    assert (window.width(), window.height()) == (1067, 667)


def test_a_missing_file_is_one_line_in_a_dialog(window, qtbot, tmp_path):
    window.open_volume(str(tmp_path / "nowhere.ome.zarr"))
    qtbot.waitUntil(lambda: window.error_dialog is not None, timeout=WAIT)
    line = window.error_dialog.line.text()
    assert "nowhere.ome.zarr" in line
    assert "\n" not in line
    assert "Traceback" not in line
    assert window.error_dialog.isVisible()
    window.error_dialog.close()


def test_error_dialog_folds_its_details(window):
    window.show_error("the disk is full: make room", "a long log")
    dialog = window.error_dialog
    assert dialog.details.isHidden()
    dialog._unfold(True)
    assert not dialog.details.isHidden()
    dialog.close()


@pytest.mark.parametrize(
    "line", ["xnh has voxels of 50 nm: choose another model", "f.xyz: name it f.ome.zarr"]
)
def test_error_dialog_leaves_names_as_they_are(window, line):
    window.show_error(line)
    assert window.error_dialog.line.text() == line
    window.error_dialog.close()


def test_dropped_paths_and_addresses_are_opened(window, qtbot, volume_file, monkeypatch):
    drop(window, urls=[str(volume_file)])
    qtbot.waitUntil(lambda: len(window.viewer.layers) == 1, timeout=WAIT)
    asked = []
    monkeypatch.setattr(window, "open_volume", asked.append)
    drop(window, urls=["https://example.org/v.ome.zarr"])
    drop(window, text="https://example.org/w.ome.zarr")
    assert asked == ["https://example.org/v.ome.zarr", "https://example.org/w.ome.zarr"]
    asked.clear()
    drop(window, text=f'  "{volume_file}"\nfile://{volume_file.parent}/a%20b.tif\n\n')
    assert asked == [str(volume_file), f"{volume_file.parent}/a b.tif"]


def test_what_is_no_volume_is_told_with_where_it_belongs(window, qtbot, tmp_path):
    (tmp_path / "small").mkdir()
    for name in ("small/card.json", "a.cascade.json", "discs.toml"):
        (tmp_path / name).touch()
    told = {
        "small": "small is a model: choose it under Model",
        "small/card.json": "small is a model: choose it under Model",
        "a.cascade.json": "a.cascade.json is a cascade's plan: choose it under Cascade",
        "discs.toml": "discs.toml is a recipe: choose it in the form of Models ▸ Train or Models ▸ Prune",
        "nowhere.tif": f"{tmp_path / 'nowhere.tif'} does not exist",
    }
    drop(window, urls=[str(tmp_path / name) for name in told])

    def lines():
        return window.error_dialog.line.text().split("\n\n") if window.error_dialog else []

    qtbot.waitUntil(lambda: len(lines()) == 4, timeout=WAIT)  # all in one dialog, and each once
    for text in told.values():
        assert any(line.startswith(text) for line in lines())
    window.error_dialog.close()


@pytest.mark.parametrize("text", ["x" * 300, "~nobody-here/a.tif", "closed/a.tif"])
def test_a_text_that_cannot_be_a_path_is_one_line(window, qtbot, tmp_path, monkeypatch, text):
    def is_file(path: Path) -> bool:
        if "closed" in path.parts:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return asked(path)

    asked = Path.is_file
    monkeypatch.setattr(Path, "is_file", is_file)
    monkeypatch.chdir(tmp_path)
    drop(window, text=text)
    qtbot.waitUntil(lambda: window.error_dialog is not None, timeout=WAIT)
    line = window.error_dialog.line.text()
    assert "check" in line
    assert len(line) < 200


def test_a_missing_voxel_size_is_asked_for(window, qtbot, tmp_path):
    import tifffile

    path = tmp_path / "plain.tif"
    tifffile.imwrite(
        path, np.arange(4 * 16 * 16, dtype=np.uint16).reshape(4, 16, 16), photometric="minisblack"
    )
    window.open_volume(str(path))
    qtbot.waitUntil(lambda: len(window.viewer.layers) == 1, timeout=WAIT)
    field = window.browser.details.voxel_size
    assert field is not None
    field.setText("nonsense")
    field.returnPressed.emit()
    assert len(window.viewer.layers) == 1
    field.setText("40,4,4nm")
    field.returnPressed.emit()
    qtbot.waitUntil(lambda: window.browser.details.volume.unit == "nanometer", timeout=WAIT)
    assert len(window.viewer.layers) == 1
    assert window.browser.details.voxel_size is None


def test_a_colour_image_comes_up_and_its_samples_are_channels(window, qtbot, tmp_path):
    import tifffile

    path = tmp_path / "rgb.tif"
    pixels = np.random.default_rng(0).integers(0, 255, (5, 20, 24, 3), dtype=np.uint8)
    tifffile.imwrite(path, pixels, photometric="rgb")
    window.open_volume(str(path))
    qtbot.waitUntil(lambda: len(window.viewer.layers) == 1, timeout=WAIT)
    assert window.error_dialog is None
    details = window.browser.details
    assert "of which 'red' is shown" in " ".join(label.text() for label in details.findChildren(QLabel))
    assert "--" not in window.log.toPlainText()
    choice = next(
        box for box in details.findChildren(QComboBox) if box.toolTip().endswith("channel of this volume")
    )
    assert [choice.itemText(i) for i in range(choice.count())] == ["red", "green", "blue"]
    choice.activated.emit(1)
    qtbot.waitUntil(lambda: details.volume.channel == 1, timeout=WAIT)
    (layer,) = window.viewer.layers
    assert np.array_equal(layer.data[2:3], pixels[2:3, :, :, 1])
    assert window.settings.recent == (str(path),)


def test_a_voxel_size_told_elsewhere_is_asked_for_no_more(window, qtbot, tmp_path):
    np.save(tmp_path / "plain.npy", np.zeros((4, 16, 16), np.uint8))
    window.open_volume(str(tmp_path / "plain.npy"))
    qtbot.waitUntil(lambda: len(window.viewer.layers) == 1, timeout=WAIT)
    details = window.browser.details
    assert details.voxel_size is not None
    (layer,) = window.viewer.layers
    layer.scale, layer.units = (40, 4, 4), ("nanometer",) * 3  # as a form does
    facts = {**layer_facts(layer), "voxel_size": "40,4,4nm", "unit": "nanometer"}
    layer.metadata = {**layer.metadata, "connectoscope": facts}
    qtbot.waitUntil(lambda: details.voxel_size is None, timeout=WAIT)
    assert "40 × 4 × 4 nm" in " ".join(label.text() for label in details.findChildren(QLabel))


def test_looking_at_a_slow_disk_does_not_hold_the_window(window, qtbot, volume_file, monkeypatch):
    let_go = threading.Event()
    asked = Path.is_file

    def is_file(path: Path) -> bool:
        let_go.wait(WAIT / 1000)
        return asked(path)

    monkeypatch.setattr(Path, "is_file", is_file)
    window.open_volume(str(volume_file))
    assert "Opening" in window.statusBar().currentMessage()
    let_go.set()
    qtbot.waitUntil(lambda: len(window.viewer.layers) == 1, timeout=WAIT)


def test_task_form_comes_up_and_is_copied(window, qtbot, volume_file, tmp_path):
    window.open_volume(str(volume_file))
    qtbot.waitUntil(lambda: len(window.viewer.layers) == 1, timeout=WAIT)
    window.commands.trigger(window.commands.find("Segment", "Synapses"))
    panel = window.task_panel
    assert panel.form.values()["source"] == str(volume_file)
    assert list(panel.form.values()["target"]) == ["synapses"]
    panel.form.set_values({"destination": str(tmp_path / "out.ome.zarr")})
    panel.copy_command()
    command = QGuiApplication.clipboard().text()
    assert command.startswith("connectoscope segment")
    assert "--target synapses" in command


def test_layout_and_docks_come_back(make_window):
    first = make_window()
    for _ in range(2):  # it is behind a tab: first to the front, then hidden
        first.commands.trigger(first.commands.find("View", "Log Panel"))
    first.docks["Volumes"].hide()
    first.set_theme("light")
    first.close()
    second = make_window()
    assert second.docks["Volumes"].isHidden()
    assert second.docks["Log"].isHidden()
    assert second.settings.theme == "light"
    second.reset_layout()
    assert not second.docks["Volumes"].isHidden()
    assert load_settings()[1] == []


def test_about_names_versions_without_importing_torch(window):
    window.commands.trigger(window.commands.find("Help", "About Connectoscope"))
    (dialog,) = [w for w in QApplication.topLevelWidgets() if w.windowTitle().startswith("About")]
    text = dialog.facts.text()
    for word in ("Connectoscope", "Python", "napari", "torch", "Device"):
        assert word in text
    dialog.close()


def test_dead_slots_are_not_offered_and_hints_are_told(window):
    for title in ("Run Task", "Preview", "Copy as Command", "Cancel Job", "Resume Job", "Show Result"):
        window.commands.trigger(window.commands.find("Tools", title))
        assert window.statusBar().currentMessage()
    assert window.error_dialog is None


@pytest.mark.parametrize("title", ["3D", "Scale Bar", "Full Screen", "Reset View", "Guide"])
def test_view_commands_run_twice(window, title):
    menu = "Help" if title == "Guide" else "View"
    command = window.commands.find(menu, title)
    if title == "3D":  # drawing in three dimensions takes seconds without a graphics card
        window.hide()
    window.commands.trigger(command)
    window.commands.trigger(command)


def test_of_several_choices_the_last_one_is_shown_and_the_voxel_size_stays(window, qtbot, tmp_path):
    import tifffile

    path = tmp_path / "times.tif"
    times = np.arange(5 * 3 * 16 * 16, dtype=np.uint16).reshape(5, 3, 16, 16)
    tifffile.imwrite(path, times, metadata={"axes": "TZYX"}, photometric="minisblack", ome=True)
    window.open_volume(str(path))
    qtbot.waitUntil(lambda: len(window.viewer.layers) == 1, timeout=WAIT)
    window.browser.details.voxel_size.setText("40,4,4nm")
    window.browser.details.voxel_size.returnPressed.emit()
    qtbot.waitUntil(lambda: window.browser.details.volume.unit == "nanometer", timeout=WAIT)
    for time in (1, 2, 3):  # faster than they can be opened
        window._reopen({"time": time})
    qtbot.waitUntil(lambda: window.browser.details.volume.time == 3, timeout=WAIT)
    qtbot.wait(500)  # the others' answers
    assert [layer.name for layer in window.viewer.layers] == ["times · time 3"]
    above = window.viewer.add_points(np.zeros((1, 3)), units=("nm",) * 3)
    window._reopen({"time": 1})
    qtbot.waitUntil(lambda: window.browser.details.volume.time == 1, timeout=WAIT)
    assert window.viewer.layers[1:] == [above]  # what was found stays over the image
    window._reopen({"time": 3})
    qtbot.waitUntil(lambda: window.browser.details.volume.time == 3, timeout=WAIT)
    assert window.browser.details.volume.time == 3
    assert window.browser.details.volume.unit == "nanometer"


def test_labels_that_cannot_be_saved_keep_the_window_open(window, monkeypatch):
    asked = []

    def ask(parent, title, text, *buttons):
        asked.append(text)
        return answer

    monkeypatch.setattr(QMessageBox, "question", ask)
    monkeypatch.setattr(window.labels, "flush", lambda: False)
    window.labels.state.setText("Labels are not saved yet: No space left on device")
    answer = QMessageBox.StandardButton.Cancel
    assert not window.close()
    assert "No space left" in asked[0]
    assert window.isVisible()
    answer = QMessageBox.StandardButton.Close
    assert window.close()
