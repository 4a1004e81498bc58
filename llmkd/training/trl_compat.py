"""All that llmkd uses of TRL beyond its public names, and the checks that it is still what it was.

TRL's `GRPOTrainer` has no hooks for a second loss: what is overridden here are its private methods.
Written against TRL 1.16; a version in which one of them has changed is refused with its number, when
the trainer is built or at the latest in the first step.
"""

import inspect
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from transformers.trainer_utils import TrainOutput

from llmkd.data.tokenize import encode_prompts
from llmkd.errors import InputError, LlmkdError
from llmkd.training.finite_steps import FiniteSteps
from llmkd.training.kept_state import KeepsState
from llmkd.training.metrics import STATE_FILE
from llmkd.training.step_clock import NotedTimes, StepClock

try:
    import trl
    from trl import GRPOTrainer
except ImportError as error:
    raise InputError(
        f"kind: kdrl stands on TRL, which cannot be imported ({error}); write pip install 'llmkd[rl]'"
    ) from error

METHODS = {
    "_tokenize_prompts": ("prompts",),
    "_calculate_rewards": ("inputs", "prompts", "completions", "completion_ids_list"),
    "_generate_and_score_completions": ("inputs",),
    "_get_per_token_logps_and_entropies": ("model", "input_ids", "attention_mask"),
    "_compute_loss": ("model", "inputs"),
}
"""What is overridden, with the parameters that must be there."""
OUTPUT_KEYS = ("prompt_ids", "prompt_mask", "completion_ids", "completion_mask", "advantages")
"""What the rollouts must have."""


@dataclass(frozen=True)
class PolicyScores:
    """What the policy said of one micro-batch, caught in the forward pass that the loss took.

    Args:
        logprobs: Of the completions' tokens at the sampling temperature, with their graph, [B, C];
            0 at padding.
        hidden: The hidden states that predict them, with their graph, [B, C, H]; None where nobody
            asked.
    """

    logprobs: Tensor
    hidden: Tensor | None


class HookedGRPOTrainer(FiniteSteps, GRPOTrainer):
    """`trl.GRPOTrainer` with two places to add to: the rollouts, and the loss.

    Without anything added it computes what its base does, bit for bit. A checkpoint also keeps what
    was not logged yet and what callbacks remember.
    """

    keeps_hidden = False
    """Whether `loss` needs the policy's hidden states."""

    def __init__(self, **arguments: Any):
        check_methods()
        super().__init__(**arguments)
        self._rewards: Tensor | None = None
        self._caught: list[Tensor] | None = None
        self._rollouts = list[dict[str, Any]]()
        self._order: Any = None
        self._unlogged = {"loss": 0.0, "num_steps": 0}
        self.clock = StepClock(self.accelerator.device)
        self.add_callback(NotedTimes(self.clock, self.note))

    def of_rows(self, rows: list[dict[str, Any]]) -> dict[str, Tensor]:
        """What to keep of the data beside the rollouts: further keys, [B] each.

        Args:
            rows: Of the data, one for each of this rank's B completions.
        """
        return {}

    def scored(self, rollouts: dict[str, Any], rewards: Tensor) -> dict[str, Tensor]:
        """What to add to a generation batch: further keys, [B] or [B, C] each, or scalars.

        Args:
            rollouts: `OUTPUT_KEYS` of this rank's B completions, left-padded prompts [B, P] and
                right-padded completions [B, C], and what `of_rows` gave.
            rewards: Of all ranks' completions, group by group, [world * B, num_funcs].
        """
        return {}

    def total(self, policy: Tensor, scores: PolicyScores, rollouts: dict[str, Any]) -> Tensor:
        """The loss of a micro-batch.

        Args:
            policy: GRPO's own, a scalar.
            scores: The policy's.
            rollouts: The micro-batch's share of the rollouts, with what `scored` added.
        """
        return policy

    def reward_weight_now(self) -> float:
        """What multiplies all advantages at this step."""
        return 1.0

    def note(self, name: str, value: float) -> None:
        """Logs a value; between two log lines, the mean."""
        self._metrics["train" if self.is_training else "eval"][name].append(value)

    def train(self, resume_from_checkpoint: Any = None, *args: Any, **kwargs: Any) -> TrainOutput:
        """As in transformers; metrics and callbacks go on where the checkpoint left them."""
        if resume_from_checkpoint:
            state = json.loads((Path(resume_from_checkpoint) / STATE_FILE).read_text())
            self._metrics["train"].update(state["metrics"])
            self._unlogged = state["unlogged"]
            for callback in self._callbacks_with_state():
                callback.restore(state["callbacks"].get(type(callback).__name__, {}))
            # The checkpoint's step was validated when it was taken.
            self.args.eval_on_start = False
        return super().train(resume_from_checkpoint, *args, **kwargs)

    def collect_state(self) -> None:
        """The loss since the last log line, over all ranks."""
        loss: Any = self.accelerator.reduce(self._tr_loss, "mean")
        num_steps = self.state.global_step - self._globalstep_last_logged
        self._unlogged = {"loss": loss.item(), "num_steps": num_steps}

    def save_state_in(self, checkpoint: Path) -> None:
        """See `WholeCheckpoints`."""
        callbacks = {type(each).__name__: each.state() for each in self._callbacks_with_state()}
        state = {
            "metrics": self._metrics["train"],
            "callbacks": callbacks,
            "unlogged": self._unlogged,
        }
        (checkpoint / STATE_FILE).write_text(json.dumps(state))

    def _callbacks_with_state(self) -> list[KeepsState]:
        callbacks: Any = self.callback_handler.callbacks
        return [each for each in callbacks if isinstance(each, KeepsState)]

    def latest_rollouts(self, most: int) -> list[dict[str, Any]]:
        """The first rollouts of the latest generation batch: texts, rewards and advantage of each."""
        return self._rollouts[:most]

    def _logged_rollouts(self) -> list[dict[str, Any]]:
        logs: Any = self._logs
        rewards = {name: list(values) for name, values in logs["rewards"].items()}
        columns = zip(logs["prompt"], logs["completion"], logs["advantages"], strict=True)
        return [
            {
                "prompt": prompt,
                "completion": completion,
                "rewards": {name: values[row] for name, values in rewards.items()},
                "advantage": advantage,
            }
            for row, (prompt, completion, advantage) in enumerate(columns)
        ]

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: TRL's own would be written beside every checkpoint, and the model has one."""

    @property
    def is_training(self) -> bool:
        """Whether these are steps of the training, and not of an evaluation."""
        assert self.model is not None
        return self.model.training

    @property
    def accumulated_share(self) -> float:
        """How many generation batches one optimizer step takes; a part of one, where it is several's."""
        if not self.is_training:
            return 1.0
        args: Any = self.args
        return self.current_gradient_accumulation_steps / args.steps_per_generation

    def _get_train_sampler(self, *args: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        self._order = super()._get_train_sampler(*args)
        return self._order

    def _run_epoch(self, *args: Any, **arguments: Any) -> None:
        if (
            arguments["resume_from_checkpoint"]
            and arguments["epoch"] == arguments["epochs_trained"]
        ):
            # The sampler draws an order for each epoch, one after the other.
            for _ in range(arguments["epochs_trained"]):
                next(iter(self._order))
            self._tr_loss += self._unlogged["loss"]
            self._globalstep_last_logged -= self._unlogged["num_steps"]
        super()._run_epoch(*args, **arguments)

    def _tokenize_prompts(self, prompts: list[Any]) -> Any:
        if not isinstance(prompts[0], str):
            return super()._tokenize_prompts(prompts)
        # TRL takes the tokenizer's own end-of-text token along, after which there is nothing to say.
        tokenizer: Any = self.processing_class
        return encode_prompts(prompts, tokenizer), None, {}

    def _calculate_rewards(self, *args: Any, **kwargs: Any) -> Tensor:
        with self.clock.part("rewards"):
            rewards: Any = super()._calculate_rewards(*args, **kwargs)
        self._rewards = rewards
        return rewards

    def _generate_and_score_completions(self, inputs: Any) -> dict[str, Any]:
        with self.clock.part("rollout"):
            return self._rolled_out(inputs)

    def _rolled_out(self, inputs: Any) -> dict[str, Any]:
        self._rewards = None
        rollouts = super()._generate_and_score_completions(inputs) | self.of_rows(inputs)
        if self.is_training:
            # An evaluation between two steps of the same batch writes over TRL's own.
            self._rollouts = self._logged_rollouts()
        if missing := [key for key in OUTPUT_KEYS if key not in rollouts]:
            raise changed(f"its rollouts have no {', '.join(missing)}")
        if self._rewards is None or self._rewards.dim() != 2:
            raise changed("its rewards are no table of completions and reward functions")
        return rollouts | self.scored(rollouts, self._rewards)

    def _get_per_token_logps_and_entropies(self, *args: Any, **kwargs: Any) -> Any:
        scored = super()._get_per_token_logps_and_entropies(*args, **kwargs)
        if self._caught is not None:
            self._caught.append(scored[0])
        return scored

    def _compute_loss(self, model: nn.Module, inputs: dict[str, Any]) -> Tensor:
        weight = self.reward_weight_now()
        if weight != 1:
            inputs = inputs | {"advantages": inputs["advantages"] * weight}
        self._caught = []
        try:
            with self._door(model) as hidden:
                policy = super()._compute_loss(model, inputs)
            caught = self._caught
        finally:
            self._caught = None
        length = inputs["completion_ids"].shape[1]
        if len(caught) != 1 or caught[0].shape[1] != length:
            raise changed(
                f"its loss scored the policy {len(caught)} times, where once was expected"
            )
        if self.keeps_hidden and len(hidden) != 1:
            raise changed(f"its loss ran the policy {len(hidden)} times, where once was expected")
        states = hidden[0][:, -length - 1 : -1] if self.keeps_hidden else None
        loss = self.total(policy, PolicyScores(caught[0], states), inputs)
        if self.is_training:
            parts = {"policy": policy.detach(), "objective": loss.detach()}
            self.note_loss(loss, parts, inputs["prompt_ids"])
        return loss

    @contextmanager
    def _door(self, model: nn.Module) -> Iterator[list[Tensor]]:
        """Catches what the backbone gives to TRL's own output head."""
        caught: list[Tensor] = []
        if not self.keeps_hidden:
            yield caught
            return
        whole: Any = self.accelerator.unwrap_model(model)
        # A PeftModel's own `base_model` is the adapter's layer around the whole model.
        causal = whole.get_base_model() if hasattr(whole, "peft_config") else whole

        def catch(backbone: nn.Module, args: Any, output: Any) -> None:
            caught.append(output.last_hidden_state)

        handle = causal.base_model.register_forward_hook(catch)
        try:
            yield caught
        finally:
            handle.remove()


def check_methods() -> None:
    """Refuses a TRL whose `GRPOTrainer` lacks a method that is overridden here, or its parameters."""
    for name, needed in METHODS.items():
        method = getattr(GRPOTrainer, name, None)
        found = inspect.signature(method).parameters if callable(method) else {}
        if missing := [parameter for parameter in needed if parameter not in found]:
            raise changed(f"GRPOTrainer.{name} has no {', '.join(missing)}")


def changed(what: str) -> LlmkdError:
    """The error of a TRL that is not the one that this file was written against."""
    return LlmkdError(
        f"trl {trl.__version__} is not as llmkd knows it: {what}; install trl>=1.16,<2, and where "
        "that is what you have, trl==1.16.0"
    )
