"""Low-rank adapters: attached before training, merged when the student is saved."""

import peft
from transformers import PreTrainedModel

from llmkd.models.kinds import is_seq2seq
from llmkd.models.signals import is_classifier
from llmkd.recipe.models import LoraConfig


def attach(model: PreTrainedModel, lora: LoraConfig) -> peft.PeftModel:
    """Freezes the model and adds trainable low-rank adapters.

    A language model's output head stays as it is; a classifier's is trained whole.
    """
    heads = _heads(model) if is_classifier(model) else []
    config = peft.LoraConfig(
        task_type=peft.TaskType.SEQ_CLS if heads else _language_task(model),
        modules_to_save=heads or None,
        exclude_modules=rf"({'|'.join(heads)})(\..*)?" if heads else None,
        r=lora.r,
        lora_alpha=lora.alpha,  # pyright: ignore[reportArgumentType]  # alpha / r need not be whole
        lora_dropout=lora.dropout,
        target_modules=lora.target_modules,
    )
    adapted = peft.get_peft_model(model, config)
    assert isinstance(adapted, peft.PeftModel)
    return adapted


def _language_task(model: PreTrainedModel) -> peft.TaskType:
    return (peft.TaskType.CAUSAL_LM, peft.TaskType.SEQ_2_SEQ_LM)[is_seq2seq(model.config)]


def _heads(model: PreTrainedModel) -> list[str]:
    """A classifier's parts outside its encoder."""
    return [
        name
        for name, part in model.named_children()
        if name != model.base_model_prefix and any(True for _ in part.parameters())
    ]
