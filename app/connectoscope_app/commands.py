"""What stands in the menus: the window's own commands and, from their declarations, the tasks'."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtGui import QGuiApplication
from qtpy.QtWidgets import QFileDialog

from connectoscope.tasks.base import MenuEntry, Task, load_task, task_names
from connectoscope.volumes.endings import FILE_ENDINGS, OTHER_ENDINGS
from connectoscope_app import diagnostics
from connectoscope_app.actions import Command
from connectoscope_app.browser import file_name
from connectoscope_app.dialogs import AboutDialog, UrlDialog
from connectoscope_app.guide import GuideDialog
from connectoscope_app.palette import CommandPalette
from connectoscope_app.samples import bundled_samples

if TYPE_CHECKING:
    from connectoscope_app.window import MainWindow

_OPEN_FILE = "Open a TIFF, HDF5, MRC, NRRD, NIfTI or NumPy file"
_OPEN_FOLDER = "Open an OME-Zarr, N5 or precomputed volume, or a folder of images"
_PATTERNS = " ".join(f"*{ending}" for ending in (*FILE_ENDINGS, *OTHER_ENDINGS, ".zarr", ".json"))
_FILTER = f"Volumes ({_PATTERNS});;All files (*)"
_MOST_KEYS = 9  # short cuts made from a number


def install(window: MainWindow) -> None:
    """Give ``window`` all its commands, except those that change while it is open."""
    window.commands.replace("file", _file(window))
    window.commands.replace("samples", _samples(window))
    window.commands.replace("view", _view(window))
    window.commands.replace("tasks", _tasks(window))
    window.commands.replace("labels", _labels(window))
    window.commands.replace("tools", _tools(window))
    window.commands.replace("help", _help(window))


def install_recent(window: MainWindow, recent: Sequence[str]) -> None:
    """File ▸ Open Recent, newest first."""
    entries = [
        Command(
            "File/Open Recent", file_name(source), f"Open {source}", partial(window.open_volume, source),
            f"Alt+{n}" if n <= _MOST_KEYS else "", group=1,
        )
        for n, source in enumerate(recent, 1)
    ]  # fmt: skip
    window.commands.replace("recent", entries)


def _file(window: MainWindow) -> list[Command]:
    def command(title: str, tip: str, run: object, keys: str, group: int) -> Command:
        return Command("File", title, tip, run, keys, group)  # type: ignore[arg-type]

    return [
        command("Open File…", _OPEN_FILE, partial(open_file, window), "Ctrl+O", 0),
        command("Open Folder…", _OPEN_FOLDER, partial(open_folder, window), "Ctrl+Shift+O", 0),
        command("Open URL…", "Open a volume on the web", partial(open_url, window), "Ctrl+U", 0),
        command("Save Screenshot…", "Save what the viewer shows as an image", partial(save_screenshot, window),
                "Ctrl+Shift+S", 2),
        command("Close Volumes", "Remove all layers and tables from the window; files stay", window.close_volumes,
                "Ctrl+Shift+W", 2),
        command("Close", "Close the window; running jobs go on", window.close, "Ctrl+W", 3),
    ]  # fmt: skip


def _samples(window: MainWindow) -> list[Command]:
    return [
        Command(
            "File/Open Sample", title, f"Open the bundled sample {source}",
            partial(window.open_volume, source), f"Ctrl+Alt+{n}" if n <= _MOST_KEYS else "", group=1,
        )
        for n, (source, title) in enumerate(bundled_samples(), 1)
    ]  # fmt: skip


def _view(window: MainWindow) -> list[Command]:
    viewer = window.viewer  # linked panes follow

    def command(title: str, tip: str, run: object, keys: str, group: int, checked: object = None) -> Command:
        return Command("View", title, tip, run, keys, group, checked)  # type: ignore[arg-type]

    def toggle_3d() -> None:
        viewer.dims.ndisplay = 5 - viewer.dims.ndisplay

    def scale_bar() -> bool:
        return bool(viewer.canvas.overlays.scale_bar.visible)

    def toggle_scale_bar() -> None:
        visible = not scale_bar()
        for model in window.panes.models:
            model.canvas.overlays.scale_bar.visible = visible

    def toggle_full_screen() -> None:
        window.showNormal() if window.isFullScreen() else window.showFullScreen()

    looks = [
        command(
            title, tip, partial(window.set_theme, kind), keys, 1, lambda k=kind: window.settings.theme == k
        )
        for title, tip, kind, keys in (
            ("Dark", "Dark colours", "dark", "Ctrl+Shift+D"),
            ("Light", "Light colours", "light", "Ctrl+Shift+L"),
            ("As the System", "Dark or light, as the system is set", "system", "Ctrl+Shift+Y"),
        )
    ]
    docks = [
        command(
            f"{name} Panel", f"Go to the panel {name}, or hide it", partial(toggle_dock, window, name), f"Ctrl+{n}", 3,
            lambda d=dock: not d.isHidden(),
        )
        for n, (name, dock) in enumerate(window.docks.items(), 1)
    ]  # fmt: skip
    return [
        command("Command Palette…", "Find any command by a few letters", partial(open_palette, window),
                "Ctrl+Shift+P", 0),
        *looks,
        command("3D", "Show the volume in two or three dimensions", toggle_3d, "Ctrl+Y", 2,
                lambda: viewer.dims.ndisplay == 3),
        command("Reset View", "Fit everything into the viewer", viewer.reset_view, "Ctrl+R", 2),
        command("Scale Bar", "Show a scale bar", toggle_scale_bar, "Ctrl+B", 2, scale_bar),
        command("Swipe", "X-ray left of a line, EM right of it; drag the line", window.comparison.toggle_swipe,
                "Ctrl+T", 2, lambda: window.panes.swipes),
        *docks,
        command("Default Layout", "Put all panels back in their places", window.reset_layout, "Ctrl+0", 4),
        command("Full Screen", "Fill the screen", toggle_full_screen, "F11", 4, window.isFullScreen),
    ]  # fmt: skip


def _tasks(window: MainWindow) -> list[Command]:
    entries = [(task, entry) for task in map(load_task, task_names()) for entry in task.menu]
    return [
        Command(
            entry.menu, entry.title, f"{entry.title}: {task.summary}", partial(show_task, window, task, entry),
            f"Alt+Shift+{n}" if n <= _MOST_KEYS else f"Ctrl+K, {chr(ord('A') + n - _MOST_KEYS - 1)}",
        )
        for n, (task, entry) in enumerate(entries, 1)
    ]  # fmt: skip


def _labels(window: MainWindow) -> list[Command]:
    panel = window.labels
    return [
        Command("Adapt", title, tip, run, keys, group)
        for title, tip, run, keys, group in (
            ("Label Patches…", "Correct the model's labels of the patches", partial(label_patches, window),
             "Ctrl+L", 1),
            ("Next Patch", "Fly to the next patch", partial(panel.step, 1), "Alt+Right", 2),
            ("Previous Patch", "Fly to the patch before", partial(panel.step, -1), "Alt+Left", 2),
            ("Patch Done", "This patch is labelled; go to the next that is not", panel.finish, "Alt+Return", 2),
        )
    ]  # fmt: skip


def _tools(window: MainWindow) -> list[Command]:
    task, jobs = window.task_panel, window.jobs
    return [
        Command("Tools", title, tip, run, keys, group)
        for title, tip, run, keys, group in (
            ("Run Task", "Run the task in the form", task.run, "Ctrl+Return", 8),
            ("Preview", "Run the model on what is visible", task.run_preview, "Ctrl+Shift+Return", 8),
            ("Copy as Command", "Copy the form as a command for a terminal", task.copy_command, "Ctrl+Shift+C", 8),
            ("Cancel Job", "Stop the chosen job; what is finished is kept", jobs.cancel, "Ctrl+.", 9),
            ("Resume Job", "Continue the chosen job", jobs.resume, "Ctrl+Shift+R", 9),
            ("Show Result", "Put the chosen job's layers into the viewer", jobs.show_results, "Ctrl+Shift+V", 9),
            ("Open Job Folder", "Show the chosen job's result in the file browser", jobs.open_folder,
             "Ctrl+Shift+J", 9),
        )
    ]  # fmt: skip


def _help(window: MainWindow) -> list[Command]:
    def copy() -> None:
        QGuiApplication.clipboard().setText("\n".join(f"{a}: {b}" for a, b in diagnostics.facts()))
        window.tell("Diagnostics copied")

    def guide() -> None:
        GuideDialog(window.commands, window).show()

    def about() -> None:
        AboutDialog(diagnostics.facts(), window.windowIcon(), window).open()

    return [
        Command("Help", "Guide", "First steps and all short cuts", guide, "F1"),
        Command(
            "Help", "Copy Diagnostics", "Versions and device, for a bug report", copy, "Ctrl+Shift+F1", 1
        ),
        Command(
            "Help", "About Connectoscope", "Versions and the device that was found", about, "Shift+F1", 1
        ),
    ]


def open_file(window: MainWindow) -> None:
    path, _ = QFileDialog.getOpenFileName(window, "Open a volume", window.settings.last_folder, _FILTER)
    _open_chosen(window, path)


def open_folder(window: MainWindow) -> None:
    _open_chosen(
        window,
        QFileDialog.getExistingDirectory(window, "Open a volume folder", window.settings.last_folder),
    )


def _open_chosen(window: MainWindow, path: str) -> None:
    if path:
        window.settings.last_folder = str(Path(path).parent)
        window.open_volume(path)


def open_url(window: MainWindow) -> None:
    UrlDialog(window.open_volume, window).open()


def open_palette(window: MainWindow) -> CommandPalette:
    palette = CommandPalette(window.commands, window)
    palette.chosen.connect(window.commands.trigger)
    palette.open_over(window)
    return palette


def save_screenshot(window: MainWindow) -> None:
    proposed = str(Path(window.settings.last_folder or Path.home()) / "connectoscope.png")
    path, _ = QFileDialog.getSaveFileName(window, "Save screenshot", proposed, "Images (*.png)")
    if not path:
        return
    path = path if path.lower().endswith(".png") else f"{path}.png"
    if window.panes.active.canvas.screenshot().save(path):
        window.tell(f"Saved {path}")
    else:
        window.show_error(f"cannot write {path}: choose another folder")


def label_patches(window: MainWindow) -> None:
    """The patches at hand, else ask for a file of them."""
    window.raise_dock("Patches")
    if window.labels.labelling is None:
        window.labels.ask()


def show_training(window: MainWindow, values: dict[str, Any]) -> None:
    """The form of the training on patches, filled in."""
    task = load_task("adapt train")
    show_task(window, task, MenuEntry(task.menu[0].menu, task.menu[0].title, values))


def toggle_dock(window: MainWindow, name: str) -> None:
    """Hide a panel that is in sight; else bring it to the front, with the keyboard in it."""
    dock = window.docks[name]
    if not dock.isHidden() and not dock.visibleRegion().isEmpty():
        dock.hide()
        return
    dock.show()
    dock.raise_()
    dock.widget().setFocus()


def show_task(window: MainWindow, task: Task, entry: MenuEntry) -> None:
    """Bring up the form of a menu entry."""
    window.task_panel.show_task(task, entry, window.viewer)
    window.raise_dock("Task")
