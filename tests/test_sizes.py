from dataclasses import replace
from typing import Any

import pytest

from pipelines.sizes import LIGHT, Work, choose_sizes, fitting, grown, loads_of, rows_at_once
from pipelines.workers import Capacity

GB = 10**9
NIGHT = Work(lengths={0: [60.0] * 1000})
TWO_GPUS = Capacity(num_cpus=32, num_gpus=2, num_gpus_there=2, node_cpus=16)


def test_a_small_machine_has_one_of_each() -> None:
    sizes = choose_sizes(Capacity(num_cpus=2, num_gpus=0), NIGHT)
    assert (sizes.generators, sizes.generator_cpus, sizes.generator_gpus, sizes.num_devices) == (1, 1, 0, 1)
    assert (sizes.prepare, sizes.separate, sizes.encoders, sizes.measure) == (1, 1, 1, 1)
    assert {sizes.helper_cpus, sizes.separator_cpus, sizes.encoder_cpus} == {LIGHT}


def test_a_generator_needs_no_cpu_where_it_has_a_gpu() -> None:
    """Two CPUs of a node with one GPU may be full of other stages."""
    sizes = choose_sizes(TWO_GPUS, NIGHT)
    assert (sizes.generators, sizes.generator_cpus, sizes.generator_gpus) == (2, 0, 1)


@pytest.mark.parametrize("wanted", [None, 3, 4])
def test_generators_share_gpus_that_hold_two(wanted: int | None) -> None:
    sizes = choose_sizes(replace(TWO_GPUS, generators_per_gpu=2), NIGHT, wanted)
    assert (sizes.generators, sizes.generator_gpus) == (wanted or 4, 0.5)


def test_one_generator_counts_for_a_gpu_that_is_still_to_come() -> None:
    capacity = Capacity(num_cpus=64, num_gpus=8, num_gpus_there=2, generators_per_gpu=2)
    assert choose_sizes(capacity, NIGHT).generators == 10


def test_two_rows_on_two_gpus_share_none() -> None:
    sizes = choose_sizes(replace(TWO_GPUS, generators_per_gpu=2), Work(lengths={0: [60.0], 3: [5.0]}))
    assert (sizes.generators, sizes.generator_gpus) == (2, 1)


def test_three_parts_of_a_gpu_are_no_more_than_all_of_it() -> None:
    one = Capacity(num_cpus=8, num_gpus=1, num_gpus_there=1)
    assert 0.99 < 3 * choose_sizes(one, NIGHT, wanted=3).generator_gpus <= 1


def test_a_cluster_without_gpus_grows_to_what_its_user_says() -> None:
    head = Capacity(num_cpus=0, num_gpus=0, node_cpus=0, is_local=False)
    sizes = choose_sizes(grown(head, 4), NIGHT, wanted=4)
    assert (sizes.generators, sizes.generator_gpus, sizes.prepare) == (4, 1, 4)
    assert grown(head, None) == head
    here = Capacity(num_cpus=8, num_gpus=0)
    assert choose_sizes(grown(here, 3), NIGHT, wanted=3).generator_gpus == 0


def test_two_fit_where_memory_is_left_for_long_videos() -> None:
    assert [fitting(gigabytes * GB, 12 * GB) for gigabytes in (0, 24, 48, 80, 141)] == [1, 1, 2, 2, 2]
    assert [fitting(gigabytes * GB, 45 * GB) for gigabytes in (80, 141)] == [1, 1]


def test_an_encoder_fits_on_a_node_where_others_work_too() -> None:
    sizes = choose_sizes(Capacity(num_cpus=512, num_gpus=8, node_cpus=16), NIGHT)
    assert sizes.encoder_cpus == 8


def test_what_was_measured_says_how_many_helpers_there_are() -> None:
    def made(**seconds: float | None) -> dict[str, Any]:
        return {"status": "ok", "sample_s": 1.0, "generate_s": 10.0, **seconds}

    copied = {"status": "ok", "sample_s": None, "generate_s": 0.1, "prepare_s": 100.0}
    loads = loads_of([made(prepare_s=20.0, encode_text_s=4.0), made(prepare_s=20.0, separate_s=None), copied])
    assert loads == {"prepare": 2.0, "encode_text": 0.2}
    assert loads_of([]) == {}
    capacity = Capacity(num_cpus=512, num_gpus=8, num_gpus_there=8, node_cpus=64)
    known, unknown = (choose_sizes(capacity, Work(lengths=NIGHT.lengths, loads=found)) for found in (loads, {}))
    assert (known.prepare, known.encoders, known.measure) == (24, 3, 8)
    assert (unknown.prepare, unknown.encoders, unknown.measure) == (8, 1, 8)


def test_rows_wait_at_generators_only_where_none_is_long() -> None:
    equal = [2.0] * 40
    assert rows_at_once({0: equal}, generators=2) == 2
    assert rows_at_once({0: equal}, generators=12) == 1
    assert rows_at_once({0: [60.0, *equal]}, generators=2) == 1
    assert rows_at_once({0: equal, 5: [2.0]}, generators=2) == 1  # a single urgent row waits for nobody
    assert rows_at_once({}, generators=2) == 1
