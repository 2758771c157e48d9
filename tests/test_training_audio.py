import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from stableavatar.drawn.clips import write_data_set
from stableavatar.drawn.visemes import SHAPES
from stableavatar.errors import BadInput
from stableavatar.training.audio_objective import Utterances
from stableavatar.training.clips import Clip, find_clips, inspect_clip
from stableavatar.training.order import Draw


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[Clip]:
    root = str(tmp_path_factory.mktemp("drawn"))
    write_data_set(root, 2, first_seed=3, size=(32, 32), num_frames=97)
    return [inspect_clip(folder, 81) for folder in find_clips([root])]


@pytest.mark.parametrize("speed", [0.0, 0.15])
def test_classes_belong_to_the_sound_at_any_speed(clips: list[Clip], speed: float) -> None:
    source = Utterances(clips, {"noise": 0.0, "speed": speed})
    loud: dict[bool, list[float]] = {True: [], False: []}
    for number in range(24):
        sample = source.read(Draw(position=number, index=number % 2, seed=number))
        assert sample["speech"].shape == (81 * 640,) and sample["visemes"].shape == (161,)
        energy = sample["speech"][: 161 * 320].view(161, 320).square().mean(dim=1)
        silent = sample["visemes"] == list(SHAPES).index("silence")
        inside = silent[:-2] & silent[1:-1] & silent[2:]  # not where a pause begins or ends
        loud[True] += energy[1:-1][inside].tolist()
        loud[False] += energy[~silent].tolist()
    assert np.mean(loud[True]) < 0.05 * np.mean(loud[False])


def test_a_clip_that_nobody_has_drawn_is_bad_input(clips: list[Clip], tmp_path: Path) -> None:
    clip = replace(clips[0], folder=str(shutil.copytree(clips[0].folder, tmp_path / "one")))
    source, draw = Utterances([clip], {}), Draw(position=0, index=0, seed=0)
    for content, message in (("{}", "does not tell the phonemes"), ("{", "is no JSON"), (None, "is missing")):
        truth = tmp_path / "one/truth.json"
        truth.write_text(content) if content else truth.unlink()
        with pytest.raises(BadInput, match=rf"truth\.json {message}.*draw-data"):
            source.read(draw)
    (tmp_path / "one/audio.wav").unlink()
    with pytest.raises(BadInput, match="has gone since"):
        source.read(draw)


def test_a_draw_says_what_is_read(clips: list[Clip]) -> None:
    source = Utterances(clips, {})
    one, same, other = (source.read(Draw(position=0, index=0, seed=seed)) for seed in (1, 1, 2))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["speech"], other["speech"])
