"""A recipe and its folder: where each stage writes, what it depends on, and what it makes."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmkd.evaluation.harness.definitions import files_of
from llmkd.evaluation.suites import find_suite
from llmkd.recipe import shipped
from llmkd.recipe.base import referenced_stage
from llmkd.recipe.cross_checks import MODEL_KINDS
from llmkd.recipe.evaluation import Suite
from llmkd.recipe.foreign_code import foreign_code
from llmkd.recipe.harness import LMEvalTask
from llmkd.recipe.references import expanded, referenced_stages, references, resolved
from llmkd.recipe.schema import CurateStage, EvaluateStage, Recipe, Stage
from llmkd.run_folder import digest, fingerprint

RESOLVED_RECIPE = "recipe.resolved.yaml"
RESULTS = "results.json"
DETAILS = "details.json"
OUTPUT_ONLY = frozenset(
    [
        "logging_dir",
        "logging_first_step",
        "logging_steps",
        "logging_strategy",
        "report_to",
        "run_name",
        "project",
        "trackio_space_id",
        "trackio_bucket_id",
        "trackio_static_space_id",
        "save_steps",
        "save_strategy",
        "save_total_limit",
        "push_to_hub",
        "hub_model_id",
        "hub_private_repo",
        "dataloader_num_workers",
        "dataloader_pin_memory",
        "log_level",
    ]
)
"""Training arguments that change what is written, but not the model: no part of a fingerprint."""


@dataclass(frozen=True)
class Run:
    """A recipe and its folder."""

    recipe: Recipe

    @property
    def folder(self) -> Path:
        """`output_dir`, or `runs/NAME`."""
        return Path(expanded(self.recipe.output_dir or f"runs/{self.recipe.name}"))

    def stage_folder(self, name: str) -> Path:
        """Where a stage writes."""
        return self.folder / "stages" / name

    def product(self, name: str) -> str:
        """What `stage:NAME` stands for: a model folder, or a folder with data."""
        folder = self.stage_folder(name)
        return str(folder / "model" if self.recipe.stages[name].kind in MODEL_KINDS else folder)

    def has_product(self, name: str) -> bool:
        """Whether what a finished stage made is still there."""
        made = {
            "train": ["model/config.json"],
            "kdrl": ["model/config.json"],
            "task_rows": ["tokenizer.json", "data.jsonl"],
            "merge": ["model/merge.json"],
            "generate": ["store/manifest.json", "data.jsonl"],
            "score": ["store/manifest.json"],
            "curate": ["curation.json", "data.jsonl"],
            "prune": ["pruning.json", "model/config.json"],
            "evaluate": [RESULTS],
        }
        paths = made[self.recipe.stages[name].kind]
        return all((self.stage_folder(name) / path).exists() for path in paths)

    def stage(self, name: str) -> Stage:
        """The stage as written, with its suite read."""
        stage = self.recipe.stages[name]
        if isinstance(stage, EvaluateStage):
            return stage.model_copy(update={"suite": find_suite(stage.suite)})
        return stage

    def resolved_stage(self, name: str) -> Stage:
        """The stage with paths in place of `stage:NAME`."""

        def rewrite(value: str) -> str:
            stage = referenced_stage(value)
            return expanded(value) if stage is None else self.product(stage)

        return resolved(self.stage(name), rewrite)

    def inputs(self, name: str) -> dict[str, Any]:
        """All that the stage's product depends on, as plain data."""
        stage = self.stage(name)
        # What was trained with `stop` has no step that `skip` would have left out.
        free = {"resume", "term_gradient_steps", "on_nonfinite_loss"}
        content = stage.model_dump(mode="json", exclude=free)
        for key in OUTPUT_ONLY & content.get("trainer", {}).keys():
            del content["trainer"][key]
        return {
            "seed": self.recipe.seed,
            "stage": content,
            "stages": {ref: fingerprint(self.inputs(ref)) for ref in referenced_stages(stage)},
            "files": {
                value: found
                for value in references(stage)
                if referenced_stage(value) is None and (found := _digest(Path(expanded(value))))
            }
            | {written: digest(path) for written, path in _further_files(stage).items()},
        }


def _further_files(stage: Stage) -> dict[str, Path]:
    """Files that are read though the stage does not name them, or not by their path."""
    files = [each for code in foreign_code(stage) for each in code.files.items()]
    return _of_kind(stage) | {written: Path(path) for written, path in files}


def _of_kind(stage: Stage) -> dict[str, Path]:
    match stage:
        case CurateStage():
            return _files_of_suites(stage.suites)
        case EvaluateStage(suite=Suite(tasks=tasks)):
            named = (task.definition for task in tasks if isinstance(task, LMEvalTask))
            own = (Path(expanded(path)) for path in named if isinstance(path, str))
            return {str(path): path for definition in own for path in files_of(definition)[1:]}
        case _:
            return {}


def _files_of_suites(suites: Sequence[str]) -> dict[str, Path]:
    """Of suites by name or path: themselves, and the local files that their tasks read."""
    read = (value for name in suites for value in references(find_suite(name)))
    data = {value: Path(expanded(value)) for value in read}
    suites_themselves = {name: shipped.find_suite(name) for name in suites}
    return suites_themselves | {value: path for value, path in data.items() if path.exists()}


def _digest(path: Path) -> str | None:
    # Of a teacher store, which may be large, the manifest has the checksums of all else.
    for manifest in (path / "store" / "manifest.json", path / "manifest.json"):
        if manifest.is_file():
            return digest(manifest)
    return digest(path)
