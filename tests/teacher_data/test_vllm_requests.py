import pytest
from transformers import GenerationConfig

from llmkd.errors import InputError, LlmkdError
from llmkd.recipe.models import PretrainedModel
from llmkd.recipe.teacher_data import Generation, TopKCapture, VLLMEngine
from llmkd.teacher_data import vllm_faults
from llmkd.teacher_data.vllm_faults import explained, import_vllm
from llmkd.teacher_data.vllm_replicas import device_shares
from llmkd.teacher_data.vllm_requests import (
    num_kept,
    sampling,
    scoring,
    vocabulary_of,
    written,
)

EOS = 2


@pytest.fixture
def source(teacher):
    return PretrainedModel(model_name_or_path=str(teacher[0]))


def test_what_ends_a_completion_is_the_checkpoints_tokens_and_the_tokenizers(teacher, source):
    assert vocabulary_of(source).size == 18
    assert vocabulary_of(source).stop_token_ids == [EOS]
    GenerationConfig(eos_token_id=[9, EOS]).save_pretrained(teacher[0])
    assert vocabulary_of(source).stop_token_ids == [EOS, 9]
    GenerationConfig(eos_token_id=7).save_pretrained(teacher[0])
    assert vocabulary_of(source).stop_token_ids == [EOS, 7]
    (teacher[0] / "generation_config.json").unlink()
    assert vocabulary_of(source).stop_token_ids == [EOS]


@pytest.mark.parametrize(
    ("num_rows", "num_spare"), [(18, 0), (20, 2), (34, 16), (35, 16), (1100, 16)]
)
def test_rows_that_only_pad_the_head_are_neither_counted_nor_sampled(
    tiny_llama, tokenizer, tmp_path, num_rows, num_spare
):
    tiny_llama(tokenizer, vocab_size=num_rows).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    found = vocabulary_of(PretrainedModel(model_name_or_path=str(tmp_path)))
    assert (found.size, found.num_rows, found.num_spare) == (18, num_rows, num_spare)
    assert num_kept(TopKCapture(top_k=50), found) == 18
    settings = sampling(Generation(), found, seed=0, max_tokens=1)
    padded = range(18, min(num_rows, 18 + 1024))
    assert settings.get("logit_bias") == (dict.fromkeys(padded, -100.0) or None)


def test_a_row_that_is_no_token_is_never_taken_for_one(source):
    assert written([17], "length", None, vocabulary_of(source), None).token_ids == [17]
    with pytest.raises(InputError, match=r"wrote 18, which is no token .*kind: transformers"):
        written([5, 18, 6], "length", None, vocabulary_of(source), None)


def test_a_head_that_is_smaller_than_the_tokenizer_is_refused(tiny_llama, tokenizer, tmp_path):
    tiny_llama(tokenizer, vocab_size=17).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(InputError, match="teacher: the model has 17 token embeddings"):
        vocabulary_of(PretrainedModel(model_name_or_path=str(tmp_path)))


@pytest.mark.parametrize(
    ("ids", "finish", "reason", "text", "expected"),
    [
        ([5, 6, EOS], "stop", None, "12", "stop"),
        # A token that ends it, though it is no special one.
        ([5, 6, 9], "stop", 9, "12", "stop"),
        ([5, 1, 6], "length", None, "12", "length"),
        ([5, 6, 7, 8], "stop", "34", "12", "stop"),
        ([5, 6, 7], "stop", "1", "", "stop"),
        # A stop string that begins with a space which this tokenizer leaves out.
        ([5, 6], "stop", " 12", "", "stop"),
    ],
)
def test_a_completion_is_text_without_its_end(source, ids, finish, reason, text, expected):
    found = written(ids, finish, reason, vocabulary_of(source), None)
    assert (found.text, found.finish_reason, found.token_ids) == (text, expected, ids)


def test_a_sequence_is_scored_as_a_prompt_and_the_one_token_that_may_follow():
    prompt, settings = scoring([5, 6, 7], 4)
    assert prompt == [5, 6]
    assert settings["allowed_token_ids"] == [7]
    assert settings["logprobs"] == settings["prompt_logprobs"] == 4
    assert settings["max_tokens"] == settings["temperature"] == 1


def test_without_vllm_the_message_says_what_to_do(monkeypatch):
    def missing(name):
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr(vllm_faults, "import_module", missing)
    monkeypatch.setattr(vllm_faults, "EVERYWHERE", {})
    message = r"vllm is not installed; .*\{kind: transformers\}.*'llmkd\[vllm\]'.*setup-vllm-cpu"
    with pytest.raises(InputError, match=message):
        import_vllm()


def test_the_users_environment_comes_first(monkeypatch):
    found = {"VLLM_CPU_KVCACHE_SPACE": "7"}
    monkeypatch.setattr("os.environ", found)
    assert not vllm_faults.is_without_compiler()
    vllm_faults._set_defaults(vllm_faults.ON_A_CPU)
    assert found == vllm_faults.ON_A_CPU | {"VLLM_CPU_KVCACHE_SPACE": "7"}
    assert vllm_faults.is_without_compiler()
    found["TORCHDYNAMO_DISABLE"] = "0"
    assert not vllm_faults.is_without_compiler()


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (
            RuntimeError("Unsupported CPU attention configuration: head_dim=8 isa=1"),
            InputError,
            r"NAME has attention heads .* head_dim=8 .* 512\); write engine: {kind: transformers}$",
        ),
        (
            ValueError("Model architectures ['X'] are not supported for now. Supported: []"),
            InputError,
            r"cannot run NAME \(Model architectures \['X'\] are not supported for now\); write",
        ),
        (
            RuntimeError("Device string must not be empty"),
            InputError,
            r"needs an accelerator .* make setup-vllm-cpu$",
        ),
        (
            ValueError("To serve 1 request, 9.5 GiB is larger than the available KV cache memory"),
            LlmkdError,
            r"too little memory \(To serve 1 request, 9\.5 GiB is larger than",
        ),
        (MemoryError(), LlmkdError, "too little memory"),
    ],
)
def test_vllms_errors_come_in_a_recipes_words(error, kind, message):
    with (
        pytest.raises(LlmkdError, match=message) as caught,
        explained(PretrainedModel(model_name_or_path="NAME")),
    ):
        raise error
    assert type(caught.value) is kind
    assert caught.value.__cause__ is error


def test_other_errors_stay_as_they_are():
    with (
        pytest.raises(RuntimeError, match=r"^a bug$"),
        explained(PretrainedModel(model_name_or_path="NAME")),
    ):
        raise RuntimeError("a bug")


def test_each_copy_has_accelerators_of_its_own():
    settings = VLLMEngine(kind="vllm", tensor_parallel_size=2, data_parallel_size=2)
    assert device_shares(settings, ["4", "5", "6", "7", "8"]) == ["4,5", "6,7"]
    assert device_shares(settings, []) == [None, None]
    message = "2 copies on 2 accelerators each need 4, and there are 3; .*data_parallel_size: 1$"
    with pytest.raises(InputError, match=message):
        device_shares(settings, ["0", "1", "2"])
