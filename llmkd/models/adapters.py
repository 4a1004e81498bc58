"""Low-rank adapters: attached before training, merged when the student is saved."""

from collections.abc import Sequence

import peft
from transformers import PreTrainedModel

from llmkd.models.classifiers import head_names
from llmkd.models.kinds import is_seq2seq
from llmkd.models.signals import is_classifier
from llmkd.recipe.models import LoraConfig


def attach(
    model: PreTrainedModel, lora: LoraConfig, new_parts: Sequence[str] = ()
) -> peft.PeftModel:
    """Freezes the model and adds trainable low-rank adapters.

    A language model's output head stays as it is; a classifier's is trained whole, and so are its
    `new_parts`, which would stay random.
    """
    heads = [*head_names(model), *new_parts] if is_classifier(model) else []
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
