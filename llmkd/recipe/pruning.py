"""A stage that prunes: layers, channels and heads of a model that matter least are left out."""

from typing import Annotated, Literal

from pydantic import Field

from llmkd.recipe.base import RecipePart
from llmkd.recipe.data import DataSource
from llmkd.recipe.models import Dtype, PretrainedModel


class PrunedModel(PretrainedModel):
    """The model to be pruned: a Llama, Qwen2, Qwen3 or Mistral."""

    dtype: Dtype = "auto"
    """The weights' type, in memory and in the pruned model. `auto` keeps the checkpoint's."""


class DepthPruning(RecipePart):
    """Decoder layers to leave out: how many, by their importance, or which.

    References:
        Gromov et al. 2024, "The Unreasonable Ineffectiveness of the Deeper Layers",
        https://arxiv.org/abs/2403.17887. Men et al. 2024, "ShortGPT: Layers in Large Language Models
        are More Redundant Than You Expect", https://arxiv.org/abs/2403.03853.
    """

    remove_layers: int | None = Field(default=None, gt=0)
    """How many layers go. Write this or `layers`."""
    layers: list[Annotated[int, Field(ge=0)]] | None = Field(default=None, min_length=1)
    """Which layers go, counted from 0; `importance` and protection then have no say."""
    importance: Literal["angular_distance", "block_influence"] = "angular_distance"
    """`angular_distance`: the block of neighbouring layers that turns the last token's hidden state
    least goes. `block_influence`: the layers that turn their inputs least go, wherever they are."""
    protect_first: int = Field(default=1, ge=0)
    """Layers at the start that stay."""
    protect_last: int = Field(default=1, ge=0)
    """Layers at the end that stay."""


class WidthPruning(RecipePart):
    """Sizes that every layer is cut to, by the mean activation of what is cut.

    References:
        Muralidharan et al. 2024, "Compact Language Models via Pruning and Knowledge Distillation"
        (Minitron), https://arxiv.org/abs/2407.14679.
    """

    intermediate_size: int | None = Field(default=None, gt=0)
    """MLP channels of each layer that stay; null keeps all."""
    num_key_value_heads: int | None = Field(default=None, gt=0)
    """Key-value heads of each layer that stay, each with the query heads that read it; null keeps
    all."""


class PruneStage(RecipePart):
    """Leaves out what matters least of a language model. Product: a model folder."""

    kind: Literal["prune"]
    model: PrunedModel
    """What is pruned."""
    data: DataSource | None = None
    """The calibration set, on which importance is measured: rows as a train stage of language models
    reads them. Needed unless `depth.layers` says all."""
    num_examples: int = Field(default=256, gt=0)
    """Rows of it that are read, drawn with the run's seed."""
    batch_size: int = Field(default=8, gt=0)
    """Rows read together."""
    depth: DepthPruning | None = None
    """Which layers go; null keeps all."""
    width: WidthPruning | None = None
    """How wide layers stay; null keeps their widths."""

    @property
    def needs_calibration(self) -> bool:
        """Whether anything is chosen by its importance."""
        return self.width is not None or (
            self.depth is not None and self.depth.remove_layers is not None
        )
