from pathlib import Path

import pytest

from pipelines import retries, storage, traffic
from pipelines.traffic import Traffic


def test_files_are_counted_in_both_directions(base: str, tmp_path: Path) -> None:
    Path(tmp_path, "local").write_bytes(b"12345")
    before = traffic.so_far()
    storage.write(b"123", f"{base}/a")
    storage.publish(f"{tmp_path}/local", f"{base}/b")
    assert traffic.so_far() - before == Traffic(bytes_written=8)
    before = traffic.so_far()
    storage.read(f"{base}/a")
    storage.fetch(f"{base}/b", f"{tmp_path}/copy")
    assert traffic.so_far() - before == Traffic(bytes_read=8)


def test_repeated_requests_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries, "FIRST_WAIT_S", 0.0)
    answers = iter([TimeoutError(), TimeoutError(), None])

    def ask() -> None:
        if answer := next(answers):
            raise answer

    before = traffic.so_far()
    retries.steadily("s3://bucket/night", ask)
    assert traffic.so_far() - before == Traffic(num_retries=2)
