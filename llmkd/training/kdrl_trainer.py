r"""KDRL: GRPO and knowledge distillation in one objective, on the student's own rollouts.

.. math:: L = L_{GRPO} + \beta(\mathrm{step}) \sum_t m_t\, \ell_t / N

where :math:`\ell_t` is a form of KL(student || teacher) at a token, the mask m keeps the tokens of
the responses that are to be imitated, and N counts them over all ranks and accumulation steps,
whatever GRPO divides its own part by. Where an optimizer step takes a part of a generation batch, N
is that part of the batch's count, as TRL's own is.

References:
    Xu et al. 2025, "KDRL: Post-Training Reasoning LLMs via Unified Knowledge Distillation and
    Reinforcement Learning", https://arxiv.org/abs/2506.02208, equation 8 and section 3.
"""

from dataclasses import dataclass
from typing import Any, Literal

import datasets
import torch
from torch import Tensor

from llmkd.errors import InputError
from llmkd.losses.closed_form import REVERSE_KL
from llmkd.losses.divergences import IGNORED_ID
from llmkd.losses.linear_head import divergence_from_hidden
from llmkd.losses.policy import Estimator, advantage, estimator
from llmkd.losses.signals import wide
from llmkd.losses.terms import HeadTerm
from llmkd.models.head import linear_head
from llmkd.recipe.grpo_arguments import distillation_refusals
from llmkd.schedules import WeightSchedule, constant, linear
from llmkd.teachers.rollouts import Rollouts, RolloutTeacher
from llmkd.teachers.routed import RoutedTeacher
from llmkd.training.arguments import head_dtype
from llmkd.training.reward_masks import MaskKind, kept_responses
from llmkd.training.trl_compat import HookedGRPOTrainer, PolicyScores

EstimatorName = Literal["k2", "corrected_k3", "advantage", "full_vocabulary"]

UNWEIGHTED = constant(1.0)
PAPER_CONSTANT = constant(2e-3)
"""The coefficient of KDRL."""
PAPER_ANNEALED = linear(5e-3, 1e-3, 80)
"""The coefficient of KDRL-Annealing: 5e-5 less with each step, down to a floor."""


@dataclass(frozen=True)
class Distillation:
    """What KDRL adds to GRPO.

    Args:
        teacher: Scores the student's rollouts, at their sampling temperature.
        coefficient: The weight of the distillation term, which is a mean over the imitated tokens;
            where it is 0 the teacher rests. With `loss_type: dapo` and no mask GRPO's part is a mean
            over the same tokens, as in the paper. With `dr_grpo`, which divides by
            `max_completion_length` instead of the lengths, the same coefficient weighs
            `max_completion_length` / (the mean length) times as much beside the rewards; with `grpo`
            and `bnpo` rewards count by response and by micro-batch.
        estimator: How KL(student || teacher) is taken: of the drawn tokens (see
            `llmkd.losses.policy`), or `full_vocabulary`, which is exact and has the least variance.
            That takes no ratio: it is the KL at the positions that the rollouts came through.
            `advantage` is clipped by itself, whatever the sign of GRPO's own advantage.
        mask: Which responses are imitated; see `llmkd.training.reward_masks`.
        correct_reward: Which reward function says whether a response is right, for the masks.
        right_above: What it gives right responses is more than this. One that it cannot score counts
            as wrong.
        reward_weight: What multiplies all advantages. At 0, distillation on the student's rollouts
            is all there is.
    """

    teacher: RolloutTeacher
    coefficient: WeightSchedule = PAPER_CONSTANT
    estimator: EstimatorName = "k2"
    mask: MaskKind = "none"
    correct_reward: int = 0
    right_above: float = 0.5
    reward_weight: WeightSchedule = UNWEIGHTED


class KDRLTrainer(HookedGRPOTrainer):
    """`trl.GRPOTrainer` with a distillation term.

    Args:
        distillation: The term; None leaves GRPO as it is, bit for bit.
        **trainer: As for `trl.GRPOTrainer`.

    Raises:
        InputError: A setting with which the sum of the two means something else, or an estimator
            whose gradient is wrong.
        LlmkdError: The installed TRL is not one that llmkd knows.
    """

    def __init__(self, *, distillation: Distillation | None, **trainer: Any):
        super().__init__(**trainer)
        self.distillation = distillation
        if distillation is None:
            return
        self.keeps_hidden = distillation.estimator == "full_vocabulary"
        if problems := self._problems(distillation):
            raise InputError(problems)
        self.estimator = None if self.keeps_hidden else self._clipped(distillation.estimator)
        self._check_routes(distillation.teacher)

    def _problems(self, distillation: Distillation) -> list[str]:
        args: Any = self.args
        problems = [
            f"trainer.{name}: {message}" for name, message in distillation_refusals(vars(args))
        ]
        if not 0 <= distillation.correct_reward < len(self.reward_funcs):
            problems.append(
                f"kd.correct_reward: there are {len(self.reward_funcs)} rewards; write one of theirs"
            )
        is_split = self.is_fsdp_enabled or getattr(args.deepspeed_plugin, "zero_stage", 0) == 3
        if self.keeps_hidden and is_split:
            problems.append(
                "kd.estimator: full_vocabulary reads the student's whole output head, which FSDP and "
                "ZeRO-3 split; write k2, or take DDP, ZeRO-1 or ZeRO-2"
            )
        return problems + distillation.teacher.refusals(
            temperature=self.temperature, full_vocabulary=self.keeps_hidden
        )

    def _check_routes(self, teacher: RolloutTeacher) -> None:
        """Refuses rows that name no teacher before the first of them is written an answer to."""
        if not isinstance(teacher, RoutedTeacher):
            return
        of_eval = self.eval_dataset
        found = of_eval.values() if isinstance(of_eval, dict) else [of_eval]
        for rows in (self.train_dataset, *found):
            if isinstance(rows, datasets.Dataset):
                is_there = teacher.column in rows.column_names
                teacher.routes(rows.select_columns(teacher.column) if is_there else rows)  # pyright: ignore[reportArgumentType]

    def _clipped(self, name: str) -> Estimator:
        if name != "advantage":
            return estimator(name)
        low, high = self.epsilon_low, self.epsilon_high
        return lambda *logprobs: advantage(*logprobs, clip_low=low, clip_high=high)

    def reward_weight_now(self) -> float:
        """See `HookedGRPOTrainer`."""
        kd = self.distillation
        return 1.0 if kd is None else kd.reward_weight(self.state.global_step)

    def of_rows(self, rows: list[dict[str, Any]]) -> dict[str, Tensor]:
        """See `HookedGRPOTrainer`: which teacher each row names."""
        teacher = None if self.distillation is None else self.distillation.teacher
        if not isinstance(teacher, RoutedTeacher):
            return {}
        return {"routes": torch.tensor(teacher.routes(rows), device=self.accelerator.device)}

    def scored(self, rollouts: dict[str, Any], rewards: Tensor) -> dict[str, Tensor]:
        """Which tokens are imitated, how many there are over all ranks, and the teacher's scores."""
        kd = self.distillation
        if kd is None or not self._is_distilled_soon(kd):
            return {}
        tokens = self._drawn(kd, rollouts) & self._kept(
            kd, rewards, len(rollouts["completion_ids"])
        )
        counts: Any = self.accelerator.gather(tokens.sum())
        added = {"kd_tokens": tokens, "kd_count": counts.sum()}
        if self.estimator is not None:
            added["teacher_logprobs"] = self._teacher_logprobs(kd, rollouts, tokens)
        return added

    def _is_distilled_soon(self, kd: Distillation) -> bool:
        """Whether the coefficient is not 0 at a step that these rollouts are for."""
        num_steps = -(-self.num_iterations // self.accumulated_share)
        first = self.state.global_step
        return any(kd.coefficient(first + step) for step in range(max(1, int(num_steps))))

    def _drawn(self, kd: Distillation, rollouts: dict[str, Any]) -> Tensor:
        """The tokens that the student drew, without ends that mean nothing to the teacher, [B, C]."""
        drawn = rollouts["completion_mask"].bool()
        if "tool_mask" in rollouts:
            drawn = drawn & rollouts["tool_mask"].bool()
        return drawn & ~kd.teacher.foreign_ends(Rollouts.of(rollouts), self.eos_token_ids)

    def _kept(self, kd: Distillation, rewards: Tensor, num_rows: int) -> Tensor:
        """Which of this rank's responses are imitated, [B, 1]."""
        size: Any = self.num_generations if self.is_training else self.num_generations_eval
        is_right = rewards[:, kd.correct_reward] > kd.right_above
        kept = kept_responses(kd.mask, is_right, size)
        return kept[self.accelerator.process_index * num_rows :][:num_rows, None]

    def _teacher_logprobs(
        self, kd: Distillation, rollouts: dict[str, Any], tokens: Tensor
    ) -> Tensor:
        """Of the imitated tokens, 0 elsewhere, [B, C]; rows without any are not scored."""
        args = self.args
        size = args.train_batch_size if self.is_training else args.eval_batch_size
        with self.clock.part("teacher"):
            return kd.teacher.token_logprobs(
                Rollouts.of(rollouts), tokens, temperature=self.temperature, batch_size=size
            )

    def total(self, policy: Tensor, scores: PolicyScores, rollouts: dict[str, Any]) -> Tensor:
        """GRPO's loss and the distillation term's share of this micro-batch."""
        kd = self.distillation
        coefficient = 0.0 if kd is None else kd.coefficient(self.state.global_step)
        if kd is None or coefficient == 0 or "kd_tokens" not in rollouts:
            return policy
        # Gradients are averaged over ranks, and the ranks' shares are to be added.
        count = max(1, rollouts["kd_count"].item()) * self.accumulated_share
        share = self.accelerator.num_processes / count
        of_terms = self._of_tokens if self.estimator is not None else self._of_vocabulary
        loss, gaps = of_terms(kd, scores, rollouts, share)
        self._note(coefficient, gaps, rollouts["kd_tokens"])
        return policy + coefficient * loss

    def _of_tokens(
        self, kd: Distillation, scores: PolicyScores, rollouts: dict[str, Any], share: float
    ) -> tuple[Tensor, Tensor]:
        assert self.estimator is not None
        tokens, teacher = rollouts["kd_tokens"], rollouts["teacher_logprobs"]
        values = self.estimator(scores.logprobs, teacher, rollouts.get("old_per_token_logps"))
        gaps = (scores.logprobs.detach() - teacher)[tokens]
        return values.where(tokens, 0).sum() * share, gaps

    def _of_vocabulary(
        self, kd: Distillation, scores: PolicyScores, rollouts: dict[str, Any], share: float
    ) -> tuple[Tensor, Tensor]:
        tokens, ids = rollouts["kd_tokens"], rollouts["completion_ids"]
        assert scores.hidden is not None
        with self.clock.part("teacher"):
            heads = kd.teacher.heads(Rollouts.of(rollouts), tokens)
        student: Any = self.accelerator.unwrap_model(self.model)
        dtype = wide(scores.hidden.dtype)
        loss, gaps = scores.logprobs.new_zeros(()), [scores.hidden.new_zeros(0, dtype=dtype)]
        for part, head in heads:
            vocab_size = len(head.weight)
            output = divergence_from_hidden(
                linear_head(student, scores.hidden[part], vocab_size),
                head,
                ids[part].where(ids[part] < vocab_size, IGNORED_ID),
                [HeadTerm("reverse_kl", REVERSE_KL, self.temperature)],
                scores.hidden.new_full((1, len(head.hidden)), share, dtype=dtype),
                compute_dtype=head_dtype(self.args),
            )
            loss = loss + output.loss
            gaps.append(output.values[0])
        return loss, torch.cat(gaps)

    def _note(self, coefficient: float, gaps: Tensor, tokens: Tensor) -> None:
        """Logs `kd/coefficient`, `kd/reverse_kl` in nats per token, and the share of `kd/responses`."""
        counts = [tokens.sum(), tokens.any(1).sum(), gaps.new_tensor(len(tokens))]
        sums: Any = self.accelerator.reduce(torch.stack([gaps.sum(), *counts]), "sum")
        total, num_tokens, num_kept, num_rows = sums.tolist()
        self.note("kd/coefficient", coefficient)
        self.note("kd/responses", num_kept / num_rows)
        self.note("kd/reverse_kl", total / num_tokens if num_tokens else float("nan"))
