import torch

from stableavatar.reproducible import reproducible


def test_the_number_of_threads_is_set_inside_and_restored_behind() -> None:
    before = torch.get_num_threads()
    with reproducible(before + 1):
        assert torch.get_num_threads() == before + 1
        assert torch.backends.cudnn.deterministic
    assert torch.get_num_threads() == before
    assert not torch.backends.cudnn.deterministic
