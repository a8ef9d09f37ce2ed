"""Opens and reads each path on stdin, in a process of its own; one line of JSON about each on stdout."""

from __future__ import annotations

import json
import sys
import warnings

warnings.simplefilter("ignore")  # what people see of a library's warnings is the command line's affair

from connectoscope.errors import UserError  # noqa: E402
from connectoscope.volumes import open_volume  # noqa: E402
from connectoscope.volumes.geometry import Box  # noqa: E402

MOST = 2**24  # voxels read of a volume whose header promises more


def tried(path: str) -> dict[str, object]:
    """What came of one file."""
    try:
        volume = open_volume(path)
        z, y, x = volume.shape
        z = max(min(z, MOST // max(y * x, 1)), 1)
        y = max(min(y, MOST // max(z * x, 1)), 1)
        box = Box((0, 0, 0), (z, y, min(x, MOST)))
        array = volume.read(box)
        volume.identity()
    except UserError as error:
        return {"error": str(error)}
    except BaseException as error:
        import traceback

        return {"bug": f"{type(error).__name__}: {error}", "trace": traceback.format_exc()[-1500:]}
    right = array.shape == box.shape and array.dtype == volume.dtype
    return {"read": right, "shape": volume.shape}


def main() -> None:
    if sys.platform == "linux":
        import resource

        limit = int(sys.argv[1])
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    for line in sys.stdin:
        path = line.rstrip("\n")
        print(json.dumps({"path": path, **tried(path)}), flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
