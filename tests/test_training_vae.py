from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from stableavatar.drawn.clips import write_data_set
from stableavatar.model.networks import VAE
from stableavatar.model.vae import encode_video
from stableavatar.model.weights import load_network
from stableavatar.presets import saved
from stableavatar.segments import as_video
from stableavatar.training.clips import Clip, find_clips, read_frames
from stableavatar.training.config import Optimiser, TrainingConfig, VaeOptions
from stableavatar.training.encode import collate
from stableavatar.training.inspection import inspect_clip
from stableavatar.training.order import Draw
from stableavatar.training.start import starting_network
from stableavatar.training.trainer import Trainer
from stableavatar.training.vae_objective import Crops
from tests.training import PRESET, small_config

OPTIONS = VaeOptions(windows=((5, 32),), first_windows=((1, 16),), num_first=2)


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[Clip]:
    root = str(tmp_path_factory.mktemp("drawn"))
    write_data_set(root, 2, first_seed=3, size=(32, 32), num_frames=9)
    return [inspect_clip(folder, 5) for folder in find_clips([root])]


@pytest.fixture
def config() -> TrainingConfig:
    optimiser = Optimiser(lr=3e-3, warmup_steps=1, max_norm=1.0, start_ratio=1.0, eps=1e-8, ema_decay=0.99)
    return small_config(task="vae", batch_size=2, optimiser=optimiser, vae=OPTIONS)


def test_crops_are_parts_of_the_clip_and_all_of_a_batch_alike(clips: list[Clip]) -> None:
    source = Crops(clips, OPTIONS, batch_size=2)
    assert len(source) == 2 and source.num_frames == 5
    shapes = [source.read(Draw(position=n, index=n % 2, seed=n))["video"].shape for n in range(6)]
    assert [tuple(shape) for shape in shapes] == 4 * [(3, 1, 16, 16)] + 2 * [(3, 5, 32, 32)]
    sample = source.read(Draw(position=4, index=0, seed=1))
    whole = as_video(read_frames(clips[0], 0, 9))[0]
    assert any(torch.equal(sample["video"], whole[:, start : start + 5]) for start in range(5))
    assert sample["lip"].shape == (1, 5, 32, 32) and 0 < sample["lip"].mean() < 0.5
    crop = source.read(Draw(position=0, index=0, seed=1))["video"][:, 0]
    assert any(torch.equal(crop, place) for place in places(whole, 16))


def places(video_CVHW: torch.Tensor, size: int) -> list[torch.Tensor]:
    tiles = video_CVHW.unfold(2, size, 1).unfold(3, size, 1)  # [C, V, rows, columns, size, size]
    return [*tiles.flatten(1, 3).unbind(1)]


def test_a_new_vae_takes_a_still_video_for_its_picture(config: TrainingConfig, clips: list[Clip]) -> None:
    vae: Any = starting_network(config, PRESET).eval()
    picture = as_video(read_frames(clips[0], 0, 1))
    with torch.no_grad():
        decoded = vae.decode(vae.encode(picture).latent_dist.mode()).sample
        still = vae.decode(vae.encode(picture.expand(-1, -1, 9, -1, -1)).latent_dist.mode()).sample
    assert still.shape[2] == 9 and decoded.std() > 0.01
    torch.testing.assert_close(still, decoded.expand_as(still), rtol=1e-3, atol=1e-4)


def test_pictures_are_learned_and_what_is_left_makes_latents_of_unit_variance(
    config: TrainingConfig, clips: list[Clip], tmp_path: Path
) -> None:
    trainer, source = Trainer(config), Crops(clips, OPTIONS, batch_size=2)
    batches = [collate(source.read(Draw(position=n, index=n % 2, seed=n)) for n in (at, at + 1)) for at in (0, 4)]
    losses = [[trainer.train_step([batch])["loss"] for batch in batches] for _ in range(6)]
    assert np.isfinite(losses).all() and (np.mean(losses[-2:], axis=0) < losses[0]).all()

    trainer.export(tmp_path, source)
    vae: Any = load_network(VAE, saved(tmp_path), "cpu", torch.float32)
    average = trainer.average.values["network.quant_conv.weight"]
    assert torch.equal(vae.quant_conv.weight, average)
    assert not torch.allclose(average, trainer.parameters["network.quant_conv.weight"], rtol=1e-3)
    with torch.no_grad():
        latents = torch.cat([encode_video(vae, as_video(read_frames(clip, 0, 5)))[0].flatten(1) for clip in clips], 1)
    torch.testing.assert_close(latents.mean(dim=1), torch.zeros(16), rtol=0, atol=1e-3)
    torch.testing.assert_close(latents.std(dim=1), torch.ones(16), rtol=1e-3, atol=0)


def test_workers_draw_what_accumulated_batches_do(config: TrainingConfig, clips: list[Clip]) -> None:
    from stableavatar.training.objective import Moment
    from stableavatar.training.order import Place

    objective, source = Trainer(config).objective, Crops(clips, OPTIONS)
    batch = collate([source.read(Draw(position=0, index=0, seed=0))])
    with torch.no_grad():
        second_worker = objective(batch, Moment(step=3, place=Place(rank=1, num_workers=2)))
        second_batch, first = (objective(batch, Moment(step=3, batch=n, num_batches=2)) for n in (1, 0))
    assert second_worker == second_batch != first


def test_what_pictures_have_taught_goes_on_with_videos(
    config: TrainingConfig, clips: list[Clip], tmp_path: Path
) -> None:
    source = Crops(clips, OPTIONS, batch_size=2)
    picture, video = (
        collate(source.read(Draw(position=n, index=n % 2, seed=n)) for n in (at, at + 1)) for at in (0, 4)
    )
    trainer, again = Trainer(config), Trainer(config)
    trainer.train_step([picture])
    trainer.save(tmp_path)  # layers for videos have had no gradient yet
    again.load(tmp_path)
    assert again.train_step([video]) == trainer.train_step([video])
    assert all(torch.equal(again.parameters[name], value) for name, value in trainer.parameters.items())


def test_the_divergence_is_that_of_each_element_whatever_the_crop(config: TrainingConfig, clips: list[Clip]) -> None:
    from stableavatar.training.objective import Moment

    objective: Any = Trainer(config).objective
    batch = collate([Crops(clips, OPTIONS).read(Draw(position=4, index=0, seed=0))])
    with torch.no_grad():
        found = objective(batch, Moment(step=0))["kl"]
        latents = objective.network.encode(batch["video"]).latent_dist
    expected = (latents.mean.square() + latents.logvar.exp() - 1 - latents.logvar).mean() / 2
    torch.testing.assert_close(found, expected)
