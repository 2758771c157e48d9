import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from stableavatar.drawn.clips import write_data_set
from stableavatar.drawn.visemes import SHAPES
from stableavatar.errors import BadInput
from stableavatar.model.conditions import audio_network
from stableavatar.presets import saved
from stableavatar.training.audio_objective import Utterances
from stableavatar.training.clips import Clip, find_clips
from stableavatar.training.config import AudioOptions, Optimiser
from stableavatar.training.encode import collate
from stableavatar.training.inspection import inspect_clip
from stableavatar.training.order import Draw
from stableavatar.training.trainer import Trainer
from tests.training import PRESET, small_config


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[Clip]:
    root = str(tmp_path_factory.mktemp("drawn"))
    write_data_set(root, 2, first_seed=3, size=(32, 32), num_frames=97)
    return [inspect_clip(folder, 81) for folder in find_clips([root])]


@pytest.mark.parametrize("speed", [0.0, 0.15])
def test_classes_belong_to_the_sound_at_any_speed(clips: list[Clip], speed: float) -> None:
    source = Utterances(clips, AudioOptions(noise=0.0, speed=speed))
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
    source, draw = Utterances([clip], AudioOptions()), Draw(position=0, index=0, seed=0)
    for content, message in (("{}", "does not tell the phonemes"), ("{", "is no JSON"), (None, "is missing")):
        truth = tmp_path / "one/truth.json"
        truth.write_text(content) if content else truth.unlink()
        with pytest.raises(BadInput, match=rf"truth\.json {message}.*draw-data"):
            source.read(draw)
    (tmp_path / "one/audio.wav").unlink()
    with pytest.raises(BadInput, match="has gone since"):
        source.read(draw)


def test_a_draw_says_what_is_read(clips: list[Clip]) -> None:
    source = Utterances(clips, AudioOptions())
    one, same, other = (source.read(Draw(position=0, index=0, seed=seed)) for seed in (1, 1, 2))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["speech"], other["speech"])


def test_visemes_are_learned_and_the_encoder_is_left_for_others(clips: list[Clip], tmp_path: Path) -> None:
    optimiser = Optimiser(lr=3e-3, warmup_steps=1, max_norm=1.0, start_ratio=1.0, eps=1e-8)
    options = AudioOptions(num_frames=25, noise=0.0)
    trainer = Trainer(small_config(task="audio", batch_size=2, optimiser=optimiser, audio=options))
    source = Utterances(clips, options)
    batch = collate(source.read(Draw(position=n, index=n, seed=n)) for n in range(2))
    losses = [trainer.train_step([batch])["loss"] for _ in range(8)]
    assert all(np.isfinite(losses)) and np.mean(losses[-3:]) < 0.9 * losses[0]

    trainer.export(tmp_path, source)
    mine, trained = audio_network(saved(tmp_path)).state_dict(), trainer.objective.network.state_dict()
    assert mine.keys() == trained.keys() and all(torch.equal(mine[name], trained[name]) for name in mine)
    new = audio_network(PRESET).state_dict()
    assert not torch.equal(mine["feature_projection.projection.weight"], new["feature_projection.projection.weight"])
