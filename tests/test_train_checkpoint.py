from contextlib import suppress

import pytest

from pipelines import lease, storage, train_checkpoint
from pipelines.lease import Lease, LeaseLost
from stableavatar.training.trainer import Trainer
from tests.training import small_batch, small_config


def test_the_newest_complete_checkpoint_counts_and_older_ones_go(base: str) -> None:
    trainer = Trainer(small_config())
    assert train_checkpoint.newest(base) is None
    with Lease(base) as run:
        for step in range(3):
            trainer.train_step([small_batch([step])])
            train_checkpoint.save(trainer, base, {"seen": step}, keep=2, holder=run.holder)
    found = train_checkpoint.newest(base)
    assert found is not None and (found.step, found.notes) == (3, {"seen": 2})
    folders = storage.folders_in(f"{base}/checkpoints")
    assert [name[:13] for name in folders] == ["step-00000002", "step-00000003"]

    again = Trainer(small_config())
    again.load(found.uri)
    assert again.step == 3
    assert again.train_step([small_batch([9])]) == trainer.train_step([small_batch([9])])


def test_what_was_not_finished_is_never_read_and_goes(base: str) -> None:
    trainer = Trainer(small_config())
    trainer.train_step([small_batch([0])])
    with Lease(base) as run:
        train_checkpoint.save(trainer, base, {}, keep=2, holder=run.holder)
    storage.write(b"half", f"{base}/checkpoints/step-00000002-0badc0de/__0_0.distcp")
    found = train_checkpoint.newest(base)
    assert found is not None and found.step == 1
    train_checkpoint.clean_up(base)
    assert len(storage.folders_in(f"{base}/checkpoints")) == 1
    assert storage.exists(f"{found.uri}/progress.json")


def test_a_checkpoint_whose_files_did_not_arrive_is_none(base: str) -> None:
    trainer = Trainer(small_config())

    def dies(folder: object) -> None:
        raise KeyboardInterrupt

    trainer.save = dies  # type: ignore[method-assign]
    with suppress(KeyboardInterrupt):
        train_checkpoint.save(trainer, base, {}, keep=2, holder="")
    assert train_checkpoint.newest(base) is None


def test_a_run_whose_output_was_taken_over_leaves_no_more_checkpoints(base: str) -> None:
    trainer = Trainer(small_config())
    with Lease(base) as run:
        train_checkpoint.save(trainer, base, {}, keep=1, holder=run.holder)
        storage.write(b'{"holder": "another"}', lease.lease_uri(base, 7))
        trainer.train_step([small_batch([0])])
        with pytest.raises(LeaseLost, match="another run has taken over"):
            train_checkpoint.save(trainer, base, {}, keep=1, holder=run.holder)
        storage.remove(lease.lease_uri(base, 7))
    assert storage.names_in(f"{base}/checkpoints") == ["step-00000000.json"]
    found = train_checkpoint.newest(base)
    assert found is not None and found.step == 0 and storage.exists(f"{found.uri}/progress.json")
