"""``make run``: open the window on a bundled sample and segment its synapses.

With a display the window stays open. Without one, or with ``CONNECTOSCOPE_HEADLESS=1``, the program starts itself
again under Xvfb, drives the journey to its end, saves ``connectoscope.png``, says what it found and exits.

``--images DIR`` makes the pictures of the guides, ``--images DIR --cascade VOLUME`` those of a cascade on a volume of cells,
``--images DIR --adapt VOLUME`` those of new tissue, ``--images DIR --reconstruct VOLUME`` those of EM from X-ray.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from pathlib import Path

from connectoscope.errors import UserError
from connectoscope_app.journey import Journey

_UNDER_XVFB = "CONNECTOSCOPE_UNDER_XVFB"
_SCREEN = (1600, 1000)


def is_headless() -> bool:
    """Asked for, or nothing to draw on."""
    if os.environ.get("CONNECTOSCOPE_HEADLESS") == "1":
        return True
    has_display = bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
    return sys.platform.startswith("linux") and not has_display


def start_under_xvfb() -> None:
    """Replace this process by itself under a virtual screen.

    Raises:
        UserError: Xvfb is not installed.
    """
    runner = shutil.which("xvfb-run")
    if runner is None:
        raise UserError(
            "there is no display and no xvfb-run: install the package xvfb, or start this on a desktop"
        )
    os.environ[_UNDER_XVFB] = "1"
    screen = f"-screen 0 {_SCREEN[0]}x{_SCREEN[1]}x24"
    command = [runner, "-a", "-s", screen, sys.executable, "-m", "connectoscope_app.demo", *sys.argv[1:]]
    os.execv(runner, command)


def run_headless(images: Path | None, cells: str | None, tissue: str | None, xray: str | None) -> int:
    """The whole journey on the present display, with a configuration and a result that leave no trace.

    Args:
        images: Folder for pictures; None: none are taken.
        cells: Volume for the journey of a cascade.
        tissue: Volume for the journey to new tissue.
        xray: Volume for the journey from X-ray to EM. Without any of them: that of the sample.
    """
    with tempfile.TemporaryDirectory(prefix="connectoscope-demo-", ignore_cleanup_errors=True) as folder:
        os.environ.setdefault("CONNECTOSCOPE_CONFIG", str(Path(folder) / "config"))
        from connectoscope_app.start import make_application, make_window

        application = make_application()
        window = make_window(application)
        window.resize(*_SCREEN)
        window.move(0, 0)
        if images is not None:
            images.mkdir(parents=True, exist_ok=True)
        journey = Journey(window, Path(folder) / "vnc-synapses.ome.zarr", images)
        if cells is not None:
            from connectoscope_app.demo_cascade import CascadeJourney

            journey = CascadeJourney(window, cells, Path(folder), images)
        elif tissue is not None:
            from connectoscope_app.demo_adapt import AdaptJourney

            journey = AdaptJourney(window, tissue, Path(folder), images)
        elif xray is not None:
            from connectoscope_app.demo_reconstruct import ReconstructJourney

            journey = ReconstructJourney(window, xray, Path(folder), images)
        journey.start(window.close, whole=True)
        application.exec()
    if journey.error is not None:
        sys.stderr.write(f"connectoscope: {journey.error}\n")
        return 1
    sys.stdout.write(journey.report + "\n")
    return 0


def run_in_window() -> int:
    """Open the window, start the job, and stay until it is closed."""
    from connectoscope_app.start import make_application, make_window, report_bugs

    application = make_application()
    window = make_window(application)
    report_bugs(window)
    journey = Journey(window, None, None)
    journey.start(lambda: None, whole=False)
    return int(application.exec())


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m connectoscope_app.demo", description=__doc__)
    parser.add_argument(
        "--images", type=Path, metavar="DIR", help="save pictures before, during and after there"
    )
    parser.add_argument(
        "--cascade", metavar="VOLUME", help="plan and run a cascade on this volume of cells instead"
    )
    parser.add_argument("--adapt", metavar="VOLUME", help="bring a model to this volume instead")
    parser.add_argument("--reconstruct", metavar="VOLUME", help="make EM from this X-ray volume instead")
    arguments = parser.parse_args()
    headless = is_headless() or os.environ.get(_UNDER_XVFB) == "1"
    try:
        if headless and sys.platform.startswith("linux") and os.environ.get(_UNDER_XVFB) != "1":
            start_under_xvfb()
        sys.exit(
            run_headless(arguments.images, arguments.cascade, arguments.adapt, arguments.reconstruct)
            if headless
            else run_in_window()
        )
    except UserError as error:
        sys.stderr.write(f"connectoscope: {error}\n")
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
