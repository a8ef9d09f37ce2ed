"""File ▸ Open of every format, by the window's own commands; only the answer of the system's file dialog is ours."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
from format_files import FORMATS, Given
from napari.layers import Labels
from qtpy.QtWidgets import QFileDialog, QLabel

from connectoscope_app.dialogs import VolumeChoice

WAIT = 60_000  # ms; a limit, not a pause
GIVEN = Given(np.random.default_rng(0).integers(0, 120, (9, 40, 50)).astype("u1"))


# Other encodings of these are for the contract of the library; each opening takes a while to draw.
ENCODINGS = {"OME-TIFF tiled", "JPEG images", "TIFF images", "NRRD gzip", "NRRD bzip2", "NIfTI gzip"}
KINDS = {kind: made for kind, made in FORMATS.items() if kind not in ENCODINGS}


def given_as(kind):
    """What a format can hold of it."""
    dtypes = FORMATS[kind].dtypes.split()
    dtype = "u1" if "u1" in dtypes else "u2" if "u2" in dtypes else dtypes[0]
    return Given(GIVEN.pixels.astype(dtype))


@pytest.fixture
def choose(window, monkeypatch):
    """choose(path): File ▸ Open File… or Open Folder…, and this answer."""

    def open_it(path):
        answer = str(path)
        monkeypatch.setattr(QFileDialog, "getOpenFileName", lambda *_, **__: (answer, ""))
        monkeypatch.setattr(QFileDialog, "getExistingDirectory", lambda *_, **__: answer)
        title = "Open Folder…" if path.is_dir() else "Open File…"
        window.commands.trigger(window.commands.find("File", title))

    return open_it


@pytest.fixture
def window(make_window):
    made = make_window()
    made.resize(1000, 650)  # less to draw
    return made


@pytest.fixture
def ended(window, qtbot):
    """Waits until the window has opened something or said why not; gives the layers."""

    def wait():
        qtbot.waitUntil(
            lambda: bool(window.viewer.layers) or window.error_dialog is not None,
            timeout=WAIT,
        )
        return list(window.viewer.layers)

    return wait


def shows(layer, plane):
    return np.array_equal(layer._slice.image.raw, plane)


def test_every_format_comes_up_with_its_pixels_at_its_place(window, choose, ended, qtbot, tmp_path):
    for number, (kind, made) in enumerate(KINDS.items()):
        folder = tmp_path / str(number)
        folder.mkdir()
        given = given_as(kind)
        path = Path(made.write(folder, given))
        choose(path)
        layers = ended()
        assert window.error_dialog is None, f"{kind}: {window.error_dialog.line.text()}"
        (layer,) = layers
        volume = window.browser.details.volume
        assert layer.data.shape == given.pixels.shape, kind
        if "scale" in made.keeps:
            assert volume.voxel_size_nm() == pytest.approx(given.scale, rel=1e-5), kind
            unit = layer.units[0]
            assert [(s * unit).to("nm").magnitude for s in layer.scale] == pytest.approx(given.scale), kind
        else:
            assert window.browser.details.voxel_size is not None, kind  # it is asked for
        if "offset" in made.keeps:
            place = [(t * layer.units[0]).to("nm").magnitude for t in layer.translate]
            assert place == pytest.approx(given.offset, rel=1e-4), kind
        assert isinstance(layer, Labels) == ("segmentation" in kind), kind
        qtbot.waitUntil(lambda layer=layer, given=given: shows(layer, given.pixels[4]), timeout=WAIT)
        window.viewer.dims.set_point(0, layer.data_to_world((2, 0, 0))[0])
        qtbot.waitUntil(lambda layer=layer, given=given: shows(layer, given.pixels[2]), timeout=WAIT)
        assert str(path) in window.settings.recent[0]
        window.commands.trigger(window.commands.find("File", "Close Volumes"))


def test_a_broken_file_of_every_format_is_one_line_and_no_layer(window, choose, ended, tmp_path):
    for number, (kind, made) in enumerate(KINDS.items()):
        folder = tmp_path / str(number)
        folder.mkdir()
        path = Path(made.write(folder, given_as(kind)))
        for file in folder.rglob("*"):
            if file.is_file():
                file.write_bytes(file.read_bytes()[:12] + b"\0not what it was" * 3)
        choose(path)
        assert ended() == [], kind
        line = window.error_dialog.line.text()
        assert "\n" not in line, kind
        assert "report" not in line, f"{kind}: {line}"
        assert "Traceback" not in line, kind
        window.error_dialog.close()
        window.error_dialog = None
        assert window.settings.recent == (), kind
    assert not window.welcome.isHidden()


def test_of_several_datasets_one_is_chosen(window, choose, ended, qtbot, tmp_path):
    path = tmp_path / "cremi.h5"
    with h5py.File(path, "w") as file:
        for name, pixels in (
            ("volumes/labels/ids", GIVEN.pixels.astype("u8")),
            ("volumes/raw", GIVEN.pixels),
        ):
            data = file.create_dataset(name, data=pixels)
            data.attrs["resolution"] = GIVEN.scale
    choose(path)
    qtbot.waitUntil(lambda: bool(window.findChildren(VolumeChoice)), timeout=WAIT)
    (dialog,) = window.findChildren(VolumeChoice)
    assert window.error_dialog is None
    items = [dialog.list.topLevelItem(i) for i in range(dialog.list.topLevelItemCount())]
    assert [i.text(0) for i in items] == ["/volumes/labels/ids", "/volumes/raw"]
    assert items[1].text(1) == "9 × 40 × 50  uint8"
    dialog.list.setCurrentItem(items[1])
    dialog.accept()
    (layer,) = ended()
    assert layer.data.dtype == np.uint8
    assert window.settings.recent == (f"{path}::/volumes/raw",)
    words = " ".join(label.text() for label in window.browser.details.findChildren(QLabel))
    assert "40 × 4 × 8 nm" in words


def test_what_lies_under_the_pointer_is_said(window, choose, ended, qtbot, tmp_path):
    choose(Path(FORMATS["HDF5"].write(tmp_path, GIVEN)))
    (layer,) = ended()
    qtbot.waitUntil(lambda: shows(layer, GIVEN.pixels[4]) and layer.loaded, timeout=WAIT)
    window.viewer.cursor.position = tuple(layer.data_to_world((4, 10, 20)))
    assert window.place.position.text().startswith(
        f"a /volumes/raw {GIVEN.pixels[4, 10, 20]}   z 240   y 28 "
    )


def test_without_a_voxel_size_nothing_is_run_and_the_form_says_why(window, choose, ended, qtbot, tmp_path):
    choose(Path(FORMATS["PNG images"].write(tmp_path, GIVEN)))
    ended()
    window.commands.trigger(window.commands.find("Segment", "Membranes"))
    panel = window.task_panel
    panel.form.set_values({"model": "membrane-vnc"})
    for button in (panel.run_button, panel.check_button):
        button.click()
        assert "does not state its voxel size" in panel.form.error_text
        error = panel.findChild(QLabel, "form-error")  # in sight, wherever the form is scrolled to
        qtbot.waitUntil(lambda error=error: not error.visibleRegion().isEmpty(), timeout=WAIT)
    assert window.jobs.model.rowCount() == 0
    assert window.error_dialog is None
