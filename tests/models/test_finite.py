import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from llmkd.models.finite import broken_weight, broken_weight_in, is_finite


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_one_number_that_is_not_finite_is_found(dtype):
    tensor = torch.zeros(3, 5, dtype=dtype)
    assert is_finite(tensor)
    assert is_finite(tensor[:0])
    for value in (float("nan"), float("inf"), -float("inf")):
        tensor[1, 2] = value
        assert not is_finite(tensor)


def test_the_broken_weight_of_a_model_and_of_its_files_is_named(tmp_path):
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2))
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    assert broken_weight(model) is broken_weight_in(tmp_path) is None
    model.state_dict()["1.bias"][0] = torch.inf
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    assert broken_weight(model) == broken_weight_in(tmp_path) == "1.bias"


def test_whole_numbers_are_always_finite():
    assert is_finite(torch.tensor([1, 2]))
