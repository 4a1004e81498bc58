"""What a kdrl stage will take: its rollouts, its steps, and the memory of both."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from llmkd.check.adapters import look_at_adapter
from llmkd.check.capture import prompt_rows_of
from llmkd.check.facts import Fact, StageFacts, known, value_of
from llmkd.check.fitting import Setup
from llmkd.check.kinds import head_problem
from llmkd.check.memory import generate_memory, train_memory
from llmkd.check.models import Model
from llmkd.check.prompts import prompt_length
from llmkd.check.row_facts import DataFacts
from llmkd.check.spread import Spread
from llmkd.check.stages import Checker, num_positions_of, vocabulary_fact
from llmkd.check.steps import train_disk
from llmkd.check.teachers import Beside, loaded_bytes
from llmkd.errors import DataError
from llmkd.recipe.data import Prompts
from llmkd.recipe.grpo_arguments import GRPO, num_generated, too_few_prompts
from llmkd.recipe.kdrl import KDRLStage
from llmkd.recipe.places import Problem
from llmkd.recipe.training_arguments import effective
from llmkd.recipe.yaml_places import Key

NOT_USABLE = Fact(None, "not known", "the data cannot be used as it is")


def kdrl_facts(checker: Checker, name: str, stage: KDRLStage) -> StageFacts:
    """Parameters, problems, rollouts, steps, memory and disk of a kdrl stage."""
    found, key = StageFacts(stage.kind), ("stages", name)
    student = checker.models.student_of(name)
    found.problems += _model_problems((*key, "student"), student)
    teachers = {place: checker.models.of(each) for place, each in stage.local_teachers.items()}
    for place, teacher in teachers.items():
        found.problems += _model_problems((*key, *place.split(".")), teacher)
        look_at_adapter(found, key, stage.local_teachers[place], role=place)
    arguments = effective(stage.trainer, GRPO)
    found.problems += [
        Problem((*key, "trainer", argument), text) for argument, text in _batch(arguments)
    ]
    rows, prompt = _data(checker, found, stage.data, student, (*key, "data"))
    if rows.value is not None and (problem := too_few_prompts(int(rows.value), arguments)):
        found.problems.append(Problem((*key, "data"), problem))
    if stage.validation is not None:
        _data(checker, found, stage.validation.data, student, (*key, "validation", "data"))
    length = known(lambda: _length(prompt, arguments))
    found.facts |= {
        "student parameters": student.parameters,
        **{f"{place} parameters": teacher.parameters for place, teacher in teachers.items()},
        "vocabulary": _vocabulary(found, student, teachers, key),
        "prompts": rows,
        "longest prompt": prompt,
        "longest row": length,
        "steps": known(lambda: _steps(rows, arguments, checker.spread)),
        "rollouts per step": known(lambda: _rollouts(arguments, checker.spread)),
        "epochs": Fact(None, "not known"),
    }
    found.problems += _position_problems(student, length, key)
    beside = [Beside(teachers[place], each) for place, each in stage.local_teachers.items()]
    _memory(checker, found, stage, student, beside, length, arguments)
    data = DataFacts(rows, NOT_USABLE, length, length)
    found.facts["disk"] = known(lambda: train_disk(student, data, found.facts, arguments))
    del found.facts["epochs"]
    return found


def _vocabulary(found: StageFacts, student: Model, teachers: Mapping[str, Model], key: Key) -> Fact:
    """Of the student with each teacher in turn; what does not fit goes to the problems."""
    facts = [vocabulary_fact(found, student, each, key) for each in teachers.values()]
    return facts[0] if facts else vocabulary_fact(found, student, None, key)


def _largest(teachers: Sequence[Beside]) -> Beside | None:
    """The one that is estimated at work."""
    return max(teachers, key=lambda each: each.model.parameters.value or 0, default=None)


def _staying(teachers: Sequence[Beside], *, has_accelerator: bool) -> int:
    """Bytes of those that wait on the device for their rows."""
    return sum(
        loaded_bytes(each)
        for each in teachers
        if not (each.source.offload == "cpu" and has_accelerator)
        and each.model.parameters.value is not None
    )


def _model_problems(key: Key, model: Model) -> list[Problem]:
    if model.is_seq2seq:
        message = f"{model.name}: has an encoder and a decoder, and GRPO trains causal models"
        return [Problem(key, f"{message}; write a causal one")]
    return head_problem(key, model, is_classifier=False)


def _batch(arguments: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Batch arithmetic that TRL refuses when training begins."""
    group, size = arguments["num_generations"], num_generated(arguments)
    if arguments["generation_batch_size"] and arguments["steps_per_generation"]:
        message = "steps_per_generation is written too, and says the same; leave one out"
        return [("generation_batch_size", message)]
    step = arguments["per_device_train_batch_size"]
    if size % step:
        message = f"{size} is no multiple of per_device_train_batch_size: {step}; write one that is"
        return [("generation_batch_size", message)]
    if size % group:
        return [
            (
                "num_generations",
                f"{size} responses are written at once on one device, which are no whole groups of "
                f"{group}; write a number that divides {size}, or change per_device_train_batch_size",
            )
        ]
    return []


def _data(
    checker: Checker, found: StageFacts, data: Prompts, student: Model, key: Key
) -> tuple[Fact, Fact]:
    """How many problems there are, and the tokens of the longest."""
    try:
        rows = known(lambda: prompt_rows_of(checker, data))
        return rows, known(lambda: prompt_length(data, student.tokenizer))
    except DataError as error:
        found.problems.append(Problem((*key, *error.key), error.message))
        return NOT_USABLE, NOT_USABLE


def _length(prompt: Fact, arguments: Mapping[str, Any]) -> Fact:
    most = value_of(prompt) + arguments["max_completion_length"]
    return Fact(most, "at most", "longest prompt and completion")


def _rollouts(arguments: Mapping[str, Any], spread: Spread) -> Fact:
    """Responses that an optimizer step learns from, on all devices together."""
    size = arguments["per_device_train_batch_size"] * arguments["gradient_accumulation_steps"]
    size *= spread.num_processes
    group = arguments["num_generations"]
    return Fact(size, "exact", f"in groups of {group} to a prompt")


def _steps(rows: Fact, arguments: Mapping[str, Any], spread: Spread) -> Fact:
    if arguments["max_steps"] > 0:
        return Fact(arguments["max_steps"], "exact", "trainer.max_steps")
    rollouts = value_of(rows) * arguments["num_generations"] * arguments["num_iterations"]
    per_epoch = rollouts / value_of(_rollouts(arguments, spread))
    total = max(1, round(per_epoch * arguments["num_train_epochs"]))
    return Fact(total, "estimate", f"{arguments['num_train_epochs']:g} epochs of the prompts")


def _position_problems(student: Model, length: Fact, key: Key) -> list[Problem]:
    limit = num_positions_of(student)
    if limit is None or length.value is None or length.value <= limit:
        return []
    return [
        Problem(
            (*key, "trainer", "max_completion_length"),
            f"prompt and completion have up to {length.value} tokens, and the student {limit} "
            "positions; write fewer",
        )
    ]


def _memory(
    checker: Checker,
    found: StageFacts,
    stage: KDRLStage,
    student: Model,
    teachers: Sequence[Beside],
    length: Fact,
    arguments: Mapping[str, Any],
) -> None:
    """The larger of what writing responses takes, and learning from them."""
    has_accelerator = checker.has_accelerator(arguments)
    largest = _largest(teachers)
    others = [each for each in teachers if each is not largest]
    is_lent_late = getattr(stage.objective, "estimator", None) == "full_vocabulary"

    def estimate(setup: Setup) -> Fact:
        size = setup.arguments["per_device_train_batch_size"]
        tokens = Fact(size * value_of(length), "at most")
        teacher = setup.teacher
        if teacher is not None and is_lent_late:
            # It comes after the student's forward pass, to all that is kept of that.
            teacher = teacher.with_setting(offload=None)
        learning = train_memory(
            setup.student, teacher, tokens, setup.arguments,
            has_accelerator=has_accelerator, spread=setup.spread,
        )  # fmt: skip
        learning = learning.plus(
            "other teachers", _staying(others, has_accelerator=has_accelerator)
        )
        if any(each.model.parameters.value is None for each in others):
            learning = replace(learning, exactness="at least")
        writing = generate_memory(student, num_generated(arguments), length)
        return max(learning, writing, key=value_of)

    setup = Setup(student, largest, arguments, checker.spread)
    checker.judge_training(found, stage, setup, estimate, teachers)
