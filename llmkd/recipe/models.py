"""Teachers, students and adapters, as a recipe names them."""

import os
from typing import Annotated, Any, Literal

from pydantic import Field, Tag

from llmkd.recipe.base import RecipePart, kind_or
from llmkd.recipe.teacher_data import ServerEngine

Dtype = Literal["float32", "bfloat16", "float16", "auto"]


class NamedModel(RecipePart):
    """A model's folder or hub repository: whose tokenizer and configuration are read."""

    model_name_or_path: str = Field(min_length=1)
    """A folder, a hub name, or `stage:NAME` for the model that an earlier stage made."""
    revision: str | None = None
    """Branch, tag or commit of the hub repository."""
    trust_remote_code: bool = False
    """Run the Python files that come with the model, where transformers lacks its architecture; read
    them first. Runs with `--allow-code` only."""


class PretrainedModel(NamedModel):
    """A language model that `transformers` can load: causal, or with an encoder and a decoder."""

    dtype: Dtype = "float32"
    """The weights' type in memory. `auto` keeps the checkpoint's. Students train best in float32
    with `trainer.bf16: true`."""
    attn_implementation: str | None = None
    """`sdpa`, `eager`, `flash_attention_2`, ...; null leaves the choice to transformers."""
    use_safetensors: bool = True
    """`false` also takes weights that are pickled, `pytorch_model.bin` or an adapter's
    `adapter_model.bin`, where there are no others; torch then reads tensors alone."""
    adapter_name_or_path: str | None = Field(default=None, min_length=1)
    """A LoRA adapter that peft saved, a folder or a hub name, to go on top of these weights. For
    teachers of language models and models to be pruned: a student starts from merged weights."""

    @property
    def name(self) -> str:
        """What a reader may call it."""
        adapter = self.adapter_name_or_path
        return self.model_name_or_path + (f" with adapter {adapter}" if adapter else "")

    def names_the_model_of(self, other: "PretrainedModel") -> bool:
        """Whether both are the same but for the type of their weights, however a path is written."""
        # What a model is, not how it is loaded, nor where it is put.
        names = set(PretrainedModel.model_fields) - {
            "dtype",
            "trust_remote_code",
            "use_safetensors",
        }
        one, two = (
            each.model_dump(include=names)
            | {"model_name_or_path": os.path.realpath(each.model_name_or_path)}
            for each in (self, other)
        )
        return one == two


class InProcessTeacher(PretrainedModel):
    """A frozen teacher on the same device as the student, scored batch by batch."""

    kind: Literal["in_process"] = "in_process"
    offload: Literal["cpu"] | None = None
    """`cpu`: its weights are in the accelerator's memory only while it is asked, at every batch; null
    keeps them there."""
    sharded: bool = False
    """Its weights in parts, one on each process, whatever the student's engine: each layer is gathered
    while it runs, the output head stays whole. With `offload: cpu` the parts are in host memory. For
    train stages."""
    quantization: Literal["8bit", "4bit"] | None = None
    """Weights of all linear layers but the output head in so many bits, by bitsandbytes (`pip install
    'llmkd[quantized]'`): LLM.int8(), or NF4. The student imitates the quantised model."""


class StoreTeacher(RecipePart):
    """What a teacher said once, kept by a generate or score stage: it need not be here any more."""

    kind: Literal["store"]
    path: str = Field(min_length=1)
    """A store's folder, or `stage:NAME` for what an earlier stage captured."""


class ServedModel(NamedModel):
    """A language model behind a running `vllm serve`."""

    kind: Literal["server"]
    model_name_or_path: str = Field(min_length=1)
    """The same model here: its tokenizer and configuration are read, its weights are the server's."""
    server: ServerEngine
    """Where it is."""

    @property
    def as_pretrained(self) -> PretrainedModel:
        """The same model here."""
        same = self.model_dump(include=set(NamedModel.model_fields))
        return PretrainedModel.model_validate(same)


class ServerTeacher(ServedModel):
    """A teacher behind a running `vllm serve`, asked for its likeliest tokens at every batch."""

    top_k: int = Field(default=50, gt=0)
    """Tokens asked for at each position; the server must be started with `--max-logprobs` of as many."""


Teacher = Annotated[
    Annotated[InProcessTeacher, Tag("in_process")]
    | Annotated[StoreTeacher, Tag("store")]
    | Annotated[ServerTeacher, Tag("server")],
    kind_or("in_process"),
]


class LoraConfig(RecipePart):
    """Low-rank adapters by peft; the saved `model/` holds merged weights, `adapter/` the adapter.

    References:
        Hu et al. 2021, "LoRA", https://arxiv.org/abs/2106.09685.
    """

    r: int = Field(default=16, gt=0)
    """Rank of the update."""
    alpha: float = Field(default=32.0, gt=0)
    """The update is scaled by alpha / r."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of an adapter's inputs that is zeroed in training."""
    target_modules: Literal["all-linear"] | list[str] = "all-linear"
    """Names of the layers to adapt; `all-linear` is every linear layer but the output head."""


class ScratchStudent(RecipePart):
    """A randomly initialised student of a given shape."""

    kind: Literal["scratch"]
    config: dict[str, Any]
    """`transformers` config fields; `model_type` is required. `vocab_size` and the special token
    ids, `decoder_start_token_id` among them, come from the tokenizer unless given."""
    tokenizer_name_or_path: str | None = None
    """Default: the teacher's tokenizer, or without a teacher the task's own."""
    attn_implementation: str | None = None
    """`sdpa`, `eager`, `flash_attention_2`, ...; null leaves the choice to transformers."""


class PretrainedStudent(PretrainedModel):
    """A student that starts from existing weights."""

    kind: Literal["pretrained"] = "pretrained"
    lora: LoraConfig | None = None
    """Train low-rank adapters instead of all weights."""


StudentSource = Annotated[
    Annotated[ScratchStudent, Tag("scratch")] | Annotated[PretrainedStudent, Tag("pretrained")],
    kind_or("pretrained"),
]
