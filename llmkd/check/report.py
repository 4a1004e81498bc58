"""A whole recipe, checked against this machine without running anything."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmkd.check.capture import generate_facts, score_facts
from llmkd.check.curation import curate_facts
from llmkd.check.evaluation import evaluate_facts
from llmkd.check.facts import StageFacts, shown_bytes
from llmkd.check.kdrl import kdrl_facts
from llmkd.check.machine import AcceleratorQuery, Machine, free_disk, look
from llmkd.check.merging import merge_facts
from llmkd.check.pruning import prune_facts
from llmkd.check.spread import ALONE, Spread, spread_of, with_devices
from llmkd.check.stages import Checker
from llmkd.check.task_rows import task_rows_facts
from llmkd.recipe.foreign_code import foreign_code
from llmkd.recipe.load import load_with_source
from llmkd.recipe.origins import origins
from llmkd.recipe.places import Source
from llmkd.recipe.schema import (
    CurateStage,
    EvaluateStage,
    GenerateStage,
    KDRLStage,
    MergeStage,
    PruneStage,
    Recipe,
    ScoreStage,
    TaskRowsStage,
    TrainStage,
)


@dataclass(frozen=True)
class Report:
    """What `llmkd check` found."""

    recipe: Recipe
    source: Source
    stages: dict[str, StageFacts]
    machine: Machine
    disk: tuple[str, int | None]
    """The folder that the run would be in, and the free bytes there."""
    warnings: list[str]

    def as_data(self) -> dict[str, Any]:
        """Plain data for `--json`."""
        return {
            "recipe": self.recipe.model_dump(mode="json"),
            "origins": origins(self.recipe, self.source),
            "stages": {name: found.as_data() for name, found in self.stages.items()},
            "machine": {
                **self.machine.as_data(),
                "disk": {"folder": self.disk[0], "free": self.disk[1]},
            },
            "warnings": self.warnings,
        }


def check(
    path_or_name: str | Path,
    overrides: Sequence[str] = (),
    *,
    launch: str | None = None,
    num_processes: int | None = None,
    device_memory_gib: float | None = None,
) -> Report:
    """Reads a recipe and finds out what can be known of its stages without torch.

    Args:
        path_or_name: A recipe's path, or a shipped one's name.
        overrides: `key=value`.
        launch: The engine that trainings would be spread by.
        num_processes: Over how many processes; None takes one for each accelerator.
        device_memory_gib: Of each accelerator, in place of those of this machine.

    Raises:
        InputError: The recipe does not load, or data, tokenizers or models that are here do not
            fit it, or there is no such engine.
    """
    query = AcceleratorQuery()
    try:
        recipe, source = load_with_source(path_or_name, overrides)
    except BaseException:
        query.answer()
        raise
    machine = look(query)
    spread = spread_of(launch, num_processes, machine)
    return report(recipe, source, with_devices(machine, device_memory_gib), spread)


def report(recipe: Recipe, source: Source, machine: Machine, spread: Spread = ALONE) -> Report:
    """As `check`, of a recipe that is loaded, on a given machine."""
    checker = Checker(recipe, machine, spread)
    stages: dict[str, StageFacts] = {}
    for name, stage in recipe.stages.items():
        match stage:
            case TrainStage():
                stages[name] = checker.train(name, stage)
            case KDRLStage():
                stages[name] = kdrl_facts(checker, name, stage)
            case TaskRowsStage():
                stages[name] = task_rows_facts(checker, name, stage)
            case MergeStage():
                stages[name] = merge_facts(checker, name, stage)
            case GenerateStage():
                stages[name] = generate_facts(checker, name, stage)
            case ScoreStage():
                stages[name] = score_facts(checker, name, stage)
            case CurateStage():
                stages[name] = curate_facts(checker, name, stage)
            case PruneStage():
                stages[name] = prune_facts(checker, name, stage)
            case EvaluateStage():
                stages[name] = evaluate_facts(checker, name, stage)
    problems = [problem for found in stages.values() for problem in found.problems]
    if problems:
        raise source.error(problems)
    disk = _disk(recipe)
    for name, stage in recipe.stages.items():
        if code := ", ".join(f"{code.does} `{code.shown}`" for code in foreign_code(stage)):
            stages[name].warnings.append(f"{code}, and so needs `llmkd train --allow-code`")
    warnings = [f"{name}: {text}" for name, found in stages.items() for text in found.warnings]
    return Report(recipe, source, stages, machine, disk, warnings + _disk_warnings(stages, *disk))


def _disk(recipe: Recipe) -> tuple[str, int | None]:
    try:
        folder = Path(recipe.output_dir or f"runs/{recipe.name}").expanduser()
        nearest, free = free_disk(folder)
    except (OSError, ValueError, RuntimeError):
        return str(recipe.output_dir), None
    return str(nearest), free


def _disk_warnings(stages: dict[str, StageFacts], folder: str, free: int | None) -> list[str]:
    needed = sum(
        found.facts["disk"].value or 0 for found in stages.values() if "disk" in found.facts
    )
    if free is None or needed <= free:
        return []
    return [
        f"disk: the stages write {shown_bytes(needed)} (estimate), and {folder} has "
        f"{shown_bytes(free)}; change trainer.save_total_limit, or output_dir"
    ]
