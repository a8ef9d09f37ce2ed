"""Durations and sizes as people read them."""

import pytest

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
