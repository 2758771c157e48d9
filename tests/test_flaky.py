"""A whole run against an S3 server that fails 5 % of the requests ends as one against a good server does."""

from collections import Counter

import pytest

from pipelines import results
from tests.chaos import FAULTS, files_in, start_driver, write_manifest
from tests.faults import Faults


@pytest.mark.slow
def test_a_flaky_store_changes_nothing(ray_alone: None, bucket: str, faults: Faults) -> None:
    faults.share = 0.0
    manifest = write_manifest(f"{bucket}/in", 6, FAULTS[:2])
    good, flaky = f"{bucket}/good", f"{bucket}/flaky"
    assert start_driver(manifest, good, None).wait() == 2
    before = len(faults.requests)
    faults.share = 0.05
    assert start_driver(manifest, flaky, None).wait() == 2
    faults.share = 0.0
    print(f"\n{len(faults.requests) - before} requests, of which failed {Counter(faults.failed)}")
    assert len(faults.failed) > 3
    expected, found = files_in(good), files_in(flaky)
    assert set(found) == set(expected)
    assert all(found[name] == data for name, data in expected.items() if name.startswith("videos/"))
    rows = [results.read_results(output).to_pylist() for output in (good, flaky)]
    same = ("id", "content_id", "status", "error_kind", "num_frames")
    told = [sorted(tuple(row[name] for name in same) for row in table) for table in rows]
    assert told[0] == told[1]
