"""Reasoning: questions answered by generated text, each answer right or wrong."""

from collections.abc import Sequence
from importlib.util import find_spec
from typing import assert_never

from llmkd.data.prompts import Prompt
from llmkd.errors import InputError
from llmkd.evaluation.details import Sample, TaskDetails
from llmkd.evaluation.measured import Estimate, Measured, Setting
from llmkd.evaluation.questions import Question, read_questions
from llmkd.evaluation.reasoning_answers import Answer, answers_of
from llmkd.evaluation.reasoning_metrics import avg_at_k, majority, pass_at_k
from llmkd.evaluation.reasoning_prompts import prompts_of
from llmkd.evaluation.statistics import bootstrap_mean
from llmkd.evaluation.subject import Subject
from llmkd.evaluation.text_metrics import TEXT_METRICS
from llmkd.models.load import config_of
from llmkd.recipe.reasoning import ReasoningTask
from llmkd.rewards.exact import Grade, exact_match
from llmkd.rewards.maths import math_verify, number
from llmkd.rewards.multiple_choice import multiple_choice

NUM_SAMPLES = 8
"""Questions whose first answer is kept to be read."""
_PACKAGES = {
    "math_verify": "math_verify",
    "rouge1": "rouge_score",
    "rouge2": "rouge_score",
    "rougeL": "rouge_score",
    "bleu_4": "nltk",
}
"""Of the extra `eval`: what graders and metrics import."""
Graded = list[list[Grade]]
"""Of each question, of each of its answers."""


def measure_reasoning(subject: Subject, task: ReasoningTask, setting: Setting) -> Measured:
    """Asks a model all questions of a task and grades what it writes.

    Raises:
        InputError: Data, chat template or engine that cannot be used, or a package that is missing.
    """
    _refuse_missing_packages(task)
    questions = read_questions(task.data, task.grader)
    config = config_of(subject.source)
    prompts = prompts_of(task, questions, subject.tokenizer, config, seed=setting.seed)
    answers = answers_of(subject, task, setting, prompts)
    grades = [
        [_graded(task, answer.text, question) for answer in given]
        for question, given in zip(questions, answers, strict=True)
    ]
    values = {
        **_of_grades(task, grades),
        **_of_answers(answers, grades),
        **_of_texts(task, questions, answers),
    }
    return Measured(
        [
            Estimate(name, bootstrap_mean(numbers, seed=setting.seed), len(questions))
            for name, numbers in values.items()
        ],
        TaskDetails(
            samples=_samples(questions, prompts, answers, grades),
            lengths=[answer.num_tokens for given in answers for answer in given],
        ),
    )


def _refuse_missing_packages(task: ReasoningTask) -> None:
    """Before anything is written, which may take hours."""
    for used in (task.grader, *task.metrics):
        package = _PACKAGES.get(used)
        if package is not None and find_spec(package) is None:
            raise InputError(
                f"task {task.name}: {used} needs {package}, which is not installed; run "
                "pip install 'llmkd[eval]', or write another grader or metric"
            )


def _graded(task: ReasoningTask, text: str, question: Question) -> Grade:
    match task.grader:
        case "math_verify":
            return math_verify(text, question.reference)
        case "number":
            return number(text, question.reference)
        case "exact_match":
            return exact_match(text, question.reference)
        case "multiple_choice":
            return multiple_choice(
                text, question.reference, labels=question.labels, choices=question.choices
            )
        case unknown:
            assert_never(unknown)


def _of_grades(task: ReasoningTask, grades: Graded) -> dict[str, list[float]]:
    n = task.generation.num_samples
    right = [[grade.is_right for grade in of_question] for of_question in grades]
    values = {f"pass@{k}": [pass_at_k(n, sum(each), k) for each in right] for k in task.ks}
    if n > 1:
        values[f"avg@{n}"] = [avg_at_k(each, n) for each in right]
        values[f"maj@{n}"] = [float(majority(each).is_right) for each in grades]
    return values


def _of_answers(answers: list[list[Answer]], grades: Graded) -> dict[str, list[float]]:
    return {
        "tokens": _means([[answer.num_tokens for answer in given] for given in answers]),
        "truncated": _means([[answer.is_cut for answer in given] for given in answers]),
        "unanswered": _means([[grade.answer is None for grade in each] for each in grades]),
    }


def _of_texts(
    task: ReasoningTask, questions: Sequence[Question], answers: list[list[Answer]]
) -> dict[str, list[float]]:
    return {
        name: _means(
            [
                [TEXT_METRICS[name](one.text, [question.reference]) for one in given]
                for question, given in zip(questions, answers, strict=True)
            ]
        )
        for name in task.metrics
    }


def _means(rows: Sequence[Sequence[float | int]]) -> list[float]:
    return [sum(row) / len(row) for row in rows]


def _samples(
    questions: Sequence[Question],
    prompts: Sequence[Prompt],
    answers: list[list[Answer]],
    grades: Graded,
) -> list[Sample]:
    rows = zip(questions, prompts, answers, grades, strict=True)
    return [
        Sample(
            i, prompt.text, question.solution, given[0].text, given[0].num_tokens, grade[0].is_right
        )
        for i, (question, prompt, given, grade) in enumerate(rows)
        if i < NUM_SAMPLES
    ]
