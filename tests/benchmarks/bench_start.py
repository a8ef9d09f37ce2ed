"""How soon the command line answers and the window stands."""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
from pathlib import Path

from section import Section, in_turn, spread

# Both show a window and leave when its canvas has been drawn while the window is on the screen.
LEAVE = """
import os
def leave_when_drawn(window, canvas):
    def drawn(event):
        if window.windowHandle() is not None and window.windowHandle().isExposed():
            os._exit(0)
    canvas._scene_canvas.events.draw.connect(drawn, position="last")
"""
BARE = """
import tempfile
os.environ["NAPARI_CONFIG"] = os.path.join(tempfile.mkdtemp(), "settings.yaml")
os.environ["NAPARI_ASYNC"] = "1"
from qtpy.QtWidgets import QApplication
app = QApplication([])
from napari.components import ViewerModel
from napari.qt import QtViewer
viewer = QtViewer(ViewerModel())
leave_when_drawn(viewer, viewer.canvas)
viewer.show()
app.exec()
"""
OURS = """
from connectoscope_app.start import make_application, make_window
app = make_application()
window = make_window(app)
leave_when_drawn(window, window.panes.active.canvas)
app.exec()
"""


def measure() -> Section:
    """Whole processes, from their start to the first drawing of the canvas on the screen."""
    help_taken = in_turn({"help": [sys.executable, "-m", "connectoscope", "--help"]}, 9)["help"]
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "settings.json"
        environment = {
            **os.environ,
            "CONNECTOSCOPE_CONFIG": str(config),
            "NAPARI_CONFIG": str(config.with_name("napari.yaml")),
        }
        commands = {
            "bare": [sys.executable, "-c", LEAVE + BARE],
            "ours": [sys.executable, "-c", LEAVE + OURS],
        }
        taken = in_turn(commands, 7, env=environment)
    later = statistics.median(b - a for a, b in zip(taken["bare"], taken["ours"], strict=True))
    return Section(
        "Start",
        "Whole processes, Xvfb with software GL, medians (least–most) of 9 and 7 runs in turn. "
        "The window has to stand at most 1.5 s later than a bare napari QtViewer; help takes less than 0.5 s.",
        [
            ["what", "seconds"],
            ["`connectoscope --help`", spread(help_taken)],
            ["bare QtViewer, on the screen and drawn", spread(taken["bare"])],
            ["the window, on the screen and drawn", spread(taken["ours"])],
            ["window later than the bare viewer (median of pairs)", f"{later:.2f}"],
        ],
    )
