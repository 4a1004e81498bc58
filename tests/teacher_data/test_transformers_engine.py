import logging
import warnings

import pytest
import torch
from transformers import GenerationConfig, GPT2Config, GPT2LMHeadModel

from llmkd.errors import InputError
from llmkd.recipe.models import PretrainedModel
from llmkd.teacher_data.transformers_engine import generate, load_for_inference

PROMPTS = ["1+2=", "12+34=", "999+999=", "0+0="]


def complete(model, tokenizer, prompts=PROMPTS, temperature=0.0, max_completion_length=8, seed=0):
    return generate(
        model,
        tokenizer,
        prompts,
        temperature=temperature,
        max_completion_length=max_completion_length,
        seed=seed,
    )


def greedy_by_hand(model, tokenizer, prompt, max_completion_length, stops):
    """No padding, no cache, no batch."""
    ids = tokenizer(prompt).input_ids
    written = []
    while len(written) < max_completion_length:
        with torch.no_grad():
            token = model(torch.tensor([ids + written])).logits[0, -1].argmax().item()
        written.append(token)
        if token in stops:
            return tokenizer.decode(written[:-1], skip_special_tokens=True), "stop", len(written)
    return tokenizer.decode(written, skip_special_tokens=True), "length", len(written)


@pytest.mark.parametrize("seed", range(4))
def test_greedy_completions_are_those_of_one_prompt_at_a_time(tiny_llama, tokenizer, seed):
    model = tiny_llama(tokenizer, seed=seed)
    completions = complete(model, tokenizer, max_completion_length=20)
    for prompt, completion in zip(PROMPTS, completions, strict=True):
        expected = greedy_by_hand(model, tokenizer, prompt, 20, {tokenizer.eos_token_id})
        found = (completion.text, completion.finish_reason, completion.num_tokens)
        assert found == expected


def test_the_checkpoints_own_end_tokens_stop_too(tiny_llama, tokenizer):
    model = tiny_llama(tokenizer)
    first = tokenizer("1+2=").input_ids
    with torch.no_grad():
        token = model(torch.tensor([first])).logits[0, -1].argmax().item()
    model.generation_config.eos_token_id = [token, tokenizer.eos_token_id]
    (completion,) = complete(model, tokenizer, ["1+2="])
    assert (completion.finish_reason, completion.text, completion.num_tokens) == ("stop", "", 1)


def test_samples_follow_the_seed_and_leave_torchs_random_state_alone(tiny_llama, tokenizer):
    model = tiny_llama(tokenizer)
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first = complete(model, tokenizer, temperature=1.0, seed=1)
    assert torch.rand(1) == expected
    assert complete(model, tokenizer, temperature=1.0, seed=1) == first
    assert complete(model, tokenizer, temperature=1.0, seed=2) != first


def test_samples_come_from_the_whole_softmax_at_the_temperature(tiny_llama, tokenizer):
    model = tiny_llama(tokenizer)
    # A checkpoint's own cut-offs and penalties must not bend the distribution.
    model.generation_config = GenerationConfig(
        do_sample=True, top_k=1, top_p=0.1, repetition_penalty=5.0, max_length=3
    )
    num_samples, temperature = 4000, 2.0
    completions = complete(
        model, tokenizer, ["1+2="] * num_samples, temperature, max_completion_length=1
    )
    with torch.no_grad():
        logits = model(torch.tensor([tokenizer("1+2=").input_ids])).logits[0, -1]
    expected = (logits / temperature).softmax(-1)
    characters = [token for token in tokenizer.vocab if len(token) == 1]
    for character in characters:
        p = expected[tokenizer.vocab[character]].item()
        found = sum(completion.text == character for completion in completions) / num_samples
        assert abs(found - p) < 4 * (p * (1 - p) / num_samples) ** 0.5 + 1e-3


def test_the_checkpoints_generation_config_is_left_as_it_was(tiny_llama, tokenizer):
    model = tiny_llama(tokenizer)
    own = GenerationConfig(do_sample=True, top_k=7)
    model.generation_config = own
    complete(model, tokenizer)
    assert model.generation_config is own
    assert own.top_k == 7


def test_nothing_is_warned_about(tiny_llama, tokenizer, caplog):
    model = tiny_llama(tokenizer)
    model.generation_config = GenerationConfig(max_length=256, temperature=0.6, top_p=0.9)
    caplog.clear()  # transformers warns about making such a config
    with warnings.catch_warnings(), caplog.at_level(logging.WARNING):
        warnings.simplefilter("error")
        complete(model, tokenizer)
        complete(model, tokenizer, temperature=1.0)
    assert not caplog.records


def test_a_prompt_without_tokens_is_refused(tiny_llama, tokenizer):
    model = tiny_llama(tokenizer)
    tokenizer.backend_tokenizer.post_processor = None
    with pytest.raises(InputError, match="prompt 2 has no tokens"):
        complete(model, tokenizer, ["1", ""])


def test_a_model_that_is_training_is_a_mistake(tiny_llama, tokenizer):
    with pytest.raises(AssertionError, match="dropout"):
        complete(tiny_llama(tokenizer).train(), tokenizer)


def test_a_saved_model_is_loaded_ready_for_use(tiny_llama, tokenizer, tmp_path):
    model = tiny_llama(tokenizer)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    loaded, its_tokenizer = load_for_inference(PretrainedModel(model_name_or_path=str(tmp_path)))
    assert not loaded.training
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    assert complete(loaded, its_tokenizer) == complete(model, tokenizer)


@pytest.mark.real_data
def test_a_real_model_continues_as_published(real_data):
    name = str(real_data / "models" / "stories260K" / "hf")
    model, tokenizer = load_for_inference(PretrainedModel(model_name_or_path=name))
    published = (real_data / "references" / "stories260K_greedy.txt").read_text()
    start = "Once upon a time, there was a little girl named Lily."
    assert published.startswith(start)
    (completion,) = complete(model, tokenizer, [start], max_completion_length=120)
    assert len(completion.text) > 100
    assert published.startswith(f"{start} {completion.text}")


def test_learned_positions_end_a_completion_and_refuse_a_longer_prompt(tokenizer):
    config = GPT2Config(vocab_size=len(tokenizer), n_embd=16, n_layer=1, n_head=2, n_positions=8)
    model = GPT2LMHeadModel(config).eval()
    model.generation_config.eos_token_id = None
    tokenizer.eos_token = None
    settings = {"temperature": 0.0, "max_completion_length": 20, "seed": 0}
    (done,) = generate(model, tokenizer, ["1+2="], **settings)
    # Five tokens are read, so three more positions are left, and one token needs none.
    assert (done.num_tokens, done.finish_reason) == (4, "length")
    with pytest.raises(InputError, match="a prompt has 10 tokens, and the model has 8 positions"):
        generate(model, tokenizer, ["123456789"], **settings)
