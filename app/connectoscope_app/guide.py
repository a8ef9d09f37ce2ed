"""The short guide of the Help menu; its list of keys is made from the commands."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

from qtpy.QtCore import Qt
from qtpy.QtGui import QKeySequence
from qtpy.QtWidgets import QDialog, QTextBrowser, QVBoxLayout, QWidget

from connectoscope_app.actions import Command

_STEPS = """
<h2>First steps</h2>
<ol>
<li><b>Open a volume</b>: drop a file or folder on the window, use <i>File</i>, or click a sample at the left.
    Check the voxel size that is shown; enter it where the file has none.</li>
<li><b>Choose a task</b>, for example <i>Segment ▸ Synapses</i>. Its form appears at the right;
    hold the mouse over a field to read what it means.</li>
<li><b>Preview</b> runs the model on what is visible. Move the threshold until the objects look right.</li>
<li><b>Run</b> works through the whole volume in a process of its own. Finished blocks appear at once; the window
    may be closed meanwhile, and the job is there again when it is opened.</li>
<li><b>Look at the objects</b> in the table below; a click flies there. Results are OME-Zarr and CSV on your disk.</li>
</ol>
<p><i>Copy as command</i> gives the same run for a terminal.
Cancel keeps what is finished; Resume goes on from there.</p>
<h2>Keys</h2>
"""


class GuideDialog(QDialog):
    def __init__(self, commands: Iterable[Command], parent: QWidget) -> None:
        super().__init__(parent)
        self.setWindowTitle("Guide")
        self.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        self.resize(640, 620)
        rows = "".join(
            f"<tr><td>{escape(QKeySequence(c.shortcut).toString(QKeySequence.SequenceFormat.NativeText))}</td>"
            f"<td style='padding-left:18px'>{escape(c.palette_text)}</td></tr>"
            for c in commands
            if c.shortcut
        )
        text = QTextBrowser()
        text.setHtml(f"{_STEPS}<table>{rows}</table>")
        text.setTextInteractionFlags(Qt.TextInteractionFlag.TextBrowserInteraction)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(12, 12, 12, 12)
        layout.addWidget(text)
