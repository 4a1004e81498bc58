"""Agreement: how near a student's predictions are to its teacher's on the same text."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from llmkd.data.kinds import collator_for, tokenizing_for
from llmkd.errors import InputError
from llmkd.evaluation.budgets import POSITIONS_AT_ONCE
from llmkd.evaluation.kept import Answer
from llmkd.evaluation.measured import Estimate, Measured, Setting, refuse_nan
from llmkd.evaluation.perplexity import batches_of, inputs_of, num_read
from llmkd.evaluation.statistics import bootstrap_ratio
from llmkd.evaluation.subject import Subject
from llmkd.evaluation.windows import Window, windows_of
from llmkd.losses.divergences import IGNORED_ID
from llmkd.models.agreement import different_kinds
from llmkd.models.head import MODEL_INPUTS
from llmkd.models.kinds import is_seq2seq
from llmkd.models.positions import check_positions
from llmkd.models.vocabulary import check_same_tokens, shared_vocab_size
from llmkd.recipe.distillation_effects import AgreementTask

METRICS = ("top_1_agreement", "top_k_overlap", "forward_kl", "reverse_kl", "acceptance")


def teacher_of(setting: Setting, subject: Subject, name: str) -> Subject:
    """The teacher to compare with.

    Raises:
        InputError: There is none, or it reads other tokens.
    """
    if setting.teacher is None:
        raise InputError(
            f"tasks.{name}: there is no teacher to compare with; write --teacher MODEL, or "
            "teacher: {model_name_or_path: ...} in the stage"
        )
    check_same_tokens(subject.tokenizer, setting.teacher.tokenizer)
    kinds = (is_seq2seq(subject.model.config), is_seq2seq(setting.teacher.model.config))
    if problem := different_kinds(*kinds):
        raise InputError(f"tasks.{name}: {problem}")
    return setting.teacher


def measure_agreement(subject: Subject, task: AgreementTask, setting: Setting) -> Measured:
    """Compares both models' distributions at temperature 1 wherever a token of the text is scored.

    Metrics, each a mean over tokens: `top_1_agreement`, both have the same favourite;
    `top_k_overlap@k`, the share of the teacher's k likeliest tokens among the student's; `forward_kl`
    and `reverse_kl` of the teacher p and the student q, in nats; `acceptance`, sum_v min(p_v, q_v),
    the chance that the teacher accepts what the student drafts.

    References:
        Leviathan et al. 2023, https://arxiv.org/abs/2211.17192, theorem 3.5 (acceptance).

    Raises:
        InputError: No teacher, one with other tokens, or no text.
    """
    teacher = teacher_of(setting, subject, task.name)
    tokenizer, model = subject.tokenizer, subject.model
    tokenizing = tokenizing_for(model.config, model.name_or_path or "model")
    windows = list(windows_of(task, tokenizer, seed=setting.seed, tokenizing=tokenizing))
    for one in (model, teacher.model):
        longest = max(num_read(window, one) for window in windows)
        check_positions(one, longest, f"tasks.{task.name}.data.max_length")
    collate = collator_for(model.config, tokenizer)
    numbers = {id(window): number for number, window in enumerate(windows)}
    kept = setting.kept(
        subject,
        task,
        batch_size=setting.batch_size,
        teacher=teacher.content,
    )
    compare = _Comparison(model, teacher.model, shared_vocab_size(tokenizer), task.top_k)
    num_done, vocab_size = 0, model.config.get_text_config().vocab_size
    for batch in batches_of(windows, setting.batch_size, vocab_size):
        places = [numbers[id(window)] for window in batch]
        if not kept.has_all(places):
            rows = [{"input_ids": w.input_ids, "trained_spans": w.scored_spans} for w in batch]
            found = compare(inputs_of(collate(rows), model))
            refuse_nan((value for one in found for value in one["sums"]), task.name)
            kept.add(dict(zip(places, found, strict=True)))
        num_done += len(batch)
        setting.progress(num_done, len(windows))
    return Measured(_estimates(windows, kept.in_order(), task, setting.seed))


@dataclass(frozen=True)
class _Comparison:
    """Sums over each sequence of what is compared at every scored position."""

    student: PreTrainedModel
    teacher: PreTrainedModel
    vocab_size: int
    """Tokens of the tokenizer: what heads are padded with counts for nothing."""
    top_k: int

    @torch.inference_mode()
    def __call__(self, batch: dict[str, Tensor]) -> list[Answer]:
        inputs = {name: batch[name] for name in MODEL_INPUTS if name in batch}
        own = self.student(**inputs, use_cache=False).logits
        inputs = {name: tensor.to(self.teacher.device) for name, tensor in inputs.items()}
        theirs = self.teacher(**inputs, use_cache=False).logits.to(own.device)
        is_scored = batch["target_ids"] != IGNORED_ID
        sums = torch.zeros(len(is_scored), len(METRICS), dtype=torch.float64, device=own.device)
        for at in is_scored.nonzero().split(POSITIONS_AT_ONCE):
            rows, columns = at.unbind(1)
            values = self._values(own[rows, columns], theirs[rows, columns])
            sums.index_add_(0, rows, values.double())
        counts = is_scored.sum(1).tolist()
        return [
            {"count": count, "sums": row} for count, row in zip(counts, sums.tolist(), strict=True)
        ]

    def _values(
        self, own: Float[Tensor, "P V"], theirs: Float[Tensor, "P W"]
    ) -> Float[Tensor, "P metrics"]:
        log_q = own[:, : self.vocab_size].float().log_softmax(1)
        log_p = theirs[:, : self.vocab_size].float().log_softmax(1)
        p, q = log_p.exp(), log_q.exp()
        columns = [
            (log_p.argmax(1) == log_q.argmax(1)).float(),
            _overlap(log_p, log_q, min(self.top_k, self.vocab_size)),
            _kl(p, log_p, log_q),
            _kl(q, log_q, log_p),
            torch.minimum(p, q).sum(1),
        ]
        return torch.stack(columns, 1)


def _kl(
    p: Float[Tensor, "P V"], log_p: Float[Tensor, "P V"], log_q: Float[Tensor, "P V"]
) -> Float[Tensor, " P"]:
    # 0 log 0 is 0.
    return (p * (log_p - log_q)).masked_fill(p == 0, 0.0).sum(1)


def _overlap(
    log_p: Float[Tensor, "P V"], log_q: Float[Tensor, "P V"], k: int
) -> Float[Tensor, " P"]:
    of_teacher: Int[Tensor, "P k"] = log_p.topk(k, 1).indices
    of_student: Int[Tensor, "P k"] = log_q.topk(k, 1).indices
    is_shared = (of_teacher[:, :, None] == of_student[:, None, :]).any(2)
    return is_shared.float().mean(1)


def _estimates(
    windows: list[Window], answers: list[Answer], task: AgreementTask, seed: int
) -> list[Estimate]:
    num_examples = windows[-1].example + 1
    sums, counts = np.zeros((num_examples, len(METRICS))), np.zeros(num_examples)
    for window, answer in zip(windows, answers, strict=True):
        sums[window.example] += answer["sums"]
        counts[window.example] += answer["count"]
    names = [f"{name}@{task.top_k}" if name == "top_k_overlap" else name for name in METRICS]
    return [
        Estimate(name, bootstrap_ratio(sums[:, column], counts, seed=seed), num_examples)
        for column, name in enumerate(names)
    ]
