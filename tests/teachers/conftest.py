"""Rollouts of different lengths, padded as TRL pads them; and what memory reading them takes."""

import pytest
import torch
from torch.nn.utils.rnn import pad_sequence
from torch.utils._python_dispatch import TorchDispatchMode

from llmkd.teachers.rollouts import Rollouts

PROMPTS = [[4, 5, 6], [7], [8, 9], [10, 11, 4, 5, 6], [5]]
COMPLETIONS = [[7, 2], [8, 9, 10, 4, 2], [11, 2], [4], [6, 7, 8, 9, 10, 11, 3]]


class LargestTensor(TorchDispatchMode):
    """Notes the most bytes that any operation gave."""

    num_bytes = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        output = function(*args, **(kwargs or {}))
        if isinstance(output, torch.Tensor):
            self.num_bytes = max(self.num_bytes, output.nbytes)
        return output


@pytest.fixture
def largest_tensor():
    """Notes the largest tensor of a block, `num_bytes`."""
    return LargestTensor()


@pytest.fixture
def rollouts():
    """Makes them, of token ids."""

    def make(prompts=PROMPTS, completions=COMPLETIONS, **more):
        parts = {}
        for name, rows, side in (("prompt", prompts, "left"), ("completion", completions, "right")):
            ids = [torch.tensor(row) for row in rows]
            ones = [torch.ones_like(row) for row in ids]
            parts[f"{name}_ids"] = pad_sequence(ids, True, padding_value=0, padding_side=side)
            parts[f"{name}_mask"] = pad_sequence(ones, True, padding_side=side)
        return Rollouts(**parts, **more)

    return make


@pytest.fixture
def one_by_one():
    """The log-probabilities of completions, each read alone, without padding, in float64."""

    def score(model, rollouts, vocab_size, temperature=1.0):
        expected = torch.zeros(rollouts.completion_ids.shape, dtype=torch.float64)
        for row in range(len(expected)):
            part = rollouts.rows(torch.tensor([row]))
            prompt = part.prompt_ids[part.prompt_mask.bool()]
            completion = part.completion_ids[part.completion_mask.bool()]
            with torch.no_grad():
                logits = model(torch.cat([prompt, completion])[None]).logits[
                    0, len(prompt) - 1 : -1
                ]
            logprobs = (logits[:, :vocab_size].double() / temperature).log_softmax(-1)
            expected[row, : len(completion)] = logprobs.gather(-1, completion[:, None])[:, 0]
        return expected

    return score
