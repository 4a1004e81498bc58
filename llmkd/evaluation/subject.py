"""A model that is measured: what results call it, and where it is, loaded when first asked for."""

import gc
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from llmkd.errors import InputError
from llmkd.models.finite import broken_weight, broken_weight_in
from llmkd.models.kinds import is_seq2seq
from llmkd.models.load import config_of, dtype_name, load_model, tokenizer_of
from llmkd.recipe.models import PretrainedModel
from llmkd.run_folder import digest
from llmkd.teacher_data.transformers_engine import load_for_inference


@dataclass(frozen=True)
class Subject:
    """A model that is measured.

    Args:
        label: What results call it.
        source: Where it is.
        load: What loads this kind of model.
    """

    label: str
    source: PretrainedModel
    load: Callable[[PretrainedModel], PreTrainedModel] = load_model

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The model's tokenizer, without the model."""
        return tokenizer_of(self.source)

    @property
    def content(self) -> dict[str, Any]:
        """What the model is, as plain data: the same folder may hold another one later."""
        paths = (self.source.model_name_or_path, self.source.adapter_name_or_path)
        found = [None if path is None else digest(Path(path)) for path in paths]
        return {**self.source.model_dump(mode="json"), "content": found}

    @property
    def num_parameters(self) -> int | None:
        """Of the model; by its configuration where nothing has loaded it, None where that is of no use."""
        if (loaded := self.__dict__.get("model")) is not None:
            return loaded.num_parameters()
        if self.load is not load_model:
            return None
        try:
            config = config_of(self.source)
        except InputError:
            # Which its tasks have told.
            return None
        kind = AutoModelForSeq2SeqLM if is_seq2seq(config) else AutoModelForCausalLM
        with torch.device("meta"):
            return kind.from_config(config).num_parameters()

    @cached_property
    def held(self) -> dict[str, Any]:
        """Engines that the model runs in, by name, for the tasks to come; each can be closed."""
        return {}

    def close(self) -> None:
        """Ends the engines that are held."""
        while self.held:
            self.held.popitem()[1].close()

    @cached_property
    def model(self) -> PreTrainedModel:
        """The model in transformers, for inference, on the accelerator where there is one.

        Raises:
            InputError: Nothing loadable is there, or its weights are not all finite.
        """
        model = load_for_inference(self.source, self.load)[0]
        self._refuse_broken(broken_weight(model))
        return model

    def refuse_broken_files(self) -> None:
        """Raises InputError where weights on this machine, for an engine to load, are not finite."""
        self._refuse_broken(self._broken_file)

    @cached_property
    def _broken_file(self) -> str | None:
        return broken_weight_in(Path(self.source.model_name_or_path).expanduser())

    def _refuse_broken(self, weight: str | None) -> None:
        if weight is not None:
            raise InputError(
                f"{self.label}: its weight {weight} holds NaN or an infinite number, so whatever is "
                "measured says nothing, as where a training went wrong; write a checkpoint from "
                "before that, or copy the model anew"
            )

    def release(self) -> None:
        """Gives back the memory of the model in transformers, which is loaded again when asked for."""
        if self.__dict__.pop("model", None) is not None:
            # Some models refer to themselves.
            gc.collect()
            torch.cuda.empty_cache()

    def is_as_loaded(self, other: PretrainedModel) -> bool:
        """Whether another source stands for the same weights in the same type: one copy serves both."""
        if not self.source.names_the_model_of(other):
            return False
        return dtype_name(self.source) == dtype_name(other)


def subject_at(
    label: str, path: str | PretrainedModel, load: Callable[[PretrainedModel], PreTrainedModel]
) -> Subject:
    """A model, or that of a folder or hub name in the type of its own weights."""
    if isinstance(path, str):
        path = PretrainedModel(model_name_or_path=path, dtype="auto")
    return Subject(label, path, load)
