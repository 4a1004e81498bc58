"""Measures a model on a task of lm-eval: lm-eval asks and grades, llmkd keeps and compares."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from lm_eval.api.model import TemplateLM
from lm_eval.api.task import ConfigurableTask
from lm_eval.evaluator import evaluate
from lm_eval.models.utils import normalize_gen_kwargs

from llmkd.errors import InputError
from llmkd.evaluation.harness.answers import details_of
from llmkd.evaluation.harness.model import model_for
from llmkd.evaluation.harness.quiet import heard, quiet
from llmkd.evaluation.harness.requests import is_sampled
from llmkd.evaluation.harness.scores import em_of_questions, estimates_of
from llmkd.evaluation.harness.tasks import load_task
from llmkd.evaluation.measured import Measured, Setting
from llmkd.evaluation.subject import Subject
from llmkd.progress import say
from llmkd.recipe.harness import LMEvalTask


def measure_harness(subject: Subject, task: LMEvalTask, setting: Setting) -> Measured:
    """One model on one task of lm-eval; the numbers are lm-eval's own.

    Raises:
        InputError: No such task, rows that do not fit it, or a model that cannot be asked so.
    """
    if task.apply_chat_template and subject.tokenizer.chat_template is None:
        raise InputError(
            f"apply_chat_template: {subject.label} has no chat template; write false, or "
            "--no-chat-template"
        )
    setting = replace(setting, progress=heard(setting.progress))
    with quiet() as cuts:
        with _seeded(setting.seed):
            loaded = load_task(task, seed=setting.seed)
        if is_sampled(loaded.get_config("generation_kwargs") or {}):
            # What is drawn must not depend on what an engine drew before.
            subject.close()
        model = model_for(subject, task, setting)
        _refuse_too_long(loaded, model)
        found = _evaluated(model, loaded, task, setting.seed)
    if cuts.count:
        say(
            f"{task.name}: texts were too long for {subject.label}, and lm-eval cut their "
            f"beginnings; it warned {cuts.count} times"
        )
    logged = found["samples"][loaded.task_name]
    estimates = estimates_of(loaded, found, seed=setting.seed)
    if task.exact_match_by:
        estimates.append(em_of_questions(loaded, logged, task.exact_match_by, seed=setting.seed))
    return Measured(estimates, details_of(loaded, logged, subject.tokenizer))


def _evaluated(model: TemplateLM, loaded: ConfigurableTask, task: LMEvalTask, seed: int) -> Any:
    with _seeded(seed):
        return evaluate(
            model,
            {"tasks": {loaded.task_name: loaded}},
            limit=task.data.num_examples,
            # Intervals are llmkd's own, paired over models.
            bootstrap_iters=0,
            system_instruction=task.system_instruction,
            apply_chat_template=task.apply_chat_template,
            fewshot_as_multiturn=task.fewshot_as_multiturn and task.apply_chat_template,
        )


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """The generators that lm-eval seeds, from one seed; afterwards they are as they were."""
    states = random.getstate(), np.random.get_state()  # noqa: NPY002
    with torch.random.fork_rng():
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        torch.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])  # noqa: NPY002


def _refuse_too_long(loaded: ConfigurableTask, model: Any) -> None:
    if loaded.OUTPUT_TYPE != "generate_until":
        return
    settings: Any = normalize_gen_kwargs(loaded.get_config("generation_kwargs"), model.max_gen_toks)
    most, room = settings["max_gen_toks"], model.max_length
    if most >= room:
        raise InputError(
            f"generation_kwargs.max_gen_toks: {most} tokens to write leave no room for a prompt in "
            f"the model's {room}; write fewer"
        )
