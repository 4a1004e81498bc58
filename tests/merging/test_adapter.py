"""An adapter read from its files adds what peft's own merge adds."""

import copy
import json

import peft
import pytest
import torch
from torch import nn

from llmkd.errors import InputError
from llmkd.merging.adapter import Adapter


class Convolutions(nn.Module):
    """A layer of each number of dimensions, one of them a matrix."""

    def __init__(self, groups=1):
        super().__init__()
        self.one = nn.Conv1d(4, 6, 3, groups=groups)
        self.two = nn.Conv2d(4, 6, (3, 2))
        self.point = nn.Conv2d(4, 6, 1)
        self.three = nn.Conv3d(2, 3, 2)
        self.linear = nn.Linear(4, 6)


def adapted(model, folder, names, **config):
    settings = peft.LoraConfig(
        r=2, lora_alpha=3, target_modules=names, init_lora_weights=False, **config
    )
    both = peft.get_peft_model(copy.deepcopy(model), settings)
    both.save_pretrained(folder)
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"base_model_name_or_path": "base"}))
    return both


@pytest.mark.parametrize("fan_in_fan_out", [False, True])
def test_convolutions_get_the_update_that_peft_merges_into_them(tmp_path, fan_in_fan_out):
    torch.manual_seed(0)
    model = Convolutions()
    names = ["one", "two", "point", "three"] + ["linear"] * (not fan_in_fan_out)
    both = adapted(model, tmp_path, names, fan_in_fan_out=fan_in_fan_out, use_rslora=True)
    adapter = Adapter("models.0: x", tmp_path)
    adapter.check_fits({name: tuple(w.shape) for name, w in model.state_dict().items()})
    expected = both.merge_and_unload().state_dict()
    for name, weight in model.state_dict().items():
        assert torch.allclose(adapter.added(name, weight), expected[name], atol=1e-6), name
        is_adapted = name.removesuffix(".weight") in names
        assert torch.equal(expected[name], weight) != is_adapted


def test_a_grouped_convolution_is_refused_as_peft_cannot_merge_it_either(tmp_path):
    model = Convolutions(groups=2)
    with pytest.warns(UserWarning, match="groups > 1"):
        adapted(model, tmp_path, ["one"])
    shapes = {name: tuple(w.shape) for name, w in model.state_dict().items()}
    with pytest.raises(InputError, match=r"models\.0: x: adapts one\.weight in groups"):
        Adapter("models.0: x", tmp_path).check_fits(shapes)


def test_a_convolution_of_another_width_is_of_another_model(tmp_path):
    model = Convolutions()
    adapted(model, tmp_path, ["two"])
    shapes = {name: tuple(w.shape) for name, w in model.state_dict().items()}
    shapes["two.weight"] = (6, 4, 2, 2)
    with pytest.raises(InputError, match=r"adapts two\.weight of shape \[6, 4, 3, 2\]"):
        Adapter("models.0: x", tmp_path).check_fits(shapes)
