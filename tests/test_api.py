from pathlib import Path
from typing import Any

import pytest

import stableavatar
from stableavatar.api import StableAvatar
from stableavatar.errors import BadInput, WeightsError
from stableavatar.video.quality import check_contract, measure_video
from tests.conftest import EXAMPLES
from tests.media import write_tone

FACE = str(EXAMPLES / "portrait_nasa.jpg")


@pytest.fixture(scope="module")
def model() -> StableAvatar:
    return stableavatar.load("tiny", device="cpu")


def test_one_video_by_one_call(model: StableAvatar, tmp_path: Path) -> None:
    speech, output = tmp_path / "speech.wav", tmp_path / "out.mp4"
    write_tone(speech, duration_s=0.5)
    short = {"window_latents": 4, "overlap": 1, "num_steps": 1}
    report = model.generate(FACE, str(speech), str(output), prompt="A woman talks.", width=96, height=160, **short)
    check_contract(measure_video(str(output)), num_frames=12, width=96, height=160)
    assert report.num_windows == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.mp4", "speech.wav"]
    first = output.read_bytes()
    spoken: dict[str, Any] = {
        "start_s": 0.1,
        "end_s": 0.4,
        "pad_before_s": 0.1,
        "pad_after_s": 0.1,
        "audio_stream": 0,
        "loudness": -20,
    }
    model.generate(FACE, str(speech), str(output), width=96, height=160, **spoken, **short)
    check_contract(measure_video(str(output)), num_frames=12, width=96, height=160)
    assert output.read_bytes() != first
    model.generate(FACE, str(speech), str(output), prompt="A woman talks.", width=96, height=160, **short)
    assert output.read_bytes() == first


def test_what_cannot_be_used_is_said_before_any_work(model: StableAvatar, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="no num_step;"):
        model.generate(FACE, "speech.wav", "out.mp4", num_step=3)
    with pytest.raises(BadInput, match="Use one of 128x128"):
        model.generate(FACE, "speech.wav", "out.mp4", width=99, height=99)
    with pytest.raises(BadInput, match="there is no scheduler 'x'"):
        model.generate(FACE, "speech.wav", "out.mp4", scheduler="x")
    with pytest.raises(BadInput, match="loudness is 3"):
        model.generate(FACE, "speech.wav", "out.mp4", loudness=3)
    with pytest.raises(BadInput, match="pad_after_s is -1"):
        model.generate(FACE, "speech.wav", "out.mp4", pad_after_s=-1)
    with pytest.raises(BadInput, match="no such file"):
        model.generate(FACE, str(tmp_path / "missing.wav"), "out.mp4")


def test_a_model_that_is_not_there() -> None:
    with pytest.raises(WeightsError, match="neither a preset"):
        stableavatar.load("huge")
