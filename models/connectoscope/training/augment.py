"""Random changes of a patch that the labels survive: geometry for both, intensity for the image only.

All randomness comes from one generator a patch, so that step *n* of a training draws the same patch whether the
training was interrupted or not. Arrays are ``(Z, Y, X)``, image intensities normalised (about -0.5 to 0.5).
"""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

MARGIN = 1.35  # a patch is cut this much larger in y and x, so that rotations find tissue in its corners


def uniform(generator: Generator, low: float, high: float) -> float:
    return low + (high - low) * float(torch.rand((), generator=generator))


def warp(image: Tensor, labels: Tensor, size: tuple[int, int], generator: Generator) -> tuple[Tensor, Tensor]:
    """Flip, rotate, scale, bend and shift sections; then cut the middle.

    Args:
        image: ``(Z, Y, X)`` float32, larger than ``size`` in y and x.
        labels: ``(C, Z, Y, X)`` float32, 0 or 1.
        size: Rows and columns of the result.

    Returns:
        image ``(Z, *size)`` and labels ``(C, Z, *size)`` of 0 and 1.
    """
    if torch.rand((), generator=generator) < 0.5:
        image, labels = image.flip(0), labels.flip(1)
    depth, height, width = image.shape
    rows, columns = size
    angle = uniform(generator, 0, 2 * math.pi)
    scale = math.exp(uniform(generator, -0.15, 0.15))
    mirror = 1.0 if torch.rand((), generator=generator) < 0.5 else -1.0
    y, x = torch.meshgrid(
        torch.arange(rows) - (rows - 1) / 2, torch.arange(columns) - (columns - 1) / 2, indexing="ij"
    )
    # Elastic: a coarse random field, smoothly enlarged; the same for all sections.
    field = torch.randn((1, 2, 6, 6), generator=generator) * uniform(generator, 0, 6.0)
    field = F.interpolate(field, size=size, mode="bicubic", align_corners=True)[0]
    y, x = y + field[0], x + field[1]
    source_y = scale * (math.cos(angle) * y - math.sin(angle) * x * mirror)
    source_x = scale * (math.sin(angle) * y + math.cos(angle) * x * mirror)
    shift = torch.randn((depth, 2, 1, 1), generator=generator) * uniform(generator, 0, 1.5)
    if torch.rand((), generator=generator) < 0.15:  # a misaligned section: a jump from here on
        jump = int(torch.randint(1, max(depth, 2), (), generator=generator))
        shift[jump:] += torch.randn((1, 2, 1, 1), generator=generator) * 6
    grid = torch.stack(
        (
            (source_x + shift[:, 1]) / ((width - 1) / 2),
            (source_y + shift[:, 0]) / ((height - 1) / 2),
        ),
        dim=-1,
    )  # (Z, rows, columns, 2), x before y, -1..1
    warped = F.grid_sample(image[:, None], grid, "bilinear", "reflection", align_corners=True)[:, 0]
    moved = F.grid_sample(labels.transpose(0, 1), grid, "bilinear", "reflection", align_corners=True)
    return warped, (moved.transpose(0, 1) >= 0.5).float()


def turn(image: Tensor, labels: Tensor, size: tuple[int, int], generator: Generator) -> tuple[Tensor, Tensor]:
    """Cut the middle, flip, and turn by quarter turns: no voxel is interpolated. As :func:`warp`; ``size`` is square."""
    y, x = ((n - s) // 2 for n, s in zip(image.shape[1:], size, strict=True))
    both = torch.cat((image[None], labels))[..., y : y + size[0], x : x + size[1]]  # (1 + C, Z, *size)
    flips = [axis for axis in (1, 2) if torch.rand((), generator=generator) < 0.5]
    both = torch.rot90(both.flip(flips), int(torch.randint(4, (), generator=generator)), (2, 3))
    return both[0], both[1:]


def orient(
    image: Tensor, labels: Tensor, generator: Generator, isotropic: bool = True
) -> tuple[Tensor, Tensor]:
    """One of the 48 orientations of a cube, or of the 16 that leave z in place where z is of another length.

    Args:
        image, labels: ``(Z, Y, X)``, Y and X equal.
        isotropic: Voxels are as long along z as along y and x.
    """
    cube = isotropic and image.shape[0] == image.shape[1]
    order = torch.randperm(3 if cube else 2, generator=generator) + (0 if cube else 1)
    axes = ([] if cube else [0]) + order.tolist()
    flips = [axis for axis in range(3) if torch.rand((), generator=generator) < 0.5]
    return image.permute(axes).flip(flips), labels.permute(axes).flip(flips)


def intensity(image: Tensor, generator: Generator) -> Tensor:
    """Contrast, brightness, gamma, blur, noise, and a missing section, each at random. ``(Z, Y, X)`` float32."""
    depth = image.shape[0]
    gain = torch.exp(torch.randn((depth, 1, 1), generator=generator) * 0.06) * math.exp(
        uniform(generator, -0.25, 0.25)
    )
    offset = torch.randn((depth, 1, 1), generator=generator) * 0.03 + uniform(generator, -0.15, 0.15)
    image = image * gain + offset
    if torch.rand((), generator=generator) < 0.5:
        gamma = math.exp(uniform(generator, -0.3, 0.3))
        image = (image + 0.5).clamp(0, 1.5) ** gamma - 0.5
    if torch.rand((), generator=generator) < 0.25:
        image = blur(image, uniform(generator, 0.5, 1.5))
    if torch.rand((), generator=generator) < 0.5:
        image = image + torch.randn(image.shape, generator=generator) * uniform(generator, 0, 0.1)
    if depth > 2 and torch.rand((), generator=generator) < 0.08:
        image = image.clone()
        image[int(torch.randint(depth, (), generator=generator))] = uniform(generator, -0.5, 0.5)
    return image.clamp(-1, 1)


def blur(image: Tensor, sigma: float) -> Tensor:
    """Gaussian blur of each section; ``sigma`` in pixels."""
    radius = math.ceil(2.5 * sigma)
    taps = torch.exp(-0.5 * (torch.arange(-radius, radius + 1) / sigma) ** 2)
    taps = taps / taps.sum()
    x = F.pad(image[:, None], (radius,) * 4, mode="reflect")
    return F.conv2d(F.conv2d(x, taps.view(1, 1, -1, 1)), taps.view(1, 1, 1, -1))[:, 0]
