from pathlib import Path

import espeakng_loader
import numpy as np
import pytest

from stableavatar.drawn.scene import MAX_ROLL_DEGREES, MAX_SWAY, PEAK, VARIANTS, Clip, plan_clip
from stableavatar.drawn.sentences import HELD_OUT, SPLITS, TRAIN
from stableavatar.units import FPS, SAMPLES_PER_FRAME

NUM_FRAMES = 81


@pytest.fixture(scope="module")
def clips() -> list[Clip]:
    return [plan_clip(seed, split, NUM_FRAMES) for split in SPLITS for seed in range(20)]


def test_the_splits_share_no_voice() -> None:
    names = {split: {name for names in VARIANTS[split].values() for name in names} for split in SPLITS}
    assert not names[TRAIN] & names[HELD_OUT]
    there = {path.name for path in (Path(espeakng_loader.get_data_path()) / "voices" / "!v").iterdir()}
    assert names[TRAIN] | names[HELD_OUT] <= there


def test_the_voice_fits_the_face(clips: list[Clip]) -> None:
    for number, clip in enumerate(clips):
        split = SPLITS[number // 20]
        assert clip.speech.voice.variant in VARIANTS[split][clip.identity.kind]
    assert len({clip.speech.voice.language for clip in clips}) >= 5


def test_a_seed_gives_its_clip(clips: list[Clip]) -> None:
    again = plan_clip(3, TRAIN, NUM_FRAMES)
    np.testing.assert_array_equal(again.speech.samples, clips[3].speech.samples)
    assert again.poses == clips[3].poses
    assert again.identity == clips[3].identity != plan_clip(3, HELD_OUT, NUM_FRAMES).identity


def test_the_sound_is_as_long_as_the_frames_and_full_of_speech(clips: list[Clip]) -> None:
    for clip in clips:
        assert clip.speech.samples.shape == (NUM_FRAMES * SAMPLES_PER_FRAME,)
        assert clip.speech.samples.dtype == np.float32
        assert np.abs(clip.speech.samples).max() == pytest.approx(PEAK, rel=1e-3)
        assert len(clip.speech.phonemes) > 15
        assert clip.speech.phonemes[-1].start_s < NUM_FRAMES / FPS
    starts_s = [clip.speech.phonemes[0].start_s for clip in clips]
    assert 0.2 < np.mean([start_s == 0 for start_s in starts_s]) < 0.9
    assert max(starts_s) < 0.6  # espeak itself may begin with a short pause


def test_a_silent_pause_closes_the_mouth(clips: list[Clip]) -> None:
    for clip in clips:
        first_s = clip.speech.phonemes[0].start_s
        if first_s > 0.2:
            assert clip.mouth[0, 0] == 0
            assert np.abs(clip.speech.samples[: int((first_s - 0.01) * 16_000)]).max() < 0.01


def test_heads_sway_slowly_and_eyes_blink_shortly(clips: list[Clip]) -> None:
    for clip in clips:
        dx, dy, roll = (np.array([getattr(pose, name) for pose in clip.poses]) for name in ("dx", "dy", "roll_degrees"))
        assert max(np.abs(dx).max(), np.abs(dy).max()) <= MAX_SWAY
        assert np.abs(roll).max() <= MAX_ROLL_DEGREES
        assert np.abs(np.diff(dx)).max() < 0.1 * MAX_SWAY
    blinks = np.array([[pose.blink for pose in clip.poses] for clip in clips])
    assert blinks.min() == 0
    assert blinks.max() == 1
    assert 0.01 < (blinks > 0).mean() < 0.12


def test_the_poses_carry_the_mouth(clips: list[Clip]) -> None:
    for clip in clips:
        np.testing.assert_allclose([pose.mouth_opening for pose in clip.poses], clip.mouth[:, 0])
        assert 0 < clip.mouth[:, 0].mean() < 0.6
        assert clip.mouth[:, 0].max() > 0.6
