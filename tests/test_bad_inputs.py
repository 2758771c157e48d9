import os
from pathlib import Path

import pytest

from tests.bad_inputs import CASES, Case, run


@pytest.mark.timeout(60)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_what_is_hostile_or_wrong_fails_its_row_with_file_and_remedy(case: Case, tmp_path: Path) -> None:
    row = run(case, tmp_path)
    assert (row["status"], row["error_kind"]) == ("failed", "bad_input"), row["error"]
    assert row["error"].startswith(f"row 1 of {tmp_path}/night.jsonl"), row["error"]
    assert case.message in row["error"]
    assert row["error"].isprintable() and len(row["error"]) < 1000 + len(os.fspath(tmp_path))
