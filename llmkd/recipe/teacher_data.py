"""What a teacher writes, how, and what is kept of its distributions."""

from typing import Annotated, Literal

from pydantic import Field, Tag

from llmkd.recipe.base import RecipePart, kind_or

OWN_VARIABLES = "LLMKD_"
"""What names of environment variables begin with that are set for llmkd, so that they hold no other's key."""


class Generation(RecipePart):
    """How text is sampled."""

    temperature: float = Field(default=1.0, ge=0)
    """0 is greedy."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Sample from the likeliest tokens that have so much probability together; 1 from all."""
    max_completion_length: int = Field(default=256, gt=0)
    """Tokens after which a completion is cut; cut completions are dropped and counted."""
    num_samples: int = Field(default=1, gt=0)
    """Completions of each prompt."""
    stop: list[Annotated[str, Field(min_length=1)]] = Field(default_factory=list)
    """Texts that end a completion and are no part of its text. The tokens in a store have them, so a
    student that trains on those learns to write them."""


class TopKCapture(RecipePart):
    """At every position the likeliest tokens, and the mass of all others."""

    kind: Literal["top_k"] = "top_k"
    top_k: int = Field(default=50, gt=0)
    """Tokens kept; more than the vocabulary keeps all of it."""
    temperature: float = Field(default=1.0, gt=0)
    """Divides the teacher's logits. What is kept at one temperature serves no other."""
    precision: Literal["quantised", "float32"] = "quantised"
    """`quantised`: log-probabilities in steps of 1/8 nat, a byte or less each. `float32`: exact."""


class SampledCapture(RecipePart):
    """At every position tokens drawn from the teacher, which stand for all of its distribution.

    References:
        Anshumann et al. 2025, "Sparse Logit Sampling", https://arxiv.org/abs/2503.16870.
    """

    kind: Literal["sampled"]
    num_samples: int = Field(default=50, gt=0)
    """Draws, with replacement."""
    temperature: float = Field(default=1.0, gt=0)
    """Divides the teacher's logits. What is drawn at one temperature serves no other."""


Capture = Annotated[
    Annotated[TopKCapture, Tag("top_k")] | Annotated[SampledCapture, Tag("sampled")],
    kind_or("top_k"),
]


class TransformersEngine(RecipePart):
    """`transformers`, batch by batch: right for small models, and for any architecture."""

    kind: Literal["transformers"] = "transformers"
    batch_size: int = Field(default=128, gt=0)
    """Sequences read or written together."""


class VLLMEngine(RecipePart):
    """vLLM in this process: many times faster from a few million parameters up; causal models."""

    kind: Literal["vllm"]
    tensor_parallel_size: int = Field(default=1, gt=0)
    """Accelerators that one copy of the model is spread over."""
    data_parallel_size: int = Field(default=1, gt=0)
    """Copies of the model, each with accelerators of its own."""
    gpu_memory_utilization: float = Field(default=0.9, gt=0, le=1)
    """Share of an accelerator's memory that vLLM takes."""
    max_model_len: int | None = Field(default=None, gt=0)
    """Tokens of the longest sequence; null takes what the model's configuration says."""
    max_num_seqs: int | None = Field(default=None, gt=0)
    """Sequences written at once; null leaves it to vLLM."""
    enforce_eager: bool = False
    """Skip compiling and CUDA graphs: starts sooner, runs slower."""


class ServerEngine(RecipePart):
    """A running `vllm serve`, asked over HTTP; for text and top-k log-probabilities."""

    kind: Literal["server"]
    base_url: str = Field(pattern=r"^https?://[^@]+$")
    """Where it is, such as `http://localhost:8000`; a key goes into `api_key_variable`. No redirect is followed, and proxies of the
    environment are used for `https` only."""
    model: str | None = None
    """What the server calls the model; null takes the only one that it has."""
    api_key_variable: str | None = None
    """Environment variable with the key, where the server asks for one. Its name begins with `LLMKD_`, or the server is on this
    machine; any other is sent with `--allow-code` only."""
    max_concurrency: int = Field(default=64, gt=0)
    """Requests that are waited for at once."""
    timeout_s: float = Field(default=600.0, gt=0)
    """Seconds after which a request is given up and sent again."""
    max_retries: int = Field(default=8, ge=0)
    """Times that a request is sent again, each after a longer wait, before the run fails."""


Engine = Annotated[
    Annotated[TransformersEngine, Tag("transformers")]
    | Annotated[VLLMEngine, Tag("vllm")]
    | Annotated[ServerEngine, Tag("server")],
    kind_or("transformers"),
]
