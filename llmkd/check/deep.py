"""The whole recipe in miniature: every stage loads what it must and does one batch.

Nothing is written to the run folder. A stage that is finished there lends its product to the later
ones; of one that is not, a stand-in is made in a temporary folder: the student as it is before
training, or a few rows in the shape of what a teacher would write.
"""

import gc
import math
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from llmkd.check.deep_kdrl import try_kdrl
from llmkd.check.miniature import FEW_ROWS, FEW_TOKENS, at_most, in_miniature
from llmkd.check.stand_ins import MOST_ROWS, link_first_model, write_curated, write_rows
from llmkd.data.cache import tokenized
from llmkd.data.classification import labelled_rows
from llmkd.data.prompts import PromptTokenize, answered
from llmkd.data.sources import load_rows
from llmkd.data.task_rows import write_task_rows
from llmkd.errors import LlmkdError
from llmkd.evaluation.evaluate import evaluate
from llmkd.pruning.run import run_prune
from llmkd.recipe.base import referenced_stage
from llmkd.recipe.cross_checks import MODEL_KINDS
from llmkd.recipe.data import (
    AdditionTask,
    CompletionTask,
    DatasetSource,
    DataSource,
    LabelledRows,
    Mixture,
    SequenceLengths,
    StoreRows,
)
from llmkd.recipe.evaluation import Suite
from llmkd.recipe.models import StoreTeacher
from llmkd.recipe.references import expanded, resolved
from llmkd.recipe.schema import (
    CurateStage,
    EvaluateStage,
    GenerateStage,
    KDRLStage,
    MergeStage,
    PruneStage,
    ScoreStage,
    Stage,
    TaskRowsStage,
    TrainStage,
)
from llmkd.recipe.teacher_data import Capture, TransformersEngine
from llmkd.run_folder import read_stage
from llmkd.run_plan import Run
from llmkd.teacher_data.capture import run_capture, tokenizer_and_config
from llmkd.teacher_data.transformers_engine import generate_from_ids, load_for_inference
from llmkd.training.classification import stage_labels
from llmkd.training.distill_trainer import DistillTrainer
from llmkd.training.metrics import peak_memory_gib
from llmkd.training.train import build_trainer

BATCHES_READ = 4
"""Batches' worth of rows that are read of the data."""
STAND_IN_ROWS = 256
"""Rows of a stand-in for a teacher store."""


@dataclass(frozen=True)
class Batch:
    """What one optimizer step's batch gave, before any training."""

    num_tokens: int
    """Trained tokens of the step."""
    loss: float
    losses: dict[str, float]
    """Mean of each term, unweighted, and the diagnostics."""
    grad_norm: float
    grad_norms: dict[str, float]
    """Of each term by itself, weight included."""
    seconds: float
    peak_memory_gib: float
    """The most memory held so far: the accelerator's, or on a CPU the whole process's."""

    @property
    def problems(self) -> list[str]:
        """What is not finite, in words."""
        named = {"loss": self.loss, **self.losses, "grad_norm": self.grad_norm, **self.grad_norms}
        return [f"{name} is {value}" for name, value in named.items() if not math.isfinite(value)]


@dataclass(frozen=True)
class StageTried:
    """What became of one stage."""

    name: str
    kind: str
    stand_ins: list[str]
    """Stages that are not finished, and were stood in for."""
    batch: Batch | None
    """Of a train stage."""

    def as_data(self) -> dict[str, Any]:
        """Plain data for `--json`; a number that is not finite is null."""
        return _finite(asdict(self))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def try_stages(job: Run, *, told: Callable[[str], None]) -> Iterator[StageTried]:
    """Tries every stage, in order.

    Args:
        job: The recipe and its folder, which is only read.
        told: Called with a stage's name before it is tried.

    Raises:
        InputError: A stage's parts cannot be loaded, or do not fit each other.
        LlmkdError: A loss or a gradient is not finite.
    """
    with tempfile.TemporaryDirectory(prefix="llmkd-check-") as folder:
        products = _Products(job, Path(folder))
        for name, stage in job.recipe.stages.items():
            told(name)
            stand_ins: list[str] = []
            whole = resolved(job.stage(name), products.rewriting(stand_ins))
            batch = _try(whole, products.folder(name), job.recipe.seed)
            # A trainer is held by its own callbacks, and its models with it.
            gc.collect()
            yield StageTried(name, stage.kind, list(dict.fromkeys(stand_ins)), batch)
            if batch is not None and batch.problems:
                raise LlmkdError(
                    f"stages.{name}: {', '.join(batch.problems)} on the first batch; look at that "
                    "term's weight and temperature, at the data, and at dtype and trainer.bf16"
                )


class _Products:
    """Where each stage's product is: in the run folder, or a stand-in."""

    def __init__(self, job: Run, root: Path):
        self.job = job
        self.root = root

    def folder(self, name: str) -> Path:
        return self.root / name

    def rewriting(self, stand_ins: list[str]) -> Callable[[str], str]:
        def rewrite(value: str) -> str:
            name = referenced_stage(value)
            if name is None:
                return expanded(value)
            state = read_stage(self.job.stage_folder(name))
            if state is not None and state.is_finished and self.job.has_product(name):
                return self.job.product(name)
            stand_ins.append(name)
            is_model = self.job.recipe.stages[name].kind in MODEL_KINDS
            return str(self.folder(name) / "model" if is_model else self.folder(name))

        return rewrite


def _try(stage: Stage, folder: Path, seed: int) -> Batch | None:
    match stage:
        case TrainStage():
            return _try_train(stage, folder, seed)
        case KDRLStage():
            try_kdrl(stage, folder, seed)
        case TaskRowsStage():
            few = stage.data.model_copy(update=at_most(stage.data, MOST_ROWS))
            write_task_rows(stage.model_copy(update={"data": few}), folder, seed=seed)
        case GenerateStage():
            _try_generate(stage, folder, seed)
        case ScoreStage():
            _try_score(stage, folder, seed)
        case MergeStage():
            link_first_model(stage, folder)
        case CurateStage():
            write_curated(stage, folder)
        case PruneStage():
            _try_prune(stage, folder, seed)
        case EvaluateStage():
            _try_evaluate(stage, seed)
    return None


def _try_train(stage: TrainStage, folder: Path, seed: int) -> Batch:
    few = _with_few_rows(_with_rows_of_store(_with_labels(stage, seed)))
    trainer = build_trainer(few, folder, seed=seed)
    batch = _one_batch(trainer)
    model: Any = trainer.model
    if stage.student.kind == "pretrained" and stage.student.lora is not None:
        model = model.merge_and_unload()
    model.save_pretrained(folder / "model")
    assert isinstance(trainer.processing_class, PreTrainedTokenizerBase)
    trainer.processing_class.save_pretrained(folder / "model")
    return batch


def _one_batch(trainer: DistillTrainer) -> Batch:
    started, model = time.perf_counter(), trainer.model
    assert isinstance(model, torch.nn.Module)
    torch.nn.Module.to(model, trainer.args.device).train()
    loader = iter(trainer.get_train_dataloader())
    num_batches = trainer.args.gradient_accumulation_steps
    batches, counts = trainer.get_batch_samples(loader, num_batches, trainer.args.device)
    with torch.no_grad(), trainer.compute_loss_context_manager():
        for batch in batches:
            trainer.compute_loss(model, trainer._prepare_inputs(batch), num_items_in_batch=counts)
    means = trainer.step_metrics.flush(trainer.accelerator)
    return Batch(
        num_tokens=int(counts.max()),
        loss=means["loss"],
        losses={
            k: v
            for k, v in means.items()
            if k.startswith("loss/") or k in ("kl", "teacher_nll", "teacher_mse")
        },
        grad_norm=trainer.gradient_norm(trainer.objective, batches, counts),
        grad_norms=trainer.term_gradient_norms(batches, counts),
        seconds=time.perf_counter() - started,
        peak_memory_gib=peak_memory_gib(trainer.accelerator.device),
    )


def _with_labels(stage: TrainStage, seed: int) -> TrainStage:
    """With the labels of all rows written out, as a few rows do not have them all."""
    if not isinstance(stage.data, LabelledRows):
        return stage
    labels = stage_labels(stage, labelled_rows(stage.data, seed=seed))
    return stage.model_copy(update={"data": stage.data.model_copy(update={"labels": labels})})


def _with_rows_of_store(stage: TrainStage) -> TrainStage:
    """With the store's own rows in place of others, of which a stand-in may have none."""
    if not isinstance(stage.teacher, StoreTeacher):
        return stage
    lengths = {}
    if isinstance(stage.data, SequenceLengths):
        lengths = stage.data.model_dump(include={*SequenceLengths.model_fields})
    rows = StoreRows(kind="store", path=stage.teacher.path, **lengths)
    return stage.model_copy(update={"data": rows})


def _with_few_rows(stage: TrainStage) -> TrainStage:
    """Enough rows for a few batches; reading and tokenizing all of them is the training's work."""
    batch = stage.trainer.get("per_device_train_batch_size", 8)
    most = BATCHES_READ * batch * stage.trainer.get("gradient_accumulation_steps", 1)
    # Nothing is tracked, uploaded or measured now and then.
    trainer = {**stage.trainer, "report_to": "none", "push_to_hub": False}
    data = _few_rows(stage.data, most)
    update = {"data": data, "trainer": trainer, "term_gradient_steps": None}
    return stage.model_copy(update=update)


def _few_rows(data: DataSource, most: int) -> DataSource:
    if isinstance(data, Mixture):
        sources = [source.model_copy(update=at_most(source, most)) for source in data.sources]
        return data.model_copy(update={"sources": sources, "num_examples": None})
    return data.model_copy(update=at_most(data, most))


def _try_prune(stage: PruneStage, folder: Path, seed: int) -> None:
    """Prunes by a few rows, each read by itself."""
    data = None if stage.data is None else _few_rows(stage.data, STAND_IN_ROWS)
    num_examples = min(stage.num_examples, FEW_ROWS)
    few = stage.model_copy(update={"data": data, "num_examples": num_examples, "batch_size": 1})
    run_prune(few, folder, name=folder.name, seed=seed, progress=_silent)


def _try_generate(stage: GenerateStage, folder: Path, seed: int) -> None:
    """Lets the teacher write a few tokens; the stand-in's rows have answers of other tokens."""
    model, _ = load_for_inference(stage.teacher)
    tokenizer, config = tokenizer_and_config(stage)
    many = stage.data.model_copy(update=at_most(stage.data, 1024))
    tokenize = PromptTokenize(tokenizer, config, many)
    found, _ = tokenized(many, tokenize, seed=seed, progress=_silent)
    prompts = found.to_list()
    few = min(FEW_TOKENS, stage.generation.max_completion_length)
    generation = stage.generation.model_copy(update={"max_completion_length": few})
    ids = [prompt["input_ids"] for prompt in prompts[:FEW_ROWS]]
    generate_from_ids(model, tokenizer, ids, generation, seed=seed)
    answers = [prompt["text"] for prompt in prompts]
    if isinstance(many, CompletionTask):
        answers = load_rows(many, seed=seed)["completion"]
    both = zip(prompts, answers, strict=True)
    rows = [answered(prompt, answer, number) for number, (prompt, answer) in enumerate(both)]
    write_rows(folder / "data.jsonl", rows)
    if stage.capture is not None:
        if prompts[0]["messages"] is not None:
            # Scored as text: not every template shows which turns are the assistant's.
            rows = [{"prompt": text, "completion": text} for text in found["text"]]
        write_rows(folder / "scored.jsonl", rows)
        source = DatasetSource(
            dataset_name=str(folder / "scored.jsonl"), num_examples=STAND_IN_ROWS
        )
        _score(stage, source, stage.capture, folder, seed)


def _silent(done: int, total: int | None, **figures: float) -> None:
    """Shows nothing."""


def _try_score(stage: ScoreStage, folder: Path, seed: int) -> None:
    """Scores as many rows as a few batches take."""
    few = stage.data.model_copy(update=at_most(stage.data, STAND_IN_ROWS))
    _score(stage, few, stage.capture, folder, seed)


def _score(
    stage: GenerateStage | ScoreStage,
    data: AdditionTask | DatasetSource,
    capture: Capture,
    folder: Path,
    seed: int,
) -> None:
    # By transformers, whatever the engine: it takes no server and starts at once.
    stand_in = ScoreStage(
        kind="score",
        teacher=stage.teacher,
        data=data,
        engine=TransformersEngine(batch_size=8),
        capture=capture,
    )
    run_capture(stand_in, folder, seed=seed, progress=_silent)


def _try_evaluate(stage: EvaluateStage, seed: int) -> None:
    suite, teacher = stage.suite, stage.teacher
    assert isinstance(suite, Suite)
    found = evaluate(
        list(zip(stage.models, stage.sources, strict=True)),
        suite.model_copy(update={"tasks": list(map(in_miniature, suite.tasks))}),
        batch_size=stage.batch_size,
        seed=seed,
        progress=_silent,
        engine=stage.engine,
        teacher=None if teacher is None else (teacher.model_name_or_path, teacher),
    )
    if found.failures:
        raise LlmkdError("; ".join(map(str, found.failures)))
