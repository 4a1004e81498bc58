"""Checks a kdrl stage's `trainer` block against `trl.GRPOConfig` without importing it."""

import functools
from typing import Any

from llmkd.recipe.training_arguments import (
    DEFAULTS,
    OWNED,
    TRAINING,
    Argument,
    TrainerBlock,
    fields_of,
    package_folder,
    training_arguments,
)

_VALIDATION = "write the stage's `validation`"
_ROLLOUTS = "the run folder's rollouts.jsonl has them; leave it out"

GRPO_DEFAULTS: dict[str, Any] = {
    **DEFAULTS,
    "logging_steps": 1,
    # TRL's own are true, which is slower, and not what a float32 recipe says.
    "bf16": False,
    "activation_checkpointing": False,
    # What the objective means hangs on these, whatever TRL's next version prefers.
    "loss_type": "dapo",
    "beta": 0.0,
    "importance_sampling_level": "token",
    "scale_rewards": "group",
    "num_iterations": 1,
    "temperature": 1.0,
}
"""Where llmkd's defaults differ from TRL's, or are not to follow it."""

GRPO_OWNED = {
    name: _VALIDATION if name.startswith(("eval_", "per_device_eval")) else instead
    for name, instead in OWNED.items()
} | {
    "do_train": "a stage of kind kdrl trains; leave it out",
    "num_generations_eval": _VALIDATION,
    "reward_weights": "write `weight` in each of `reward_funcs`",
    "model_init_kwargs": "write `student.dtype` and `student.attn_implementation`",
    "trust_remote_code": "llmkd loads no code of models; leave it out",
    "log_completions": _ROLLOUTS,
    "num_completions_to_print": _ROLLOUTS,
    "log_unique_prompts": _ROLLOUTS,
    "log_completions_hub_repo": _ROLLOUTS,
    "log_multimodal": _ROLLOUTS,
    "auto_find_batch_size": "a batch has whole groups; lower per_device_train_batch_size",
}
"""What llmkd owns of the names, and what to write instead."""


def is_trl_installed() -> bool:
    """Whether its source is there to be read."""
    return package_folder("trl") is not None


@functools.cache
def grpo_arguments() -> dict[str, Argument]:
    """The fields of the installed `trl.GRPOConfig`; without TRL, those that it has from transformers."""
    folder = package_folder("trl")
    if folder is None:
        return training_arguments()
    own = folder / "trainer"
    return {
        **training_arguments(),
        **fields_of("_BaseConfig", own / "base_config.py"),
        **fields_of("GRPOConfig", own / "grpo_config.py"),
    }


GRPO = TrainerBlock(grpo_arguments, GRPO_OWNED, GRPO_DEFAULTS, "trl.GRPOConfig")
"""Of a kdrl stage."""
TRAINER_BLOCKS = {"train": TRAINING, "kdrl": GRPO}
"""By the kind of the stage."""
