"""A whole run against an S3 server that fails 5 % of the requests ends as one against a good server does."""

from collections import Counter

import pytest

from pipelines import results
from tests.chaos import FAULTS, files_in, make_alone, start_driver, videos_and_sheets, write_manifest
from tests.faults import Faults


@pytest.mark.slow
def test_a_flaky_store_changes_nothing(ray_alone: None, bucket: str, faults: Faults) -> None:
    faults.share = 0.0
    manifest, output = write_manifest(f"{bucket}/in", 6, FAULTS[:2]), f"{bucket}/flaky"
    expected = make_alone(manifest, f"{bucket}/good")
    before = len(faults.requests)
    faults.share = 0.05
    assert start_driver(manifest, output, None).wait() == 2
    faults.share = 0.0
    print(f"\n{len(faults.requests) - before} requests, of which failed {Counter(faults.failed)}")
    assert len(faults.failed) > 3
    found = files_in(output)
    assert videos_and_sheets(found) == expected and len(expected) == 8
    assert set(found) - set(expected) == {"results.parquet", "run.json"}
    table = results.read_results(output).to_pylist()
    assert Counter((row["status"], row["error_kind"]) for row in table) == {("ok", ""): 4, ("failed", "bad_input"): 2}
