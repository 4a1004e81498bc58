"""Which terms a captured teacher serves: what was not kept cannot be compared with. No torch."""

from collections.abc import Iterator, Mapping, Sequence
from typing import get_args

from llmkd.recipe.base import referenced_stage
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
from llmkd.recipe.models import ServerTeacher, StoreTeacher
from llmkd.recipe.places import Problem
from llmkd.recipe.schema import GenerateStage, ScoreStage, Stage, TeacherDataStage, TrainStage
from llmkd.recipe.teacher_data import Capture, SampledCapture, ServerEngine, TopKCapture, VLLMEngine
from llmkd.recipe.yaml_places import Key

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


NO_CAPTURE = (
    "keeps the teacher's text and none of its log-probabilities; write capture: {kind: top_k} in the "
    "generate stage, or losses: [{kind: cross_entropy}] without a teacher"
)


def engine_problems(stage: TeacherDataStage, key: Key) -> Iterator[Problem]:
    """What a stage's engine cannot capture."""
    assert isinstance(stage, GenerateStage | ScoreStage)
    engine, capture = stage.engine, stage.capture
    if not isinstance(engine, VLLMEngine | ServerEngine) or capture is None:
        return
    if isinstance(capture, SampledCapture):
        yield Problem(
            (*key, "capture", "kind"),
            f"engine {engine.kind} does not draw from the whole distribution; write engine: {{kind: "
            "transformers}, or capture: {kind: top_k}",
        )
    elif capture.temperature != 1:
        yield Problem(
            (*key, "capture", "temperature"),
            f"engine {engine.kind} gives log-probabilities at temperature 1; write 1, or engine: "
            "{kind: transformers}",
        )


def captured_teacher_problems(
    stage: TrainStage, key: Key, stages: Mapping[str, Stage]
) -> Iterator[Problem]:
    """What is wrong with a stage whose teacher is captured by a stage of the same recipe, or served.

    Args:
        stage: The train stage.
        key: Its own.
        stages: All that are known.
    """
    capture: Capture | None = None
    match stage.teacher:
        case StoreTeacher(path=path):
            source = stages.get(referenced_stage(path) or "")
            if not isinstance(source, TeacherDataStage):
                return
            assert isinstance(source, GenerateStage | ScoreStage)
            capture = source.capture
            if capture is None:
                yield Problem((*key, "teacher", "path"), f"{path} {NO_CAPTURE}")
        case ServerTeacher(top_k=top_k):
            capture = TopKCapture(top_k=top_k)
        case _:
            return
    for place, message in capture_problems(stage.losses, capture) if capture else ():
        yield Problem((*key, *place), message)


def capture_problems(losses: Sequence[Loss], capture: Capture) -> Iterator[tuple[Key, str]]:
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
        key: Key = ("losses", index)
        if not isinstance(loss, TeacherTerm):
            continue
        if not isinstance(loss, served):
            kept = "drawn tokens" if is_sampled else "likeliest tokens"
            names = ", ".join(get_args(term.model_fields["kind"].annotation)[0] for term in served)
            whole = "batches of whole distributions" if isinstance(loss, BatchTerm) else "more"
            yield (
                (*key, "kind"),
                f"{loss.kind} needs {whole}, and of the teacher only the {kept} were kept; write "
                f"kind: {names}, or a teacher {{kind: in_process}}",
            )
        elif isinstance(loss, DivergenceTerm) and loss.temperature != capture.temperature:
            yield (
                (*key, "temperature"),
                f"{loss.temperature:g}, and the teacher was captured at {capture.temperature:g}, "
                f"which serves no other; write temperature: {capture.temperature:g}, or capture it "
                f"anew with capture.temperature: {loss.temperature:g}",
            )
