"""The ledger where the disk was full for a moment, or a line was damaged."""

import errno
import os
from pathlib import Path

import pytest

from connectoscope.blockwise.ledger import Ledger


def test_a_line_that_was_not_taken_whole_leaves_nothing_and_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    with Ledger(path) as ledger:
        ledger.append("p/a", 1)
        whole, file = path.read_bytes(), ledger._file
        with pytest.MonkeyPatch.context() as patch:

            class Full:
                write = staticmethod(lambda line: file.write(line[:7]))
                fileno, truncate = file.fileno, file.truncate

            patch.setattr(ledger, "_file", Full)
            with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
                ledger.append("p/b", 2)
        assert "p/b" not in ledger
        assert path.read_bytes() == whole
        ledger.append("p/c", 3)  # there is room again
    with Ledger(path) as ledger:
        assert [entry["id"] for entry in ledger.entries("")] == ["p/a", "p/c"]


def test_a_damaged_line_costs_no_other_one(tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    with Ledger(path) as ledger:
        for id in "abc":
            ledger.append(id, 1)
    first, second, third = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(first + second[:9] + b"\n" + third + b'{"id":')
    with Ledger(path) as ledger:
        assert [entry["id"] for entry in ledger.entries("")] == ["a", "c"]
        ledger.append("b", 2)
    with Ledger(path) as ledger:
        assert "b" in ledger
