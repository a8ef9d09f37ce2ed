"""The command ``connectoscope``, also as ``python -m connectoscope``."""

from __future__ import annotations

import os
import signal
from types import FrameType


def main() -> None:
    """As :func:`connectoscope.cli.main`; Ctrl-C ends it in one line from the first moment on.

    While modules load, a KeyboardInterrupt would come out as a traceback, or as whatever a C extension makes of it. Where
    work is done, what does it answers the signal itself.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # not ignored, as by nohup
        signal.signal(signal.SIGINT, _leave)
    from connectoscope import cli

    cli.main()


def _leave(number: int, frame: FrameType | None) -> None:
    os.write(2, b"connectoscope: cancelled\n")
    os._exit(3)


if __name__ == "__main__":
    main()
