"""A train stage, from its part of the recipe to a model folder."""

from pathlib import Path

from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PrinterCallback,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)
from transformers.training_args import OptimizerNames

from llmkd.build import build_student, build_tokenizer_for
from llmkd.build_objective import build_objective
from llmkd.data.kinds import collator_for, tokenizing_for
from llmkd.data.prepare import prepare
from llmkd.data.rationale import WithParts
from llmkd.errors import InputError
from llmkd.models.documents import check_documents_apart, is_flash
from llmkd.models.head import check_head
from llmkd.models.vocabulary import check_covers, shared_vocab_size
from llmkd.progress import progress
from llmkd.recipe.data import Classification, StoreRows
from llmkd.recipe.rationale import StepByStep
from llmkd.recipe.schema import TrainStage
from llmkd.teachers.captured import WithTeacher
from llmkd.teachers.store import StoreSource
from llmkd.training.arguments import head_dtype, training_arguments
from llmkd.training.classification import build_classifiers
from llmkd.training.data_report import DataReport
from llmkd.training.distill_trainer import DistillTrainer
from llmkd.training.engine import EngineReport, check_engine
from llmkd.training.metrics import MetricsFile
from llmkd.training.model_card import model_card
from llmkd.training.parts import Parts
from llmkd.training.running import train_to_model
from llmkd.training.sharding import is_split, loaded_whole, place
from llmkd.training.teachers import build_teacher, check_store_fits
from llmkd.training.trackers import trackers


def run_train(stage: TrainStage, folder: Path, *, name: str, seed: int) -> None:
    """Trains the stage's student and writes `model/`, `metrics.jsonl` and `checkpoints/`.

    Args:
        stage: Its references to other stages are already paths.
        folder: The stage's folder; what an interrupted run left there is continued.
        name: The stage's name, for the progress bar and the model card.
        seed: The run's.

    Raises:
        InputError: Models, tokenizers or data do not fit each other.
    """
    trainer = build_trainer(stage, folder, seed=seed)
    is_padded = stage.student.kind == "scratch" and not isinstance(stage.data, Classification)
    train_to_model(
        trainer,
        folder,
        name=name,
        resume=stage.resume,
        card=model_card(stage, name),
        student=stage.student,
        vocab_size=trainer.vocab_size if is_padded else None,
    )


def build_trainer(stage: TrainStage, folder: Path, *, seed: int) -> DistillTrainer:
    """Everything a train stage needs, checked against each other and ready to train."""
    set_seed(seed)
    arguments = training_arguments(stage.trainer, folder / "checkpoints", seed=seed)
    tokenizer = build_tokenizer_for(stage)
    is_classification = isinstance(stage.data, Classification)
    if is_classification and getattr(stage.student, "lora", None) and is_split(arguments):
        raise InputError(
            "student.lora: a classifier's adapters are not merged from weights in parts; leave it "
            "out, or take DDP, ZeRO-1 or ZeRO-2"
        )
    build = build_classifiers if is_classification else _build_language_models
    with loaded_whole():
        parts = build(stage, tokenizer, arguments, seed=seed)
    data = parts.data
    callbacks: list[TrainerCallback] = [MetricsFile(folder / "metrics.jsonl")]
    if arguments.process_index == 0:
        callbacks.append(DataReport(data, folder / "data.json"))
    callbacks += trackers(stage.trainer.get("report_to"), arguments, folder)
    trainer = DistillTrainer(
        objective=build_objective(
            stage,
            max_steps=_num_steps(arguments, data.counts.num_sequences),
            compute_dtype=head_dtype(arguments),
        ),
        teacher=parts.teacher,
        vocab_size=parts.vocab_size,
        lengths=data.lengths,
        term_gradient_steps=stage.term_gradient_steps,
        on_nonfinite_loss=stage.on_nonfinite_loss,
        model=parts.models["student"],
        args=arguments,
        train_dataset=data.dataset,
        data_collator=parts.collate,
        processing_class=tokenizer,
        callbacks=callbacks,
    )
    check_engine(trainer)
    _check_term_gradients(trainer)
    _check_skipping(trainer)
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(EngineReport(trainer))
    return trainer


def _build_language_models(
    stage: TrainStage,
    tokenizer: PreTrainedTokenizerBase,
    arguments: TrainingArguments,
    *,
    seed: int,
) -> Parts:
    source = stage.data
    assert not isinstance(source, Classification)
    student = build_student(stage, tokenizer)
    vocab_size = shared_vocab_size(tokenizer)
    _check_model(student, vocab_size, "student", arguments)
    if isinstance(source, StoreRows):
        check_store_fits(source.path, student, tokenizer)
    built = build_teacher(stage, student, tokenizer, arguments)
    models = {"student": student}
    if built is not None and built.model is not None:
        models["teacher"] = built.model
    tokenizing = tokenizing_for(student.config, "student")
    with arguments.main_process_first(desc="tokenize"), progress("data") as moved:
        data = prepare(source, tokenizer, seed=seed, progress=moved, tokenizing=tokenizing)
    is_flat = any(map(is_flash, models.values()))
    collate = collator_for(student.config, tokenizer, is_flat=is_flat)
    if data.sequences.packing:
        for name, model in models.items():
            check_documents_apart(model, collate, name)
    if built is not None and built.source is not None:
        if isinstance(built.source, StoreSource):
            built.source.check_has_all(data)
        collate = WithTeacher(collate, built.source)
    if isinstance(data.sequences.rationale, StepByStep):
        collate = WithParts(collate)
    parts = Parts(models, built and built.teacher, vocab_size, data, collate)
    parts.check_lengths(stage)
    return parts


def _check_term_gradients(trainer: DistillTrainer) -> None:
    if trainer.term_gradient_steps and trainer.is_deepspeed_enabled:
        raise InputError(
            "term_gradient_steps: DeepSpeed keeps the gradients to itself; leave it out, or train "
            "without DeepSpeed"
        )


def _check_skipping(trainer: DistillTrainer) -> None:
    if trainer.on_nonfinite_loss == "skip" and (reason := _skip_refusal(trainer)):
        raise InputError(f"on_nonfinite_loss: skip is not possible {reason}; write stop")


def _skip_refusal(trainer: DistillTrainer) -> str | None:
    if trainer.is_deepspeed_enabled:
        return "with DeepSpeed, which takes its steps by itself"
    if trainer.args.fp16:
        return "with fp16, whose loss scaler leaves out steps by itself"
    optimizer = OptimizerNames(trainer.args.optim).value
    if "lomo" in optimizer or "layerwise" in optimizer:
        return f"with {optimizer}, which moves the weights during the backward pass"
    return None


def _check_model(
    model: PreTrainedModel, vocab_size: int, name: str, arguments: TrainingArguments
) -> None:
    place(model, arguments)
    check_head(model, name)
    check_covers(model, vocab_size, name)


def _num_steps(arguments: TrainingArguments, num_rows: int) -> int:
    """Optimizer steps of the whole training, as `Trainer` counts them."""
    if arguments.max_steps > 0:
        return arguments.max_steps
    per_rank = -(-num_rows // (arguments.train_batch_size * arguments.world_size))
    per_epoch = -(-per_rank // arguments.gradient_accumulation_steps)
    return max(1, int(-(-per_epoch * arguments.num_train_epochs // 1)))
