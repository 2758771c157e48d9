import numpy as np
import pytest
from av import VideoFrame

from pipelines import measure, storage
from pipelines.measure import write_sheet
from stableavatar.video.sheet import ContactSheet
from tests.faults import Faults


def test_a_store_that_fails_is_asked_for_a_picture_for_a_while_and_no_longer(
    bucket: str, faults: Faults, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    sheet, row = ContactSheet(1), {"id": "anna", "sheet": f"{bucket}/anna.jpg"}
    sheet.see(VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8)))
    write_sheet(sheet, row)
    assert storage.read(row["sheet"]).startswith(b"\xff\xd8")
    faults.share = 1.0
    monkeypatch.setattr(measure, "SHEET_PATIENCE_S", 0.0)
    write_sheet(sheet, row)
    (said,) = (record.message for record in caplog.records if record.name == measure.__name__)
    assert said.startswith("anna: no contact sheet:")
    write_sheet(ContactSheet(1), row)
    assert "a contact sheet of no frames" in caplog.text
