"""Low-rank adapters: attached before training, merged when the student is saved."""

import peft
from transformers import PreTrainedModel

from llmkd.models.kinds import is_seq2seq
from llmkd.recipe.models import LoraConfig


def attach(model: PreTrainedModel, lora: LoraConfig) -> peft.PeftModel:
    """Freezes the model and adds trainable low-rank adapters; the output head stays as it is."""
    task = (peft.TaskType.CAUSAL_LM, peft.TaskType.SEQ_2_SEQ_LM)
    config = peft.LoraConfig(
        task_type=task[is_seq2seq(model.config)],
        r=lora.r,
        lora_alpha=lora.alpha,  # pyright: ignore[reportArgumentType]  # alpha / r need not be whole
        lora_dropout=lora.dropout,
        target_modules=lora.target_modules,
    )
    adapted = peft.get_peft_model(model, config)
    assert isinstance(adapted, peft.PeftModel)
    return adapted
