"""A run folder as the report reads it: what is missing or broken is left out and told.

Only the recipe has to be there, for without it nothing says what the other files are.
"""

import json
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeGuard, TypeVar

import yaml
from pydantic import ValidationError

from llmkd.errors import InputError
from llmkd.evaluation.results import Record, read_results
from llmkd.recipe.schema import Recipe, Stage
from llmkd.recipe.yaml_places import read_file
from llmkd.report.axes import LARGEST
from llmkd.report.roles import only_twin
from llmkd.report.stage_files import Curation, DataCounts, Details, Generation, Merging, Pruning
from llmkd.run_folder import StageState, read_stage
from llmkd.run_plan import RESOLVED_RECIPE, RESULTS

Read = TypeVar("Read")
Line = dict[str, float]
"""One log line; what is not finite is NaN."""


@dataclass(frozen=True)
class StageRun:
    """A stage of the recipe, and what it has written so far."""

    name: str
    stage: Stage
    state: StageState | None
    metrics: list[Line] = field(default_factory=list)
    validation: list[Line] = field(default_factory=list)
    data: DataCounts = field(default_factory=DataCounts)
    details: Details = field(default_factory=Details)
    generation: Generation = field(default_factory=Generation)
    curation: Curation = field(default_factory=Curation)
    merging: Merging = field(default_factory=Merging)
    pruning: Pruning = field(default_factory=Pruning)

    @property
    def status(self) -> str:
        """`finished`, `unfinished` or `not begun`."""
        if self.state is None:
            return "not begun"
        return "finished" if self.state.is_finished else "unfinished"

    @property
    def has_evidence(self) -> bool:
        """Whether anything was logged or counted that notices look at."""
        return bool(self.metrics) or self.data != DataCounts() or self.generation != Generation()


@dataclass(frozen=True)
class RunFiles:
    """Everything that the report shows of a run."""

    folder: Path
    recipe: Recipe
    recipe_text: str
    environment: dict[str, Any]
    stages: dict[str, StageRun]
    records: list[Record]
    problems: list[str]
    """Files that could not be read, each with what is wrong."""


def read_run(folder: Path) -> RunFiles:
    """Reads what there is.

    Raises:
        InputError: The folder is no run of llmkd, or of another version.
    """
    path = folder / RESOLVED_RECIPE
    if not _is_file(path):
        raise InputError(
            f"{folder}: no run of llmkd, for it has no {RESOLVED_RECIPE}; write the output_dir of "
            "an `llmkd train`"
        )
    recipe = _read_recipe(path)
    problems: list[str] = []
    stages = {
        name: _read_stage_run(folder / "stages" / name, name, stage, problems)
        for name, stage in recipe.stages.items()
    }
    environment = _tolerant(folder / "environment.json", _read_object, {}, problems)
    text = path.read_text(encoding="utf-8")
    records = _read_records(folder, stages, problems)
    return RunFiles(folder, recipe, text, environment, stages, records, problems)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error.strerror}); write a folder that you may enter"
        ) from error


def default_baseline(folders: Sequence[Path], measured: Collection[str]) -> str | None:
    """The model that several runs are compared with unless one is named: the report's choice.

    None where the runs' recipes do not tell, as where only their results were kept.
    """
    try:
        twins = {only_twin(_read_recipe(folder / RESOLVED_RECIPE), measured) for folder in folders}
    except (OSError, ValueError, RecursionError):
        return None
    return twins.pop() if len(twins) == 1 else None


def read_metrics(path: Path) -> tuple[list[Line], int]:
    """The log lines in the order of steps, and how many lines could not be read."""
    lines: dict[float, Line] = {}
    num_broken = 0
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
        line = _read_line(text)
        if line is None:
            num_broken += 1
        else:
            lines[line["step"]] = line
    return [lines[step] for step in sorted(lines)], num_broken


def _read_recipe(path: Path) -> Recipe:
    try:
        # Not `llmkd.recipe.load`: it also looks for what the run needed, which may be gone by now.
        return Recipe.model_validate_json(json.dumps(read_file(path).value))
    except (
        ValidationError,
        TypeError,
        UnicodeDecodeError,
        yaml.YAMLError,
        RecursionError,
    ) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"{path}: not a recipe of this version of llmkd ({reason}); use the version that "
            "environment.json names, or run the recipe anew"
        ) from error


def _read_stage_run(folder: Path, name: str, stage: Stage, problems: list[str]) -> StageRun:
    return StageRun(
        name,
        stage,
        _tolerant(folder, read_stage, None, problems),
        _read_lines(folder / "metrics.jsonl", problems),
        _read_lines(folder / "validation.jsonl", problems),
        _tolerant(folder / "data.json", _reader(DataCounts), DataCounts(), problems),
        _tolerant(folder / "details.json", _reader(Details), Details(), problems),
        _tolerant(folder / "generation.json", _reader(Generation), Generation(), problems),
        _tolerant(folder / "curation.json", _reader(Curation), Curation(), problems),
        _tolerant(folder / "model/merge.json", _reader(Merging), Merging(), problems),
        _tolerant(folder / "pruning.json", _reader(Pruning), Pruning(), problems),
    )


def _read_lines(path: Path, problems: list[str]) -> list[Line]:
    lines, num_broken = _tolerant(path, read_metrics, ([], 0), problems)
    if num_broken:
        problems.append(f"{path}: {num_broken} broken line{'s' * (num_broken > 1)} left out")
    return lines


def _read_records(
    folder: Path, stages: Mapping[str, StageRun], problems: list[str]
) -> list[Record]:
    """The results of the finished stages; the gathered ones where only they were kept."""
    paths = [
        folder / "stages" / name / RESULTS
        for name, run in stages.items()
        if run.stage.kind == "evaluate" and run.status == "finished"
    ]
    if not (folder / "stages").is_dir():
        paths = [folder / RESULTS]
    found = (_tolerant(path, read_results, [], problems) for path in paths)
    return [record for records in found for record in records]


def _tolerant(path: Path, read: Callable[[Path], Read], missing: Read, problems: list[str]) -> Read:
    try:
        return read(path) if path.exists() else missing
    # InputError and ValidationError are ValueErrors.
    except (OSError, ValueError, RecursionError, OverflowError) as error:
        reason = " ".join(str(error).split())[:200]
        problems.append(reason if str(path) in reason else f"{path}: left out ({reason})")
        return missing


def _read_object(path: Path) -> dict[str, Any]:
    content = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise ValueError("holds no object")
    return content


def _reader(model: type[Any]) -> Callable[[Path], Any]:
    def read(path: Path) -> Any:
        content = json.loads(path.read_text(encoding="utf-8"))
        # A lone surrogate, which a cut answer may end in, is no text to pydantic.
        text = json.dumps(content, ensure_ascii=False).encode("utf-8", "replace")
        return model.model_validate_json(text)

    return read


def _read_line(text: str) -> Line | None:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        return None
    step = content.get("step") if isinstance(content, dict) else None
    if not _is_number(step) or not abs(step) < LARGEST:
        return None
    return {
        key: math.nan if value is None or not abs(value) < LARGEST else float(value)
        for key, value in content.items()
        if value is None or _is_number(value)
    }


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)
