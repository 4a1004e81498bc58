"""A stage that merges models of one shape, weight by weight."""

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from llmkd.recipe.base import RecipePart
from llmkd.recipe.yaml_places import Key

UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9}


class Slerp(RecipePart):
    """Two models along the arc between them, tensor by tensor."""

    kind: Literal["slerp"]
    weight: float = Field(default=0.5, ge=0, le=1)
    """Of the second model: 0 gives the first, 1 the second."""


class Linear(RecipePart):
    """A weighted average, or a weighted sum, of two models or more."""

    kind: Literal["linear"]
    weights: list[float] | None = None
    """One for each model; null takes equal shares."""
    normalize: bool = True
    """Divides the weights by their sum, which makes an average of them; false takes them as they are."""


class TaskArithmetic(RecipePart):
    """A base, and what each model has learned beyond it.

    References:
        Ilharco et al. 2022, "Editing Models with Task Arithmetic", https://arxiv.org/abs/2212.04089.
    """

    kind: Literal["task_arithmetic"]
    base: str = Field(min_length=1)
    """The model that all the others were trained from: a folder, a hub name, or `stage:NAME`."""
    weights: list[float] | None = None
    """How much of what each model has learned is added; below 0 takes it away. Null takes 1 for each."""


MergeMethod = Annotated[Slerp | Linear | TaskArithmetic, Field(discriminator="kind")]


class MergeStage(RecipePart):
    """Makes one model of several. Product: a model folder."""

    kind: Literal["merge"]
    models: list[str] = Field(min_length=1)
    """Model folders, hub names, LoRA adapters that peft saved, or `stage:NAME`. Configuration,
    tokenizer and type of the weights are the first one's, or the base's where there is one."""
    method: MergeMethod
    """How their weights become one's."""
    max_shard_size: str = Field(default="5GB", pattern=r"^[1-9][0-9]*(KB|MB|GB)$")
    """The largest file that weights are written to, such as `500MB`; a larger tensor has its own."""

    @property
    def inputs(self) -> dict[str, str]:
        """All that is read, the base first: where it stands in the stage, and its name."""
        base = {"method.base": self.method.base} if isinstance(self.method, TaskArithmetic) else {}
        return base | {f"models.{index}": name for index, name in enumerate(self.models)}

    @property
    def max_shard_bytes(self) -> int:
        """`max_shard_size` in bytes."""
        return int(self.max_shard_size[:-2]) * UNITS[self.max_shard_size[-2:]]

    def problems(self) -> Iterator[tuple[Key, str]]:
        """What is wrong across its fields: where, and what to write instead."""
        method, count = self.method, len(self.models)
        if isinstance(method, Slerp):
            if count != 2:
                yield ("models",), _no_pair(count)
            return
        if isinstance(method, Linear) and count < 2:
            yield ("models",), "one model is nothing to merge; name two or more"
        if method.weights is None:
            return
        place = ("method", "weights")
        if len(method.weights) != count:
            yield place, f"{len(method.weights)} weights for {count} models; write one for each"
        elif isinstance(method, Linear) and method.normalize and _cancel(method.weights):
            yield place, "their sum is 0, by which they cannot be divided; write normalize: false"


def _cancel(weights: list[float]) -> bool:
    """Whether their sum is 0, or no more than what rounding leaves of it."""
    return abs(sum(weights)) <= 1e-9 * sum(map(abs, weights))


def _no_pair(count: int) -> str:
    return (
        f"slerp is between two models, and here {'is' if count == 1 else 'are'} {count}; name two, "
        "or write method: {kind: linear}"
    )
