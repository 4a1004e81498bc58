"""A kdrl stage in miniature: one optimizer step on a few tokens, rewards and teacher included."""

from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from llmkd.check.miniature import FEW_TOKENS, at_most
from llmkd.recipe.grpo_arguments import GRPO, num_generated
from llmkd.recipe.kdrl import KDRLStage
from llmkd.recipe.training_arguments import effective

PROMPTS_READ = 64


def try_kdrl(stage: KDRLStage, folder: Path, seed: int) -> None:
    """Takes one step, and saves the student as it is then: the stand-in for the model.

    Raises:
        InputError: What is loaded does not fit, or a reward cannot be had.
    """
    # Imported here, for it brings TRL, which recipes without such a stage need not have.
    from llmkd.training.kdrl import build_kdrl_trainer

    trainer = build_kdrl_trainer(_in_miniature(stage), folder, seed=seed)
    trainer.train()
    model: Any = trainer.model
    if stage.student.lora is not None:
        model = model.merge_and_unload()
    model.save_pretrained(folder / "model")
    assert isinstance(trainer.processing_class, PreTrainedTokenizerBase)
    trainer.processing_class.save_pretrained(folder / "model")


def _in_miniature(stage: KDRLStage) -> KDRLStage:
    arguments = effective(stage.trainer, GRPO)
    most = min(FEW_TOKENS, arguments["max_completion_length"])
    small = {"max_steps": 1, "max_completion_length": most, "save_strategy": "no"}
    quiet = {"report_to": "none", "push_to_hub": False}
    data = stage.data.model_copy(
        update=at_most(stage.data, max(PROMPTS_READ, num_generated(arguments)))
    )
    return stage.model_copy(
        update={
            "trainer": {**stage.trainer, **small, **quiet},
            "data": data,
            "validation": None,
            "guards": [],
        }
    )
