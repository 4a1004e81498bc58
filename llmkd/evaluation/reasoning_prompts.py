"""From questions to what a model reads: template, solved examples, chat format."""

import re
from collections.abc import Sequence

import numpy as np
from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from llmkd.data.chat import TEMPLATE_ERRORS, Messages
from llmkd.data.prompts import Prompt, encoded_prompts
from llmkd.errors import DataError, InputError
from llmkd.evaluation.questions import Question, read_questions, solved
from llmkd.recipe.reasoning import ReasoningTask

_PLACEHOLDERS = re.compile(r"\{(question|choices)\}")


def filled(template: str, question: Question) -> str:
    """A prompt template with a question in it; what braces the question has stay as they are."""
    values = {"question": question.text, "choices": _listed(question)}
    return _PLACEHOLDERS.sub(lambda found: values[found[1]], template)


def example_pool(task: ReasoningTask, questions: Sequence[Question], seed: int) -> list[Question]:
    """What solved examples are taken from, in the order in which they are taken.

    Args:
        task: Where they come from.
        questions: Its own.
        seed: Decides the order of rows; a written list keeps its own.
    """
    if not task.num_fewshot:
        return []
    if isinstance(task.fewshot, list):
        return [solved(example) for example in task.fewshot]
    is_own = task.fewshot is None
    pool = questions if task.fewshot is None else read_questions(task.fewshot, task.grader)
    # Of the task's own rows one is left out, that which is asked.
    if len(pool) < task.num_fewshot + is_own:
        raise DataError(
            "num_examples",
            f"{task.name}: {len(pool)} rows are too few for {task.num_fewshot} solved examples; "
            "write a smaller num_fewshot (--num-fewshot), or more rows",
        )
    return [pool[i] for i in np.random.default_rng(seed).permutation(len(pool))]


def examples_for(question: Question, pool: Sequence[Question], count: int) -> list[Question]:
    """The first examples of a pool that are not the question itself."""
    others = (example for example in pool if example.text.strip() != question.text.strip())
    found = [example for example, _ in zip(others, range(count), strict=False)]
    if len(found) < count:
        raise DataError(
            "num_examples",
            f"only {len(found)} solved examples are other than the question {question.text[:80]!r}, "
            f"of {count}; write a smaller num_fewshot (--num-fewshot), or more examples",
        )
    return found


def prompts_of(
    task: ReasoningTask,
    questions: Sequence[Question],
    tokenizer: PreTrainedTokenizerBase,
    config: PreTrainedConfig,
    *,
    seed: int,
) -> list[Prompt]:
    """What a model reads of each question.

    In chat format, solved examples are earlier turns. Otherwise system prompt, examples and question
    stand below each other, with an empty line between.

    Args:
        task: Template, examples and format.
        questions: What is asked.
        tokenizer: The model's.
        config: The model's.
        seed: Of the examples.

    Raises:
        InputError: A chat format is asked for, and there is none, or it refuses the conversation.
    """
    pool = example_pool(task, questions, seed)
    shots = [examples_for(question, pool, task.num_fewshot) for question in questions]
    if not _is_chat(task, tokenizer):
        texts = [_plain(task, q, of_q) for q, of_q in zip(questions, shots, strict=True)]
        return [
            Prompt.of(ids, text)
            for text, ids in zip(texts, encoded_prompts(config, texts, tokenizer), strict=True)
        ]
    texts = [
        _rendered(task, _messages(task, q, of_q), tokenizer)
        for q, of_q in zip(questions, shots, strict=True)
    ]
    # The template writes the special tokens itself.
    encoded = tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
    assert isinstance(encoded, list)
    return [Prompt.of(ids, text) for text, ids in zip(texts, encoded, strict=True)]


def _is_chat(task: ReasoningTask, tokenizer: PreTrainedTokenizerBase) -> bool:
    has_template = bool(tokenizer.chat_template)
    if task.apply_chat_template and not has_template:
        raise InputError(
            f"{task.name}.apply_chat_template: the model's tokenizer has no chat template; write "
            "false (--no-chat-template), or measure a model that has one"
        )
    return has_template if task.apply_chat_template is None else task.apply_chat_template


def _plain(task: ReasoningTask, question: Question, examples: Sequence[Question]) -> str:
    parts = [] if task.system_prompt is None else [task.system_prompt]
    for example in examples:
        asked = filled(task.prompt, example)
        gap = "" if asked[-1:].isspace() else " "
        parts.append(f"{asked}{gap}{example.solution}")
    return "\n\n".join([*parts, filled(task.prompt, question)])


def _messages(task: ReasoningTask, question: Question, examples: Sequence[Question]) -> Messages:
    found: Messages = []
    if task.system_prompt is not None:
        found.append({"role": "system", "content": task.system_prompt})
    for example in examples:
        found.append({"role": "user", "content": filled(task.prompt, example)})
        found.append({"role": "assistant", "content": example.solution})
    return [*found, {"role": "user", "content": filled(task.prompt, question)}]


def _rendered(task: ReasoningTask, messages: Messages, tokenizer: PreTrainedTokenizerBase) -> str:
    try:
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    except TEMPLATE_ERRORS as error:
        raise InputError(
            f"{task.name}.apply_chat_template: the chat template refuses the conversation ({error}); "
            "write system_prompt: null where it takes no system's turn, or apply_chat_template: "
            "false (--no-chat-template)"
        ) from error
    assert isinstance(text, str)
    return text


def _listed(question: Question) -> str:
    if question.labels == question.choices:
        return "\n".join(f"- {choice}" for choice in question.choices)
    pairs = zip(question.labels, question.choices, strict=True)
    return "\n".join(f"({label}) {choice}" for label, choice in pairs)
