from itertools import islice

import pytest

from stableavatar.training.order import ALONE, Draw, Order, Place, generator_of, seed_of


def taken(order: Order, start: int, place: Place, number: int) -> list[Draw]:
    return list(islice(order.draws(start, place), number))


def test_every_epoch_takes_each_sample_once_in_another_order() -> None:
    epochs = [[draw.index for draw in taken(Order(7, 1), 7 * epoch, ALONE, 7)] for epoch in range(3)]
    assert [sorted(epoch) for epoch in epochs] == [list(range(7))] * 3
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert [draw.index for draw in taken(Order(7, 2), 0, ALONE, 7)] != epochs[0]


@pytest.mark.parametrize("start", [0, 5, 12])
def test_a_resumed_run_goes_on_with_the_same_samples(start: int) -> None:
    whole = taken(Order(5, 3), 0, ALONE, 30)
    assert taken(Order(5, 3), start, ALONE, 10) == whole[start : start + 10]


@pytest.mark.parametrize(("num_workers", "batch_size"), [(2, 1), (3, 2), (1, 4)])
def test_workers_share_the_run_between_them(num_workers: int, batch_size: int) -> None:
    order = Order(5, 3, batch_size)
    parts = [taken(order, 4, Place(rank=rank, num_workers=num_workers), 8) for rank in range(num_workers)]
    together = sorted((draw for part in parts for draw in part), key=lambda draw: draw.position)
    assert together == taken(Order(5, 3), 4, ALONE, 8 * num_workers)
    # The batches of one step lie side by side in the run.
    assert [draw.position for draw in parts[0][:batch_size]] == list(range(4, 4 + batch_size))


def test_a_batch_holds_samples_of_one_size_and_none_is_lost() -> None:
    sizes = ["wide"] * 5 + ["tall"] * 3 + ["square"]
    order = Order(9, 1, 2, sizes)
    assert order.epoch_length == 6 + 4 + 2
    draws = taken(order, 0, ALONE, 12)
    batches = [draws[at : at + 2] for at in range(0, 12, 2)]
    assert all(len({sizes[draw.index] for draw in batch}) == 1 for batch in batches)
    assert {draw.index for draw in draws} == set(range(9))
    assert taken(order, 12, ALONE, 12) != draws and taken(order, 4, ALONE, 4) == draws[4:8]


def test_sizes_mix_freely_where_a_batch_is_one_sample() -> None:
    assert Order(4, 1, 1, ["a", "a", "b", "b"]).epoch_length == 4


def test_what_stands_in_for_a_sample_has_its_size() -> None:
    order = Order(4, 1, 2, ["a", "b", "a", "b"])
    drawn = Draw(position=9, index=2, seed=5)
    assert order.after(drawn) == Draw(position=9, index=0, seed=5)
    assert Order(3, 1).after(drawn).index == 0


def test_seeds_differ_by_every_word() -> None:
    assert len({seed_of(*words) for words in ((1, 2), (1, 3), (2, 1), (1, "2", 0), (12,))}) == 5
    assert 0 <= seed_of("x") < 2**63
    assert generator_of(1, "a").initial_seed() == generator_of(1, "a").initial_seed()
