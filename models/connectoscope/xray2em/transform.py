"""The affine transform between an X-ray volume and an EM volume of the same tissue, as a user has it in a JSON file."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from connectoscope.errors import UserError
from connectoscope.volumes.geometry import NANOMETRES, canonical_unit

STRETCH = 2.0  # most that tissue is longer or shorter in one of the two; beyond it the numbers are no lengths


def load_transform(path: Path) -> NDArray[np.float64]:
    """``(4, 4)`` from X-ray world to EM world, both z, y, x in nm, of ``{"unit": "nm", "matrix": [[...], ...]}``.

    A transform that mirrors is taken: a stack may be counted from its other end.

    Raises:
        UserError: the file is missing or no JSON, unit or matrix is missing or of another form, a number is not finite,
            or the matrix is not invertible or stretches more than :data:`STRETCH` times.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"transform {path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"transform {path} is not JSON: {error}") from None
    if not isinstance(values, dict) or not {"matrix", "unit"} <= values.keys():
        raise UserError(f'transform {path} must be {{"unit": "nm", "matrix": [[…], […], […]]}}')
    unit = canonical_unit(str(values["unit"]))
    if unit is None:
        raise UserError(
            f"transform {path}: unit '{values['unit']}' is not a unit of length; known are nm, um, mm, …"
        )
    try:
        given = np.array(values["matrix"], dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        given = np.empty(0)
    if given.shape not in ((3, 4), (4, 4)):
        raise UserError(f"transform {path}: the matrix must have 3 or 4 rows of 4 numbers")
    if not np.isfinite(given).all():
        raise UserError(f"transform {path}: the matrix holds numbers that are not finite")
    if given.shape == (4, 4) and not np.allclose(given[3], (0, 0, 0, 1)):
        raise UserError(f"transform {path}: the last row of an affine matrix is 0 0 0 1")
    stretches = np.linalg.svd(given[:3, :3], compute_uv=False)
    if stretches[-1] <= 1e-9 * stretches[0]:
        raise UserError(f"transform {path} is not invertible: it maps space to a plane, a line or a point")
    if stretches[0] > STRETCH or stretches[-1] < 1 / STRETCH:
        raise UserError(
            f"transform {path} makes lengths {stretches[-1]:.3g} to {stretches[0]:.3g} times what they are, tissue is "
            f"stretched by {1 / STRETCH:g} to {STRETCH:g}: it must map lengths (z, y, x) to lengths, not voxels to voxels"
        )
    matrix = np.eye(4)
    matrix[:3] = given[:3]
    matrix[:3, 3] *= NANOMETRES[unit]
    return matrix
