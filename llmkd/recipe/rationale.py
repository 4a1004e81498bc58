"""How a student learns from rationales: texts that explain why an answer is right."""

from typing import Annotated, Literal

from pydantic import Field

from llmkd.recipe.base import RecipePart

Part = Literal["completion", "rationale"]
"""What a row has of its own to be learned, under `rationale: {kind: step_by_step}`."""


class StepByStep(RecipePart):
    """Distilling step-by-step: each row is learned twice, as two tasks in one batch.

    From the prompt its completion, and from the prompt behind `prefix` its rationale. The two have
    terms of their own, told apart by `part`, and each is a mean over its own tokens. At test time no
    rationale is written. A row without a rationale teaches its completion alone, which is counted.

    References:
        Hsieh et al. 2023, "Distilling Step-by-Step! Outperforming Larger Language Models with Less
        Training Data and Smaller Model Sizes", https://arxiv.org/abs/2305.02301, equations 2 to 4.
    """

    kind: Literal["step_by_step"]
    prefix: str = Field(default="explain: ", min_length=1)
    """Stands before the prompt where the rationale is asked for, in place of `prompt_prefix`."""


class ChainOfThought(RecipePart):
    """Chain-of-thought distillation: one target per row, its rationale and then its completion.

    References:
        Magister et al. 2023, "Teaching Small Language Models to Reason",
        https://arxiv.org/abs/2212.08410, section 3.
    """

    kind: Literal["chain_of_thought"]
    separator: str = " The answer is "
    """Stands between the two."""


Rationale = Annotated[StepByStep | ChainOfThought, Field(discriminator="kind")]
