"""Which terms a captured teacher serves: what was not kept cannot be compared with. No torch."""

from collections.abc import Iterator, Sequence
from typing import get_args

from llmkd.recipe.losses import (
    BatchTerm,
    DivergenceTerm,
    ForwardKLTerm,
    JSDTerm,
    Loss,
    ReverseKLTerm,
    SkewForwardKLTerm,
    SkewReverseKLTerm,
    TeacherTerm,
    TotalVariationTerm,
)
from llmkd.recipe.teacher_data import Capture, SampledCapture

OF_TOP_K = (
    ForwardKLTerm,
    ReverseKLTerm,
    JSDTerm,
    SkewForwardKLTerm,
    SkewReverseKLTerm,
    TotalVariationTerm,
)
"""Terms that the likeliest tokens and the mass of the rest serve, as lower bounds."""
OF_SAMPLES = (ForwardKLTerm,)
"""Terms that drawn tokens serve without bias."""


def capture_problems(losses: Sequence[Loss], capture: Capture) -> Iterator[tuple[str, str]]:
    """What is wrong with the terms of a stage whose teacher was captured.

    Args:
        losses: Of the stage.
        capture: What was kept of the teacher.

    Yields:
        The key within the stage, and the message.
    """
    is_sampled = isinstance(capture, SampledCapture)
    served = OF_SAMPLES if is_sampled else OF_TOP_K
    for index, loss in enumerate(losses):
        key = f"losses.{index}"
        if not isinstance(loss, TeacherTerm):
            continue
        if not isinstance(loss, served):
            kept = "drawn tokens" if is_sampled else "likeliest tokens"
            names = ", ".join(get_args(term.model_fields["kind"].annotation)[0] for term in served)
            whole = "batches of whole distributions" if isinstance(loss, BatchTerm) else "more"
            yield (
                f"{key}.kind",
                f"{loss.kind} needs {whole}, and of the teacher only the {kept} were kept; write "
                f"kind: {names}, or a teacher {{kind: in_process}}",
            )
        elif isinstance(loss, DivergenceTerm) and loss.temperature != capture.temperature:
            yield (
                f"{key}.temperature",
                f"{loss.temperature:g}, and the teacher was captured at {capture.temperature:g}, "
                f"which serves no other; write temperature: {capture.temperature:g}, or capture it "
                f"anew with capture.temperature: {loss.temperature:g}",
            )
