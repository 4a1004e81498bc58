"""Settings and fixtures for every test: no network, no telemetry, tiny real models."""

import atexit
import contextlib
import copy
import os
import resource
import shutil
import tempfile
from pathlib import Path

# Read by the libraries when they are imported, hence before the imports below.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
os.environ["HF_DATASETS_CACHE"] = tempfile.mkdtemp(prefix="llmkd-tests-")
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import hypothesis
import jaxtyping
import peft
import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from llmkd.compiled import prepare_builds

# In the user's own cache, which outlives the tests.
prepare_builds()
os.environ["LLMKD_CACHE"] = tempfile.mkdtemp(prefix="llmkd-tests-")

# The shapes in annotations are checked in tests only, from the first import of these on.
SHAPED = [
    "losses",
    "objective",
    "data",
    "teachers",
    "teacher_data",
    "evaluation",
    "curation.minhash",
    "curation.contamination",
    "pruning",
]
jaxtyping.install_import_hook([f"llmkd.{name}" for name in SHAPED], "beartype.beartype")

for cache in ("HF_DATASETS_CACHE", "LLMKD_CACHE"):
    atexit.register(shutil.rmtree, os.environ[cache], ignore_errors=True)

# Tiny models are fastest on one thread, and runs side by side do not get in each other's way.
torch.set_num_threads(1)

hypothesis.settings.register_profile("default", deadline=None)
hypothesis.settings.register_profile("ci", deadline=None, derandomize=True)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "default")

ROOT = Path(__file__).parent.parent


@pytest.fixture
def tokenizer():
    """The addition task's tokenizer: one token per character."""
    from llmkd.data.addition import build_tokenizer

    return build_tokenizer()


@pytest.fixture
def no_large_files():
    """A block in which files may have 1,000 bytes, as on a full disk; pytest's own log is outside."""

    @contextlib.contextmanager
    def limited():
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    return limited


@pytest.fixture
def chat_tokenizer():
    """A byte-level tokenizer, with ChatML's marks and template."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {letter: i for i, letter in enumerate(alphabet)}
    backend = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|im_end|>")
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>"]})
    tokenizer.chat_template = (
        "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}"
        "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    return tokenizer


@pytest.fixture(scope="session")
def tiny_llama():
    """Makes a two-layer Llama with random weights for a given tokenizer."""

    def make(tokenizer, *, seed=0, hidden_size=32, **config):
        shape = {
            "vocab_size": len(tokenizer),
            "hidden_size": hidden_size,
            "intermediate_size": 2 * hidden_size,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 128,
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
            # Larger than usual, so that random models differ in what they find likely.
            "initializer_range": 0.2,
        }
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return LlamaForCausalLM(LlamaConfig(**(shape | config))).eval()

    return make


@pytest.fixture
def lora():
    """Saves a random LoRA adapter of a model; gives the model that the two make, worked out by hand."""

    def make(model, folder, *, seed=5, **config):
        settings = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear"} | config
        # use_rslora divides by the root of the rank.
        divisor = settings["r"] ** (0.5 if settings.get("use_rslora") else 1)
        # False leaves the update random, rather than 0.
        settings = peft.LoraConfig(init_lora_weights=False, **settings)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            peft.get_peft_model(copy.deepcopy(model), settings).save_pretrained(folder)
        weights = load_file(folder / "adapter_model.safetensors")
        both = copy.deepcopy(model)
        for name, a in weights.items():
            if name.endswith(".lora_A.weight"):
                b = weights[name.replace(".lora_A.", ".lora_B.")]
                layer = both.get_submodule(name.removesuffix(".lora_A.weight").split(".", 2)[2])
                layer.weight.data += settings.lora_alpha / divisor * b @ a
        return both

    return make


@pytest.fixture(scope="session")
def tiny_seq2seq():
    """Makes a two-layer T5 or BART with random weights for a given tokenizer."""
    from llmkd.models.load import build_from_scratch
    from llmkd.recipe.models import ScratchStudent

    shapes = {
        "t5": {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4},
        "bart": {
            "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_ffn_dim": 64,
            "decoder_ffn_dim": 64, "encoder_attention_heads": 4, "decoder_attention_heads": 4,
            "max_position_embeddings": 128, "init_std": 0.2,
        },
    }  # fmt: skip

    def make(tokenizer, kind="t5", *, seed=0, **config):
        fields = {"model_type": kind, **shapes[kind], **config}
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            source = ScratchStudent.model_validate({"kind": "scratch", "config": fields})
            model = build_from_scratch(source, tokenizer)
            if kind == "bart":
                model.final_logits_bias.normal_()
        return model.eval()

    return make


@pytest.fixture
def framed():
    """Makes the addition task's tokenizer with other special tokens around a text."""
    from llmkd.data.addition import build_tokenizer

    def make(template):
        tokenizer = build_tokenizer()
        tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
            single=template, special_tokens=[("<bos>", 1), ("<eos>", 2), ("#", 17)]
        )
        return tokenizer

    return make


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real models and data beside the repository; skips where it is absent."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("no folder shared/data of real models and data beside the repository")
    return folder
