"""What is known of a curate stage before it runs."""

from typing import TYPE_CHECKING

from llmkd.check.facts import Fact, NotKnownError, StageFacts, known, value_of
from llmkd.check.lengths import first
from llmkd.check.row_facts import DataFacts
from llmkd.check.rows import count_rows
from llmkd.errors import DataError
from llmkd.recipe.base import referenced_stage
from llmkd.recipe.curation import Concatenation, CurateStage, RowsMixture
from llmkd.recipe.curation_steps import CuratedRows, DuplicatesStep, PromptStep
from llmkd.recipe.places import Problem
from llmkd.recipe.yaml_places import Key

if TYPE_CHECKING:
    from llmkd.check.stages import Checker

NOT_COUNTED = Fact(None, "not known", "the rows are not tokenized before they are curated")


def curate_facts(checker: "Checker", name: str, stage: CurateStage) -> StageFacts:
    """The rows of a curate stage: at most those that it reads."""
    found, parts = StageFacts(stage.kind), list[DataFacts]()
    for key, source in _sources(stage, ("stages", name, "data")):
        try:
            parts.append(_of_source(checker, source))
        except DataError as error:
            found.problems.append(Problem((*key, *error.key), error.message))
    rows = known(lambda: _num_rows(stage, parts))
    longest = known(lambda: _longest(parts))
    found.facts["rows"] = rows
    found.facts["memory"] = known(lambda: _memory(stage, rows))
    checker.judge(found, checker.memory(use_cpu=True), stage)
    if any(isinstance(step, PromptStep) for step in stage.steps):
        longest = NOT_COUNTED
    checker.generated[name] = DataFacts(rows, longest, longest, NOT_COUNTED)
    return found


def _sources(stage: CurateStage, key: Key) -> list[tuple[Key, CuratedRows]]:
    """Each data set, and where in the recipe it stands."""
    match stage.data:
        case list() as sources:
            return [((*key, index), source) for index, source in enumerate(sources)]
        case Concatenation(sources=sources) | RowsMixture(sources=sources):
            return [((*key, "sources", index), source) for index, source in enumerate(sources)]
        case source:
            return [(key, source)]


def _of_source(checker: "Checker", source: CuratedRows) -> DataFacts:
    stage = referenced_stage(source.dataset_name)
    facts = None if stage is None else checker.generated_by(stage)

    def rows() -> Fact:
        return first(count_rows(source) if facts is None else facts.rows, source.num_examples)

    longest = NOT_COUNTED if facts is None else facts.longest
    return DataFacts(known(rows), NOT_COUNTED, longest, NOT_COUNTED)


def _num_rows(stage: CurateStage, parts: list[DataFacts]) -> Fact:
    counts = [value_of(part.rows) for part in parts]
    num_asked = stage.data.num_examples if isinstance(stage.data, RowsMixture) else None
    total = sum(counts) if num_asked is None else num_asked
    return Fact(total, "at most", "those that are read")


def _memory(stage: CurateStage, rows: Fact) -> Fact:
    """Beyond that of the process: what steps remember of the rows."""
    steps = [step for step in stage.steps if isinstance(step, DuplicatesStep)]
    total = sum(step.bytes_per_row for step in steps) * value_of(rows)
    return Fact(total, "at most", "the index of duplicates", "bytes")


def _longest(parts: list[DataFacts]) -> Fact:
    if not parts:
        raise NotKnownError("the data cannot be used as it is")
    return Fact(max(value_of(part.longest) for part in parts), "at most", "of what is read")
