"""From a recipe's `engine` to what makes the teacher write and score."""

from collections.abc import Callable
from importlib.util import find_spec
from typing import assert_never

from llmkd.models.adapted import adapter_config
from llmkd.models.adapter_configs import beyond_vllm
from llmkd.models.kinds import is_seq2seq
from llmkd.models.load import config_of
from llmkd.recipe.models import PretrainedModel
from llmkd.recipe.schema import GenerateStage, ScoreStage
from llmkd.recipe.teacher_data import (
    Capture,
    Generation,
    SampledCapture,
    ServerEngine,
    TopKCapture,
    TransformersEngine,
    VLLMEngine,
)
from llmkd.recipe.teacher_data import Engine as EngineSettings
from llmkd.teacher_data.engine import Engine
from llmkd.teacher_data.transformers_engine import Loaded, load_for_inference


def engine_of(stage: GenerateStage | ScoreStage) -> EngineSettings:
    """The stage's engine, or the one that is taken where it names none."""
    if stage.engine is not None:
        return stage.engine
    capture, teacher = stage.capture, stage.teacher
    is_beyond_vllm = isinstance(capture, SampledCapture) or (
        isinstance(capture, TopKCapture) and capture.temperature != 1
    )
    if teacher.adapter_name_or_path is not None:
        is_beyond_vllm |= beyond_vllm(adapter_config(teacher.adapter_name_or_path)) is not None
    config = config_of(teacher)
    if find_spec("vllm") is None or is_beyond_vllm or is_seq2seq(config):
        return TransformersEngine()
    return VLLMEngine(kind="vllm")


def build_engine(stage: GenerateStage | ScoreStage) -> Engine:
    """The stage's teacher, loaded by its engine."""
    generation = stage.generation if isinstance(stage, GenerateStage) else None
    return make_engine(stage.teacher, engine_of(stage), generation, stage.capture)


def make_engine(
    source: PretrainedModel,
    settings: EngineSettings,
    generation: Generation | None,
    capture: Capture | None,
    *,
    load: Callable[[PretrainedModel], Loaded] = load_for_inference,
) -> Engine:
    """A model, loaded by an engine.

    Args:
        source: Where the model is.
        settings: Of the engine.
        generation: How it writes; None where it only scores.
        capture: What is kept of its distributions; None where it only writes.
        load: What loads the model and its tokenizer for transformers.
    """
    match settings:
        case TransformersEngine():
            from llmkd.teacher_data.transformers_teacher import TransformersTeacher

            return TransformersTeacher(source, settings, generation, capture, load=load)
        case VLLMEngine():
            from llmkd.teacher_data.vllm_engine import OfflineVLLM
            from llmkd.teacher_data.vllm_replicas import VLLMReplicas

            runs = VLLMReplicas if settings.data_parallel_size > 1 else OfflineVLLM
            return runs(source, settings, generation, capture)
        case ServerEngine():
            from llmkd.teacher_data.server_engine import ServedVLLM

            return ServedVLLM(source, settings, generation, capture)
        case unknown:
            assert_never(unknown)
