"""A train stage, from its part of the recipe to a model folder."""

import shutil
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi
from transformers import (
    AutoConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PrinterCallback,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)

from llmkd.build import build_student, build_tokenizer_for
from llmkd.build_objective import build_objective
from llmkd.data.kinds import collator_for, tokenizing_for
from llmkd.data.prepare import prepare
from llmkd.data.rationale import WithParts
from llmkd.errors import InputError
from llmkd.models.documents import check_documents_apart, is_flash
from llmkd.models.head import check_head, output_head
from llmkd.models.kinds import auto_class
from llmkd.models.save import CARD, MODEL
from llmkd.models.vocabulary import check_covers, shared_vocab_size
from llmkd.progress import progress, say
from llmkd.recipe.data import Classification, StoreRows
from llmkd.recipe.rationale import StepByStep
from llmkd.recipe.schema import TrainStage
from llmkd.teachers.captured import WithTeacher
from llmkd.teachers.store import StoreSource
from llmkd.training.arguments import head_dtype, training_arguments
from llmkd.training.checkpoints import (
    newest_checkpoint,
    publish,
    removed_on_failure,
    set_aside_after,
)
from llmkd.training.classification import build_classifiers
from llmkd.training.data_report import DataReport
from llmkd.training.distill_trainer import DistillTrainer
from llmkd.training.engine import EngineReport
from llmkd.training.interruption import EXIT_STATUS, SaveOnSigterm
from llmkd.training.metrics import STATE_FILE, MetricsFile
from llmkd.training.model_card import model_card
from llmkd.training.parts import Parts
from llmkd.training.progress import ProgressBar
from llmkd.training.teachers import build_teacher, check_store_fits
from llmkd.training.trackers import Trackers, tracker_names


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
    checkpoint = _checkpoint(stage.resume, folder / "checkpoints")
    if checkpoint:
        say(f"{name}: continues from {checkpoint}")
    interruption = SaveOnSigterm()
    trainer.add_callback(interruption)
    with progress(name) as moved:
        trainer.add_callback(ProgressBar(moved))
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    if interruption.is_interrupted:
        raise SystemExit(EXIT_STATUS)
    _write_model(trainer, stage, folder, name)
    # A rank that leaves with its communication threads alive can be aborted by the C++ runtime.
    trainer.accelerator.wait_for_everyone()
    trainer.accelerator.end_training()


def build_trainer(stage: TrainStage, folder: Path, *, seed: int) -> DistillTrainer:
    """Everything a train stage needs, checked against each other and ready to train."""
    set_seed(seed)
    arguments = training_arguments(stage.trainer, folder / "checkpoints", seed=seed)
    tokenizer = build_tokenizer_for(stage)
    is_classification = isinstance(stage.data, Classification)
    build = build_classifiers if is_classification else _build_language_models
    parts = build(stage, tokenizer, arguments, seed=seed)
    data = parts.data
    callbacks: list[TrainerCallback] = [MetricsFile(folder / "metrics.jsonl")]
    if arguments.process_index == 0:
        callbacks.append(DataReport(data, folder / "data.json"))
    callbacks += _trackers(stage, arguments, folder)
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
        model=parts.models["student"],
        args=arguments,
        train_dataset=data.dataset,
        data_collator=parts.collate,
        processing_class=tokenizer,
        callbacks=callbacks,
    )
    _check_engine(trainer)
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


def _trackers(
    stage: TrainStage, arguments: TrainingArguments, folder: Path
) -> list[TrainerCallback]:
    # TrainingArguments adds Kubeflow's by itself, and Trainer builds what is named there.
    added, arguments.report_to = arguments.report_to, []
    wanted = [*tracker_names(stage.trainer.get("report_to")), *(added or [])]
    names = list(dict.fromkeys(wanted))
    return [Trackers(names, folder)] if names and arguments.process_index == 0 else []


def _check_engine(trainer: DistillTrainer) -> None:
    plugin = trainer.accelerator.state.deepspeed_plugin
    if trainer.is_fsdp_enabled or (plugin is not None and plugin.zero_stage == 3):
        raise InputError(
            "trainer: the output head's weights are not whole under ZeRO stage 3 and FSDP, and "
            "llmkd does not gather them yet; write ZeRO stage 1 or 2, or plain DDP"
        )
    if trainer.term_gradient_steps and plugin is not None:
        raise InputError(
            "term_gradient_steps: DeepSpeed keeps the gradients to itself; leave it out, or train "
            "without DeepSpeed"
        )


def _check_model(
    model: PreTrainedModel, vocab_size: int, name: str, arguments: TrainingArguments
) -> None:
    # Some kernels, flash attention among them, run on the accelerator only.
    model.to(arguments.device)  # pyright: ignore[reportArgumentType]
    check_head(model, name)
    check_covers(model, vocab_size, name)


def _num_steps(arguments: TrainingArguments, num_rows: int) -> int:
    """Optimizer steps of the whole training, as `Trainer` counts them."""
    if arguments.max_steps > 0:
        return arguments.max_steps
    per_rank = -(-num_rows // (arguments.train_batch_size * arguments.world_size))
    per_epoch = -(-per_rank // arguments.gradient_accumulation_steps)
    return max(1, int(-(-per_epoch * arguments.num_train_epochs // 1)))


def _checkpoint(resume: str, folder: Path) -> Path | None:
    match resume:
        case "auto":
            return newest_checkpoint(folder)
        case "never":
            shutil.rmtree(folder, ignore_errors=True)
            return None
        case path if (Path(path) / STATE_FILE).is_file():
            set_aside_after(Path(path), folder)
            return Path(path)
        case path:
            raise InputError(
                f"resume: {path} is no checkpoint of llmkd; write auto, never, or the path of a "
                "whole checkpoint-N folder"
            )


def _write_model(trainer: DistillTrainer, stage: TrainStage, folder: Path, name: str) -> None:
    """`model/` with whole weights, and `adapter/` where there is one; each appears by a rename."""
    saved, merged = folder / "checkpoints" / ".final", folder / "checkpoints" / ".merged"
    with removed_on_failure(saved), removed_on_failure(merged):
        trainer.save_model(str(saved), _internal_call=True)
        if not trainer.args.should_save:
            return
        (saved / "training_args.bin").unlink(missing_ok=True)
        if stage.student.kind == "pretrained" and stage.student.lora is not None:
            publish(saved, folder / "adapter")
            saved = merged
            unwrapped: Any = trainer.accelerator.unwrap_model(trainer.model)
            unwrapped.merge_and_unload().save_pretrained(saved)
            assert isinstance(trainer.processing_class, PreTrainedTokenizerBase)
            trainer.processing_class.save_pretrained(saved)
        if stage.student.kind == "scratch" and not isinstance(stage.data, Classification):
            _cut_padding(saved, trainer.vocab_size)
        (saved / CARD).write_text(model_card(stage, name))
        publish(saved, folder / MODEL)
    if trainer.args.push_to_hub:
        assert trainer.hub_model_id is not None
        # Not Trainer.push_to_hub, which uploads the folder of checkpoints.
        HfApi(token=trainer.args.hub_token).upload_folder(
            repo_id=trainer.hub_model_id,
            folder_path=folder / MODEL,
            commit_message=f"{name}, made with llmkd",
        )


def _cut_padding(folder: Path, vocab_size: int) -> None:
    """Leaves out embeddings beyond the tokenizer: training never saw them, so they are random."""
    model = auto_class(AutoConfig.from_pretrained(folder)).from_pretrained(folder, dtype="auto")
    if len(output_head(model).weight) > vocab_size:
        say(f"model: {len(output_head(model).weight) - vocab_size} padded embeddings left out")
        model.resize_token_embeddings(vocab_size)
        model.save_pretrained(folder)
