"""A trainer's whole way: from the newest checkpoint to a model folder."""

from pathlib import Path
from typing import Any

from huggingface_hub import HfApi
from transformers import AutoConfig, PreTrainedModel, PreTrainedTokenizerBase, Trainer

from llmkd.exit_statuses import TERMINATED
from llmkd.models.adapted import merged as adapted
from llmkd.models.head import output_head
from llmkd.models.kinds import auto_class
from llmkd.models.load import load_model
from llmkd.models.save import CARD, MODEL
from llmkd.progress import progress, say
from llmkd.recipe.models import PretrainedStudent, StudentSource
from llmkd.training.checkpoints import publish, removed_on_failure
from llmkd.training.engine import check_engine_of
from llmkd.training.finite_steps import FiniteSteps
from llmkd.training.interruption import SaveOnSigterm
from llmkd.training.progress import ProgressBar
from llmkd.training.ranks import from_main
from llmkd.training.resuming import checkpoint_to_resume
from llmkd.training.sharding import is_split, loaded_whole


def train_to_model(
    trainer: FiniteSteps,
    folder: Path,
    *,
    name: str,
    resume: str,
    card: str,
    student: StudentSource,
    vocab_size: int | None = None,
) -> None:
    """Trains, and writes `model/`, with an `adapter/` beside it where that is what was trained.

    Args:
        trainer: Ready to train.
        folder: The stage's folder; what an interrupted run left there is continued.
        name: The stage's name, for the progress bar and the hub.
        resume: As the recipe has it.
        card: The model's README.
        student: What it was before the training.
        vocab_size: Embeddings beyond these are left out of the model; None keeps all.

    Raises:
        InputError: `resume` names no whole checkpoint, or one of another engine.
        SystemExit: SIGTERM came; a checkpoint is saved.
    """
    checkpoints = folder / "checkpoints"
    checkpoint = from_main(
        trainer.accelerator,
        lambda: checkpoint_to_resume(
            resume, checkpoints, name, lambda found: check_engine_of(found, trainer)
        ),
    )
    if checkpoint and trainer.is_world_process_zero():
        say(f"{name}: continues from {checkpoint}")
    interruption = SaveOnSigterm(trainer)
    trainer.add_callback(interruption)
    with progress(name) as moved:
        trainer.add_callback(ProgressBar(moved))
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    saved = checkpoints / ".final"
    with removed_on_failure(saved):
        if not interruption.is_interrupted:
            trainer.save_model(str(saved), _internal_call=True)
        # A rank that leaves with its communication threads alive can be aborted by the C++ runtime.
        trainer.accelerator.wait_for_everyone()
        trainer.accelerator.end_training()
        if interruption.is_interrupted:
            raise SystemExit(TERMINATED)
        # However long it takes, by now nobody waits for it.
        if trainer.args.should_save:
            _write_model(trainer, saved, folder, name, card, student, vocab_size)


def _write_model(
    trainer: Trainer,
    saved: Path,
    folder: Path,
    name: str,
    card: str,
    student: StudentSource,
    vocab_size: int | None,
) -> None:
    """`model/` with whole weights, and `adapter/` where there is one; each appears by a rename.

    For the main process alone; `saved` has the whole weights of what was trained.
    """
    merged = folder / "checkpoints" / ".merged"
    with removed_on_failure(merged), loaded_whole():
        (saved / "training_args.bin").unlink(missing_ok=True)
        unwrapped: Any = trainer.accelerator.unwrap_model(trainer.model)
        if hasattr(unwrapped, "peft_config"):
            adapter = publish(saved, folder / "adapter")
            saved = merged
            _merged(unwrapped, student, adapter, is_split(trainer.args)).save_pretrained(saved)
            assert isinstance(trainer.processing_class, PreTrainedTokenizerBase)
            trainer.processing_class.save_pretrained(saved)
        if vocab_size is not None:
            _cut_padding(saved, vocab_size)
        (saved / CARD).write_text(card)
        publish(saved, folder / MODEL)
    if trainer.args.push_to_hub:
        assert trainer.hub_model_id is not None
        # Not Trainer.push_to_hub, which uploads the folder of checkpoints.
        HfApi(token=trainer.args.hub_token).upload_folder(
            repo_id=trainer.hub_model_id,
            folder_path=folder / MODEL,
            commit_message=f"{name}, made with llmkd",
        )


def _merged(
    trained: Any, student: StudentSource, adapter: Path, is_in_parts: bool
) -> PreTrainedModel:
    if not is_in_parts:
        return trained.merge_and_unload()
    assert isinstance(student, PretrainedStudent), "others have no adapters"
    return adapted(load_model(student), str(adapter))


def _cut_padding(folder: Path, vocab_size: int) -> None:
    """Leaves out embeddings beyond the tokenizer: training never saw them, so they are random."""
    model = auto_class(AutoConfig.from_pretrained(folder, trust_remote_code=False)).from_pretrained(
        folder, dtype="auto"
    )
    if len(output_head(model).weight) > vocab_size:
        say(f"model: {len(output_head(model).weight) - vocab_size} padded embeddings left out")
        model.resize_token_embeddings(vocab_size)
        model.save_pretrained(folder)
