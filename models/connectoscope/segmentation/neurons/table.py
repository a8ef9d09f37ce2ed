"""``tables/neurons-adjacency.csv``: one line a pair of neurons that touch."""

from __future__ import annotations

from connectoscope.segmentation.neurons.contacts import Contacts
from connectoscope.volumes.geometry import Float3, number_text

HEADER = "a,b,contact_nm2,mean_boundary"


def adjacency_table(contacts: Contacts, voxel: Float3) -> str:
    """The table as text.

    Columns: ids of the two, the smaller first; area of the voxel faces that they share in nm²; mean of 1 less the
    affinity across those faces, 0 to 1.

    Args:
        contacts: Between neurons.
        voxel: Size z, y, x in nm.
    """
    z, y, x = voxel
    lines = [HEADER]
    for (a, b), faces, told in zip(
        contacts.pairs.tolist(), contacts.faces.tolist(), contacts.told.tolist(), strict=True
    ):
        if any(faces):
            area = faces[0] * y * x + faces[1] * z * x + faces[2] * z * y
            lines.append(f"{a},{b},{number_text(area)},{number_text(1 - told / sum(faces) / 255)}")
    return "\n".join(lines) + "\n"
