"""What measures each kind of task. What a kind needs is imported where it is measured."""

from dataclasses import replace

import numpy as np

from llmkd.evaluation.classification import measure_classification
from llmkd.evaluation.continuations import beginnings, continued
from llmkd.evaluation.details import TaskDetails
from llmkd.evaluation.exact_match import score_answers
from llmkd.evaluation.harness.definitions import refuse_without_lm_eval
from llmkd.evaluation.measured import Estimate, Measured, Setting
from llmkd.evaluation.ood import measure_ood
from llmkd.evaluation.perplexity import score_text
from llmkd.evaluation.statistics import bootstrap_mean, bootstrap_ratio
from llmkd.evaluation.subject import Subject
from llmkd.evaluation.text_units import text_units
from llmkd.recipe.classification import ClassificationTask
from llmkd.recipe.distillation_effects import AgreementTask, CostTask, DraftTask
from llmkd.recipe.evaluation import (
    EvaluationTask,
    ExactMatchTask,
    PerplexityTask,
    is_in_transformers,
)
from llmkd.recipe.harness import LMEvalTask
from llmkd.recipe.ood import OODTask
from llmkd.recipe.reasoning import ReasoningTask
from llmkd.run_folder import fingerprint


def measure(subject: Subject, task: EvaluationTask, setting: Setting) -> Measured:
    """Measures one model on one task.

    Raises:
        InputError: A model or data set that cannot be used.
    """
    _make_room(subject, task, setting)
    if not is_in_transformers(task, setting.engine):
        subject.refuse_broken_files()
    match task:
        case ExactMatchTask():
            return _exact_match(subject, task, setting)
        case ClassificationTask():
            return measure_classification(subject, task, setting)
        case OODTask():
            return measure_ood(subject, task, setting)
        case PerplexityTask():
            return _perplexity(subject, task, setting)
        case AgreementTask():
            from llmkd.evaluation.agreement import measure_agreement

            return measure_agreement(subject, task, setting)
        case DraftTask():
            from llmkd.evaluation.draft import measure_draft

            return measure_draft(subject, task, setting)
        case CostTask():
            from llmkd.evaluation.cost import measure_cost

            return measure_cost(subject, task, setting)
        case LMEvalTask():
            refuse_without_lm_eval()
            from llmkd.evaluation.harness.measure import measure_harness

            return measure_harness(subject, task, setting)
        case ReasoningTask():
            from llmkd.evaluation.reasoning import measure_reasoning

            return measure_reasoning(subject, task, setting)


def _make_room(subject: Subject, task: EvaluationTask, setting: Setting) -> None:
    """Gives back what the task does not use: two copies do not fit on an accelerator."""
    if not isinstance(task, LMEvalTask):
        subject.close()
    if not is_in_transformers(task, setting.engine):
        subject.release()
        if setting.teacher is not None:
            setting.teacher.release()


def _exact_match(subject: Subject, task: ExactMatchTask, setting: Setting) -> Measured:
    answers = score_answers(
        subject.model,
        subject.tokenizer,
        task,
        batch_size=setting.batch_size,
        seed=setting.seed,
        progress=setting.progress,
        kept=setting.kept(subject, task, batch_size=setting.batch_size),
    )
    share = bootstrap_mean(answers.scores, seed=setting.seed)
    return Measured(
        [Estimate("exact_match", share, len(answers.scores))],
        TaskDetails(samples=answers.samples, lengths=answers.lengths),
    )


def _perplexity(subject: Subject, task: PerplexityTask, setting: Setting) -> Measured:
    model, tokenizer, seed = subject.model, subject.tokenizer, setting.seed
    found = score_text(
        model,
        tokenizer,
        task,
        batch_size=setting.batch_size,
        seed=seed,
        progress=setting.progress,
        kept=setting.kept(subject, task, batch_size=setting.batch_size),
    )
    loss = bootstrap_ratio(found.losses, found.counts, seed=seed)
    texts = beginnings(task, setting.first.tokenizer, seed=seed)
    samples = continued(model, tokenizer, texts, batch_size=setting.batch_size, seed=seed)
    num_examples = len(found.losses)
    tokens = fingerprint({"tokens": tokenizer.get_vocab()})
    return Measured(
        [
            Estimate("loss_per_token", loss, num_examples, unit=tokens),
            Estimate("perplexity", loss.mapped(np.exp), num_examples, unit=tokens),
            # Of joined rows the examples are windows, which another tokenizer cuts elsewhere.
            *(replace(one, unit=tokens * task.join_rows) for one in text_units(found, seed)),
        ],
        TaskDetails(samples=samples, bins=found.bins),
    )
