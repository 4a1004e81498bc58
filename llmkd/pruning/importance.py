"""How much each layer, channel and head group of a model matters, by what it does to a few texts.

One pass over the texts gives all of it; of a batch's hidden states those of one layer at a time are
held, and of every layer the last token's.

Legend of shapes: B batch, T time, H hidden size, L layers, I inputs of layers and the last output
(L + 1), C channels, G head groups.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from llmkd.pruning.architectures import architecture_of
from llmkd.pruning.fields import num_groups, queries_per_group

LARGEST_COSINE = 1 - 1e-6
"""Cosines are clamped to +- this, where the arc cosine in float32 is still finite and steep."""


@dataclass(frozen=True)
class Importances:
    """What a calibration set says of a model, on the CPU.

    Args:
        angular_distances: [i, j] is d(i, j), the mean over the texts, in [0, 1]; symmetric.
        block_influence: Of each layer, in [0, 2].
        channels: Of each layer, the mean magnitude of each MLP channel.
        head_groups: Of each layer, the mean norm of what each key-value head's query heads give.
        num_examples: Texts that were read.
        num_tokens: Tokens of them, without padding.
    """

    angular_distances: Float[Tensor, "I I"]
    block_influence: Float[Tensor, " L"]
    channels: Float[Tensor, "L C"]
    head_groups: Float[Tensor, "L G"]
    num_examples: int
    num_tokens: int

    @property
    def is_finite(self) -> bool:
        """Whether no number overflowed."""
        found = (self.angular_distances, self.block_influence, self.channels, self.head_groups)
        return all(bool(tensor.isfinite().all()) for tensor in found)

    def of_blocks(self, num_layers: int) -> list[float]:
        """d(l, l + n) of every block of n neighbouring layers, by its first layer l."""
        return self.angular_distances.diagonal(num_layers).tolist()


@torch.inference_mode()
def measure_importances(
    model: PreTrainedModel, batches: Iterable[Mapping[str, Tensor]]
) -> Importances:
    """Reads all batches and measures.

    With h^l the input of layer l (h^L the last layer's output, before the final norm), all in float32:

        d(i, j)  = mean over texts of arccos(cos(h^i, h^j)) / pi, at the last token
        BI(l)    = 1 - mean over tokens of cos(h^l, h^(l+1)), over all tokens but each text's first
        channel  = mean over tokens of |act(gate(x)) * up(x)|, what goes into the MLP's output
        head     = mean over tokens of ||softmax(q k) v||_2, what goes into the attention's output;
                   a group has the mean of its query heads

    Padding counts nowhere, on whichever side it is. The first token's hidden state is many times
    longer than others (an attention sink), so BI leaves it out. Channels and heads keep it: those that
    make the sink are small elsewhere, and the model breaks without them.

    Args:
        model: In evaluation mode.
        batches: Each with `input_ids` [B, T], and an `attention_mask` [B, T] with 1 for each token
            that is no padding.

    References:
        Gromov et al. 2024, https://arxiv.org/abs/2403.17887 (angular distance); Men et al. 2024,
        https://arxiv.org/abs/2403.03853 (block influence); Muralidharan et al. 2024,
        https://arxiv.org/abs/2407.14679 (channels and heads).
    """
    sums = _Sums(model)
    with sums.listening(model):
        for batch in batches:
            sums.begin(batch["attention_mask"].to(model.device).bool())
            sums.read(model, batch["input_ids"].to(model.device))
    return sums.means()


class _Sums:
    """Adds up, in float64, what hooks see of each batch."""

    def __init__(self, model: PreTrainedModel):
        config = model.config.to_dict()
        num_layers = config["num_hidden_layers"]
        zeros: Callable[..., Tensor] = partial(
            torch.zeros, dtype=torch.float64, device=model.device
        )
        self.architecture = architecture_of(config)
        self.num_queries = queries_per_group(config)
        self.angles = zeros(num_layers + 1, num_layers + 1)
        self.influence = zeros(num_layers)
        self.channels = zeros(num_layers, config["intermediate_size"])
        self.head_groups = zeros(num_layers, num_groups(config))
        self.num_examples = self.num_tokens = self.num_later = 0
        self.last_states: list[Float[Tensor, "B H"]] = []

    def begin(self, is_token: Bool[Tensor, "B T"]) -> None:
        self.is_token = is_token
        self.is_later = is_token & (is_token.cumsum(1) > 1)
        self.last = is_token.shape[1] - 1 - is_token.int().flip(1).argmax(1)
        self.num_examples += len(is_token)
        self.num_tokens += int(is_token.sum())
        self.num_later += int(self.is_later.sum())

    def read(self, model: PreTrainedModel, input_ids: Int[Tensor, "B T"]) -> None:
        # Without the head: nobody asks for logits. Positions are relative, so padding moves nothing.
        model.base_model(input_ids=input_ids, attention_mask=self.is_token.long(), use_cache=False)
        self.angles += angles_of(torch.stack(self.last_states, dim=1)).double().sum(0)
        self.last_states.clear()

    @contextmanager
    def listening(self, model: PreTrainedModel) -> Iterator[None]:
        """Has the model's parts report to this object."""
        names = self.architecture
        layers: Any = model.get_submodule(names.layers)
        hooks = []
        for index, layer in enumerate(layers):
            down = layer.get_submodule(names.mlp).get_submodule(names.mlp_output)
            out = layer.get_submodule(names.attention).get_submodule(names.attention_output)
            hooks += [
                layer.register_forward_hook(partial(self._see_layer, index)),
                down.register_forward_pre_hook(partial(self._see_channels, index)),
                out.register_forward_pre_hook(partial(self._see_heads, index)),
            ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _see_layer(
        self, index: int, _: nn.Module, inputs: tuple[Any, ...], output: Float[Tensor, "B T H"]
    ) -> None:
        before, after = inputs[0].float(), output.float()
        turned = 1 - F.cosine_similarity(before, after, dim=-1)
        self.influence[index] += turned[self.is_later].double().sum()
        rows = torch.arange(len(before), device=before.device)
        if index == 0:
            self.last_states.append(before[rows, self.last])
        self.last_states.append(after[rows, self.last])

    def _see_channels(self, index: int, _: nn.Module, inputs: tuple[Any, ...]) -> None:
        self.channels[index] += inputs[0][self.is_token].float().abs().double().sum(0)

    def _see_heads(self, index: int, _: nn.Module, inputs: tuple[Any, ...]) -> None:
        given = inputs[0][self.is_token].float()
        heads = given.unflatten(1, (self.head_groups.shape[1], self.num_queries, -1))
        self.head_groups[index] += heads.norm(dim=-1).mean(-1).double().sum(0)

    def means(self) -> Importances:
        """Divided by what was counted."""
        return Importances(
            (self.angles / max(1, self.num_examples)).float().cpu(),
            (self.influence / max(1, self.num_later)).float().cpu(),
            (self.channels / max(1, self.num_tokens)).float().cpu(),
            (self.head_groups / max(1, self.num_tokens)).float().cpu(),
            self.num_examples,
            self.num_tokens,
        )


def angles_of(states: Float[Tensor, "B I H"]) -> Float[Tensor, "B I I"]:
    """The angle between every two states of each text, over pi: 0 is the same way, 1 the opposite."""
    directions = F.normalize(states.float(), dim=-1)
    cosines = directions @ directions.mT
    return cosines.clamp(-LARGEST_COSINE, LARGEST_COSINE).arccos() / math.pi
