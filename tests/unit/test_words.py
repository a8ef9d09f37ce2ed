"""Durations and sizes as people read them."""

import pytest

from connectoscope.volumes.geometry import length_text, number_text
from connectoscope.words import data_size, duration


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.00001, "0 s"),
        (0.0832, "0.083 s"),
        (3.4, "3.4 s"),
        (7, "7 s"),
        (9.7, "10 s"),
        (59.6, "1 min 0 s"),
        (95, "1 min 35 s"),
        (750, "12 min"),
        (3599, "1 h 0 min"),
        (7300, "2 h 2 min"),
    ],
)
def test_durations(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("nbytes", "text"),
    [(12, "12 bytes"), (34_500_000, "34.5 MB"), (999_700_000, "1 GB"), (2e12, "2 TB"), (1.4e15, "1.4 PB")],
)
def test_sizes(nbytes, text):
    assert data_size(nbytes) == text


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (1234.5678, "nanometer", "1234.5678"),
        (0.1 + 0.2, "micrometer", "0.3"),
        (1.2345e-3, "millimeter", "0.0012345"),
        (1.2345e-3, "meter", "0.0012345"),
        (4.25e-8, "meter", "0.0000000425"),
        (-1e-12, "meter", "0"),
        (2.00004, "", "2"),
    ],
)
def test_lengths_in_tables_are_far_finer_than_a_voxel_in_every_unit(value, unit, text):
    assert length_text(value, unit, 4) == text
    assert number_text(float("nan")) == "0"
