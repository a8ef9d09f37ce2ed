"""Does the EM lie where the transform says? Looked at on a few boxes before anything is learned from a pair.

On the X-ray grid, in both what is finer than halos and coarser than noise; how far the EM would have to be moved is the
peak of their cross-correlation, and what that peak is by chance is seen with the EM mirrored: the same texture, other
tissue.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from connectoscope.errors import UserError
from connectoscope.volumes.geometry import Box, Index3
from connectoscope.xray2em.pairs import Real
from connectoscope.xray2em.real_pairs import RealPair

BOXES = 12  # looked at
SIDES = (48, 36, 24, 16, 8)  # X-ray voxels a side; smaller ones where there would be fewer than ENOUGH
ENOUGH = 3
BAND = (1.0, 5.0)  # X-ray voxels: standard deviations of the Gaussians between which structure is looked at
FAR = 1.0  # X-ray voxels from which on a residual blurs what is learned
ALIKE = 0.7  # of the residual that the boxes' shifts have in common, from which on one shift mends it
LOW = 0.2  # correlation from which on the X-ray shows what the EM shows
CHANCE = 1.5  # times the correlation by chance that two images of the same tissue have at least
FINE = 10  # steps per voxel of a shift


@dataclass(frozen=True)
class Registration:
    """What was found; lengths in X-ray voxels.

    Attributes:
        boxes, side: How many were looked at, and their sides.
        shift: Median place (z, y, x) at which the EM shows what the X-ray shows at 0.
        residual: Median length of the boxes' shifts.
        correlation: Median normalised cross-correlation as they lie, -1 to 1.
        moved: The same, each box moved by its shift.
        chance: As ``moved``, with the EM mirrored, without sign.
    """

    boxes: int
    side: int
    shift: tuple[float, float, float]
    residual: float
    correlation: float
    moved: float
    chance: float

    def to_json(self, pair: RealPair) -> dict[str, Any]:
        """For a card."""
        voxel_nm = pair.voxel_nm
        return {
            "boxes": self.boxes,
            "residual_voxels": round(self.residual, 2),
            "residual_nm": round(self.residual * voxel_nm, 1),
            "shift_nm": [round(s * voxel_nm, 1) for s in self.shift],
            "correlation": round(self.correlation, 3),
            "correlation_moved": round(self.moved, 3),
            "correlation_by_chance": round(self.chance, 3),
        }

    def warnings(self, pair: RealPair) -> list[str]:
        """One line where the pair does not lie as it should."""
        (xray, em, transform), voxel_nm = pair.names, pair.voxel_nm
        if self.correlation < -LOW:
            return [
                f"{em} is bright where {xray} is dark (correlation {self.correlation:.2f}): dense stain should be dark in both; "
                "invert one of them"
            ]
        if self.residual > FAR and self.moved < max(LOW, CHANCE * self.chance):
            return [
                f"THE PAIR DOES NOT FIT: {em} correlates with {xray} no better than by chance ({self.moved:.2f}, chance "
                f"{self.chance:.2f}), however it is moved by up to {self.side // 2} X-ray voxels. Is it the same tissue, and is "
                f"{transform} from X-ray to EM, z, y, x? What is learned from it is worth nothing"
            ]
        found = (
            f"a residual of {self.residual:.1f} X-ray voxels ({self.residual * voxel_nm:.0f} nm) and a correlation of "
            f"{self.correlation:.2f}"
        )
        if self.residual > FAR:
            mend = "it differs from box to box: rotation or scale is wrong"
            if np.linalg.norm(self.shift) > ALIKE * self.residual:
                z, y, x = (round(n) for n in pair.transform[:3, :3] @ self.shift * voxel_nm)
                mend = f"adding {z}, {y}, {x} nm (z, y, x) to its last column would correct most of it"
            return [f"{em} does not lie where {transform} says: {found}, which blurs what is learned; {mend}"]
        if self.correlation < LOW:
            return [f"{xray} shows little of what {em} shows: {found}"]
        return []


def check(pair: RealPair) -> Registration:
    """Look at boxes spread over all planes that are shared.

    Raises:
        UserError: there is nothing in them.
    """
    boxes: list[Box] = []
    for side in SIDES:
        tried = pair.boxes((side, side, side), None, BOXES)
        boxes = max(boxes, tried, key=len)
        if len(boxes) >= ENOUGH:
            break
    rows = []
    for box in boxes:
        xray, em = (_structure(image) for image in (pair.read_xray(box), pair.target(box, 1)))
        if xray.any() and em.any():
            shift, moved = _shift(xray, em)
            _, chance = _shift(xray, np.flip(em))
            lying = _correlation(xray, em, (0, 0, 0))
            rows.append((*shift, np.linalg.norm(shift), lying, moved, abs(chance)))
    if not rows:
        raise UserError(f"{pair.names[0]} or {pair.names[1]} is constant where they overlap")
    z, y, x, residual, correlation, moved, chance = (float(v) for v in np.median(rows, axis=0))
    return Registration(len(rows), boxes[0].shape[0], (z, y, x), residual, correlation, moved, chance)


def _structure(image: Real) -> Real:
    fine, coarse = (ndimage.gaussian_filter(image, sigma, mode="reflect") for sigma in BAND)
    band = fine - coarse
    return np.asarray(band - band.mean())


def _shift(xray: Real, em: Real) -> tuple[NDArray[np.float64], float]:
    """Where ``em`` shows (z, y, x) what ``xray`` shows at 0, and the correlation there, to whole voxels."""
    from skimage.registration import phase_cross_correlation

    window: Any = 1.0
    for n in xray.shape:
        window = np.multiply.outer(window, np.hanning(n + 2)[1:-1])
    found, _, _ = phase_cross_correlation(  # type: ignore[no-untyped-call]
        xray * window, em * window, upsample_factor=FINE, normalization=None
    )
    shift = -np.asarray(found, np.float64)
    z, y, x = (int(s) for s in np.round(shift))
    return shift, _correlation(xray, em, (z, y, x))


def _correlation(xray: Real, em: Real, shift: Index3) -> float:
    """Of ``em`` at ``shift`` with ``xray``, where both are."""
    one = tuple(slice(max(-s, 0), n - max(s, 0)) for s, n in zip(shift, xray.shape, strict=True))
    other = tuple(slice(max(s, 0), n - max(-s, 0)) for s, n in zip(shift, xray.shape, strict=True))
    if any(s.stop - s.start < 4 for s in one):
        return 0.0
    value = np.corrcoef(xray[one].ravel(), em[other].ravel())[0, 1]
    return float(np.nan_to_num(value))
