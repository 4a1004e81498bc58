import pytest
import torch

from llmkd.training.reward_masks import kept_responses

RIGHT = torch.tensor([1, 0, 0, 0, 0, 0, 1, 1, 1]).bool()


@pytest.mark.parametrize(
    ("mask", "expected"),
    [
        ("none", [1, 1, 1, 1, 1, 1, 1, 1, 1]),
        ("response", [0, 1, 1, 1, 1, 1, 0, 0, 0]),
        ("group", [0, 0, 0, 1, 1, 1, 0, 0, 0]),
    ],
)
def test_of_groups_of_three_only_the_hopeless_one_is_kept_whole(mask, expected):
    kept = kept_responses(mask, RIGHT, 3)
    assert torch.equal(kept, torch.tensor(expected).bool())
