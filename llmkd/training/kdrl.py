"""A kdrl stage, from its part of the recipe to a model folder."""

from pathlib import Path
from typing import Any

from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PrinterCallback,
    TrainerCallback,
    set_seed,
)
from trl import GRPOConfig

from llmkd.build_kdrl import build_distillation
from llmkd.data.chat import read_chat_template
from llmkd.data.rollouts import rollout_prompts
from llmkd.errors import InputError
from llmkd.models.adapters import attach
from llmkd.models.head import check_head
from llmkd.models.kinds import is_seq2seq
from llmkd.models.load import load_model, tokenizer_of
from llmkd.models.positions import check_positions
from llmkd.models.vocabulary import check_covers, shared_vocab_size
from llmkd.progress import progress
from llmkd.recipe.data import PromptRows
from llmkd.recipe.grpo_arguments import GRPO_DEFAULTS, too_few_prompts
from llmkd.recipe.kdrl import KDRLStage, OPDThenRL, SwitchAtPlateau
from llmkd.recipe.models import PretrainedStudent
from llmkd.recipe.reward_checks import correct_reward
from llmkd.rewards.rollouts import reward_functions
from llmkd.training.arguments import build_arguments
from llmkd.training.engine import EngineReport, check_engine
from llmkd.training.guards import Guards
from llmkd.training.kdrl_trainer import KDRLTrainer
from llmkd.training.metrics import MetricsFile
from llmkd.training.model_card import kdrl_card
from llmkd.training.phases import Phases, Plateau
from llmkd.training.rollout_files import RolloutsFile, ValidationFile
from llmkd.training.rollout_teachers import build_rollout_teacher
from llmkd.training.running import train_to_model
from llmkd.training.sharding import loaded_whole, place
from llmkd.training.trackers import trackers


def run_kdrl(stage: KDRLStage, folder: Path, *, name: str, seed: int) -> None:
    """Trains the stage's student and writes `model/`, `metrics.jsonl` and `checkpoints/`.

    Args:
        stage: Its references to other stages are already paths.
        folder: The stage's folder; what an interrupted run left there is continued.
        name: The stage's name, for the progress bar and the model card.
        seed: The run's.

    Raises:
        InputError: Models, tokenizers, rewards or data do not fit each other.
        LlmkdError: A guard stopped the run.
    """
    trainer = build_kdrl_trainer(stage, folder, seed=seed)
    train_to_model(
        trainer,
        folder,
        name=name,
        resume=stage.resume,
        card=kdrl_card(stage, name),
        student=stage.student,
    )


def build_kdrl_trainer(stage: KDRLStage, folder: Path, *, seed: int) -> KDRLTrainer:
    """Everything a kdrl stage needs, checked against each other and ready to train."""
    set_seed(seed)
    # Before anything large: they may be the user's own code.
    rewards = reward_functions(stage.reward_funcs)
    arguments = grpo_arguments(stage, folder / "checkpoints", seed=seed)
    tokenizer = _tokenizer(stage)
    phases = Phases(stage.objective)
    teacher = None
    with loaded_whole():
        student = _student(stage.student, tokenizer, arguments)
        if stage.teacher is not None:
            teacher = build_rollout_teacher(stage.teacher, student, tokenizer, arguments)
    with arguments.main_process_first(desc="tokenize"), progress("data") as moved:
        train, longest = rollout_prompts(
            stage.data, tokenizer, student.config, seed=seed, progress=moved
        )
        validation = None
        if stage.validation is not None:
            validation, longest_validated = rollout_prompts(
                stage.validation.data, tokenizer, student.config, seed=seed, progress=moved
            )
            longest = max(longest, longest_validated)
    if problem := too_few_prompts(len(train), vars(arguments)):
        raise InputError(f"data: {problem}")
    check_positions(student, longest + int(arguments.max_completion_length or 0), "data (student)")
    try:
        trainer = KDRLTrainer(
            distillation=None if teacher is None else build_distillation(stage, teacher, phases),
            model=student,
            args=arguments,
            reward_funcs=rewards,
            train_dataset=train,
            eval_dataset=validation,
            processing_class=tokenizer,
            callbacks=_callbacks(stage, phases, arguments, folder),
        )
    except ImportError as error:
        raise InputError(f"trainer: {error}; install it, or leave out what asks for it") from error
    check_engine(trainer)
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(EngineReport(trainer))
    trainer.add_callback(RolloutsFile(folder / "rollouts.jsonl", trainer))
    return trainer


def grpo_arguments(stage: KDRLStage, checkpoints: Path, *, seed: int) -> GRPOConfig:
    """The stage's `trainer` block, with what the rest of the stage says of the same.

    Raises:
        InputError: TRL refuses the values.
    """
    own: dict[str, Any] = {
        "reward_weights": [reward.weight for reward in stage.reward_funcs],
        # For what TRL loads by the student's name: its reference, and vLLM.
        "trust_remote_code": stage.student.trust_remote_code,
    }
    if stage.validation is not None:
        own |= {
            "eval_strategy": "steps",
            "eval_steps": stage.validation.steps,
            "eval_on_start": True,
            "num_generations_eval": 1,
            "per_device_eval_batch_size": stage.trainer.get("per_device_train_batch_size", 8),
        }
    values = GRPO_DEFAULTS | stage.trainer
    if stage.trainer.get("gradient_checkpointing"):
        # transformers' older name for the same, which the newer one would silence.
        values["activation_checkpointing"] = True
    return build_arguments(GRPOConfig, values, checkpoints, seed=seed, own=own)


def _tokenizer(stage: KDRLStage) -> PreTrainedTokenizerBase:
    tokenizer = tokenizer_of(stage.student)
    if isinstance(stage.data, PromptRows) and stage.data.chat_template is not None:
        tokenizer.chat_template = read_chat_template(stage.data.chat_template)
    return tokenizer


def _student(
    source: PretrainedStudent, tokenizer: PreTrainedTokenizerBase, arguments: GRPOConfig
) -> PreTrainedModel:
    student = load_model(source)
    if is_seq2seq(student.config):
        raise InputError(
            f"student: {source.name} has an encoder and a decoder, and TRL's GRPO trains causal "
            "models; write a causal one"
        )
    check_head(student, "student")
    check_covers(student, shared_vocab_size(tokenizer), "student")
    place(student, arguments)
    # peft wraps the model and passes everything through to it.
    return student if source.lora is None else attach(student, source.lora, [])  # pyright: ignore[reportReturnType]


def _callbacks(
    stage: KDRLStage, phases: Phases, arguments: GRPOConfig, folder: Path
) -> list[TrainerCallback]:
    callbacks: list[TrainerCallback] = [
        phases,
        Guards(stage.guards, phases),
        MetricsFile(folder / "metrics.jsonl"),
    ]
    if stage.validation is not None:
        callbacks.append(ValidationFile(folder / "validation.jsonl"))
    if isinstance(stage.objective, OPDThenRL) and isinstance(
        stage.objective.switch, SwitchAtPlateau
    ):
        correct = stage.reward_funcs[correct_reward(stage.reward_funcs)]
        callbacks.append(Plateau(stage.objective.switch, phases, correct.name or correct.kind))
    return callbacks + trackers(stage.trainer.get("report_to"), arguments, folder)
