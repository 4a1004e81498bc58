"""What a generate or a score stage will take."""

from collections.abc import Iterator
from importlib.util import find_spec
from typing import TYPE_CHECKING

from pydantic import TypeAdapter

from llmkd.check.adapters import look_at_adapter
from llmkd.check.facts import Fact, StageFacts, known, value_of
from llmkd.check.kinds import head_problem
from llmkd.check.lengths import data_facts, first
from llmkd.check.memory import generate_memory
from llmkd.check.models import Model
from llmkd.check.prompts import prompt_length, prompt_rows
from llmkd.check.row_facts import DataFacts
from llmkd.errors import DataError, LlmkdError
from llmkd.recipe.base import referenced_stage
from llmkd.recipe.capture_checks import NO_CAPTURE, capture_problems
from llmkd.recipe.data import PromptRows, Prompts
from llmkd.recipe.places import Problem
from llmkd.recipe.schema import GenerateStage, ScoreStage, TrainStage
from llmkd.recipe.teacher_data import Capture, SampledCapture, ServerEngine, TransformersEngine
from llmkd.recipe.yaml_places import Key
from llmkd.teacher_data.places import open_store

if TYPE_CHECKING:
    from llmkd.check.stages import Checker

BYTES_PER_TOKEN = 12
"""Of text, token ids and what a store keeps of each row; measured in store_cpu.json."""
BYTES_PER_QUANTISED = 2.5
BYTES_PER_FLOAT32 = 5.5
BYTES_PER_DRAW = 1.0
"""Of what is captured, per token kept or drawn, for short rows; long ones take a fifth less. Measured
in tests/benchmarks/results/store_size_cpu.json."""
NOT_USABLE = Fact(None, "not known", "the data cannot be used as it is")


def generate_facts(checker: "Checker", name: str, stage: GenerateStage) -> StageFacts:
    """Parameters, prompts, memory and disk of a generate stage."""
    found = StageFacts(stage.kind)
    teacher = checker.models.of(stage.teacher)
    found.problems += head_problem(("stages", name, "teacher"), teacher, is_classifier=False)
    look_at_adapter(found, ("stages", name), stage.teacher, stage.engine)
    rows = prompt = NOT_USABLE
    try:
        rows = known(lambda: prompt_rows_of(checker, stage.data))
        prompt = known(lambda: prompt_length(stage.data, teacher.tokenizer))
    except DataError as error:
        found.problems.append(Problem(("stages", name, "data", *error.key), error.message))
    most = stage.generation.max_completion_length
    length = known(
        lambda: Fact(value_of(prompt) + most, "at most", "longest prompt and completion")
    )
    written = known(
        lambda: Fact(value_of(rows) * stage.generation.num_samples, "at most", "completions")
    )
    found.facts |= {
        "teacher parameters": teacher.parameters,
        "prompts": rows,
        "longest prompt": prompt,
        "longest row": length,
        "memory": _memory(stage, teacher, length),
        "disk": known(lambda: _disk(stage.capture, written, length)),
    }
    checker.judge(found, checker.memory(), stage)
    kept = rows if rows.value is None else Fact(written.value, "at most", f"of stage:{name}")
    checker.generated[name] = DataFacts(kept, length, length, prompt)
    return found


def prompt_rows_of(checker: "Checker", source: Prompts) -> Fact:
    """How many prompts there are, those of an earlier stage too."""
    before = referenced_stage(source.dataset_name) if isinstance(source, PromptRows) else None
    if not isinstance(source, PromptRows) or before is None or source.dataset_split != "train":
        return prompt_rows(source)
    return first(checker.generated_by(before).rows, source.num_examples)


def score_facts(checker: "Checker", name: str, stage: ScoreStage) -> StageFacts:
    """Parameters, rows, memory and disk of a score stage."""
    found = StageFacts(stage.kind)
    teacher = checker.models.of(stage.teacher)
    found.problems += head_problem(("stages", name, "teacher"), teacher, is_classifier=False)
    look_at_adapter(found, ("stages", name), stage.teacher, stage.engine)
    data = DataFacts(*[NOT_USABLE] * 4)
    try:
        data = data_facts(stage.data, teacher.tokenizer, checker.generated_by)
    except DataError as error:
        found.problems.append(Problem(("stages", name, "data", *error.key), error.message))
    found.facts |= {
        "teacher parameters": teacher.parameters,
        "rows": data.rows,
        "tokens per row": data.tokens_per_row,
        "longest row": data.longest,
        "memory": _memory(stage, teacher, data.longest),
        "disk": known(lambda: _disk(stage.capture, data.rows, data.tokens_per_row)),
    }
    checker.judge(found, checker.memory(), stage)
    checker.generated[name] = data
    return found


def _memory(stage: GenerateStage | ScoreStage, teacher: Model, length: Fact) -> Fact:
    has_vllm = find_spec("vllm") is not None
    match stage.engine or (None if has_vllm else TransformersEngine()):
        case TransformersEngine(batch_size=batch_size):
            return known(lambda: generate_memory(teacher, batch_size, length))
        case ServerEngine():
            return Fact(None, "not known", "the server's")
        case _:
            return Fact(None, "not known", "vLLM takes gpu_memory_utilization of the accelerator")


def _disk(capture: Capture | None, rows: Fact, length: Fact) -> Fact:
    tokens = value_of(rows) * value_of(length)
    parts = {"text": tokens * BYTES_PER_TOKEN}
    if capture is not None:
        parts["distributions"] = int(tokens * _bytes_per_position(capture))
    return Fact(sum(parts.values()), "at most", "all tokens captured", "bytes", parts)


def _bytes_per_position(capture: Capture) -> float:
    if isinstance(capture, SampledCapture):
        return capture.num_samples * BYTES_PER_DRAW
    width = BYTES_PER_FLOAT32 if capture.precision == "float32" else BYTES_PER_QUANTISED
    return capture.top_k * width


def store_problems(key: Key, stage: TrainStage) -> Iterator[Problem]:
    """What is wrong with a local store that a stage learns from."""
    paths = {"teacher": stage.teacher, "data": stage.data}
    for part, source in paths.items():
        path = getattr(source, "path", None)
        if path is None or referenced_stage(path) is not None:
            continue
        try:
            settings = open_store(path).settings
        except (LlmkdError, OSError) as error:
            yield Problem((*key, part, "path"), str(error))
            continue
        if part == "teacher" and settings.capture is None:
            yield Problem((*key, part, "path"), f"{path} {NO_CAPTURE}")
        elif part == "teacher":
            capture: Capture = TypeAdapter(Capture).validate_python(settings.capture)
            for place, message in capture_problems(stage.losses, capture):
                yield Problem((*key, *place), message)
