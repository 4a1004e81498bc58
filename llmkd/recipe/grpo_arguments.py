"""Checks a kdrl stage's `trainer` block against `trl.GRPOConfig` without importing it."""

import functools
from collections.abc import Mapping
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
    "trust_remote_code": "write `student.trust_remote_code`",
    "sync_ref_model": "checkpoints lack the reference that it moves; leave it out",
    "log_completions": _ROLLOUTS,
    "num_completions_to_print": _ROLLOUTS,
    "log_unique_prompts": _ROLLOUTS,
    "log_completions_hub_repo": _ROLLOUTS,
    "log_multimodal": _ROLLOUTS,
    "auto_find_batch_size": "a batch has whole groups; lower per_device_train_batch_size",
}
"""What llmkd owns of the names, and what to write instead."""


LOSS_TYPES = ("dapo", "bnpo", "dr_grpo", "grpo")
"""TRL's whose parts per micro-batch add up as the distillation term's do."""
OWN_DISTRIBUTION = {"top_p": 1.0, "top_k": 0, "min_p": None, "repetition_penalty": 1.0}
"""Sampling settings with which rollouts are drawn from the student's own distribution."""


def distillation_refusals(arguments: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Arguments with which GRPO and a teacher's term would not add up, and what to write instead.

    Args:
        arguments: All of `trl.GRPOConfig`; what is not there is taken to be as it should.
    """
    problems = list[tuple[str, str]]()
    loss_type = arguments.get("loss_type", "dapo")
    if loss_type not in LOSS_TYPES:
        message = (
            f"{loss_type} is not added up as distillation is; write one of {', '.join(LOSS_TYPES)}"
        )
        problems.append(("loss_type", message))
    if arguments.get("importance_sampling_level", "token") != "token":
        message = (
            "distillation takes the ratio of each token; write importance_sampling_level: token"
        )
        problems.append(("importance_sampling_level", message))
    cuts = {
        name: arguments[name]
        for name, neutral in OWN_DISTRIBUTION.items()
        if arguments.get(name, neutral) != neutral
    }
    if arguments.get("generation_kwargs"):
        cuts["generation_kwargs"] = "others than the fields of this block"
    return problems + [
        (
            name,
            f"the reverse KL is that of the student's own distribution, which {value} cuts; leave it out",
        )
        for name, value in cuts.items()
    ]


def num_generated(arguments: Mapping[str, Any]) -> int:
    """Responses that are written at once; on one device, where `generation_batch_size` does not say."""
    if arguments["generation_batch_size"]:
        return arguments["generation_batch_size"]
    each = arguments["steps_per_generation"] or arguments["gradient_accumulation_steps"]
    return arguments["per_device_train_batch_size"] * each


def too_few_prompts(num_prompts: int, arguments: Mapping[str, Any]) -> str | None:
    """Why so many prompts are too few: TRL leaves out what does not fill a generation batch."""
    at_once = num_generated(arguments) // arguments["num_generations"]
    if num_prompts >= at_once:
        return None
    return (
        f"there are {num_prompts} prompts, and {at_once} are answered at once; add some, or write a "
        "smaller trainer.per_device_train_batch_size"
    )


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
