"""From a recipe's `engine` to what makes the teacher write and score."""

from importlib.util import find_spec
from typing import assert_never

from transformers import AutoConfig

from llmkd.models.adapted import adapter_config
from llmkd.models.adapter_configs import beyond_vllm
from llmkd.models.kinds import is_seq2seq
from llmkd.recipe.schema import GenerateStage, ScoreStage
from llmkd.recipe.teacher_data import Engine as EngineSettings
from llmkd.recipe.teacher_data import (
    SampledCapture,
    ServerEngine,
    TopKCapture,
    TransformersEngine,
    VLLMEngine,
)
from llmkd.teacher_data.engine import Engine


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
    config = AutoConfig.from_pretrained(teacher.model_name_or_path, revision=teacher.revision)
    if find_spec("vllm") is None or is_beyond_vllm or is_seq2seq(config):
        return TransformersEngine()
    return VLLMEngine(kind="vllm")


def build_engine(stage: GenerateStage | ScoreStage) -> Engine:
    """The stage's teacher, loaded by its engine."""
    generation = stage.generation if isinstance(stage, GenerateStage) else None
    match engine_of(stage):
        case TransformersEngine() as settings:
            from llmkd.teacher_data.transformers_teacher import TransformersTeacher

            return TransformersTeacher(stage.teacher, settings, generation, stage.capture)
        case VLLMEngine() as settings:
            from llmkd.teacher_data.vllm_engine import OfflineVLLM
            from llmkd.teacher_data.vllm_replicas import VLLMReplicas

            runs = VLLMReplicas if settings.data_parallel_size > 1 else OfflineVLLM
            return runs(stage.teacher, settings, generation, stage.capture)
        case ServerEngine() as settings:
            from llmkd.teacher_data.server_engine import ServedVLLM

            return ServedVLLM(stage.teacher, settings, generation, stage.capture)
        case unknown:
            assert_never(unknown)
