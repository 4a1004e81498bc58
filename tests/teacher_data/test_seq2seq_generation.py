"""What seq2seq models write, against the plain loop over one prompt."""

import json

import pytest
import torch

from llmkd.errors import InputError
from llmkd.recipe.schema import GenerateStage
from llmkd.teacher_data.capture import run_capture
from llmkd.teacher_data.transformers_engine import generate

PROMPTS = ["1+2=", "12+34=", "999+999=", "0+0="]
T5, BART, CAUSAL = "$A <eos>", "<bos> $A <eos>", "<bos> $A"


def complete(model, tokenizer, prompts=PROMPTS, max_completion_length=20):
    return generate(
        model,
        tokenizer,
        prompts,
        temperature=0.0,
        max_completion_length=max_completion_length,
        seed=0,
    )


def greedy_by_hand(model, source, max_completion_length, eos):
    """No padding, no cache, no batch; (tokens written, whether the model ended)."""
    written = []
    while len(written) < max_completion_length:
        read = torch.tensor([[model.config.decoder_start_token_id, *written]])
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([source]), decoder_input_ids=read).logits
        written.append(logits[0, -1].argmax().item())
        if written[-1] == eos:
            return written, "stop"
    return written, "length"


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("kind", "template"), [("t5", T5), ("t5", CAUSAL), ("bart", BART)])
def test_greedy_answers_are_those_to_one_prompt_at_a_time(
    tiny_seq2seq, framed, kind, template, seed
):
    tokenizer = framed(template)
    model = tiny_seq2seq(tokenizer, kind, seed=seed)
    for prompt, found in zip(PROMPTS, complete(model, tokenizer), strict=True):
        # The end-of-text token that the tokenizer puts after a prompt is read too.
        source = tokenizer(prompt)["input_ids"]
        assert (source[-1] == tokenizer.eos_token_id) == (template != CAUSAL)
        written, reason = greedy_by_hand(model, source, 20, tokenizer.eos_token_id)
        assert (found.num_tokens, found.finish_reason) == (len(written), reason)
        assert found.text == tokenizer.decode(written, skip_special_tokens=True)


def test_a_decoder_deeper_than_its_encoder_writes_too(tiny_seq2seq, tokenizer):
    model = tiny_seq2seq(tokenizer, num_layers=1, num_decoder_layers=3)
    (found,) = complete(model, tokenizer, ["1+2="])
    expected, _ = greedy_by_hand(model, tokenizer("1+2=")["input_ids"], 20, 2)
    assert found.num_tokens == len(expected)


def test_a_multilingual_models_first_token_is_the_one_its_configuration_forces(
    tiny_seq2seq, tokenizer
):
    model = tiny_seq2seq(tokenizer, "bart")
    model.generation_config.forced_bos_token_id = 9
    (found,) = complete(model, tokenizer, ["1+2="], max_completion_length=1)
    assert found.text == tokenizer.decode([9])
    assert model.generation_config.forced_bos_token_id == 9, "left as it was"


def test_prompt_and_answer_each_have_all_positions(tiny_seq2seq, tokenizer):
    model = tiny_seq2seq(tokenizer, "bart", max_position_embeddings=5)
    # Never ends, so that it writes as much as it may: the last token is not read again.
    model.final_logits_bias[:, tokenizer.eos_token_id] = -1e9
    (found,) = complete(model, tokenizer, ["1+2="])
    assert (found.num_tokens, found.finish_reason) == (5, "length")
    with pytest.raises(InputError, match="a prompt has 6 tokens, and the model has 5 positions"):
        complete(model, tokenizer, ["1+23="])


def test_a_stage_writes_what_a_seq2seq_teacher_answers(tiny_seq2seq, tokenizer, tmp_path):
    model = tiny_seq2seq(tokenizer, "bart")
    model.final_logits_bias[:, tokenizer.eos_token_id] += 5
    model.save_pretrained(tmp_path / "teacher")
    tokenizer.save_pretrained(tmp_path / "teacher")
    stage = GenerateStage.model_validate(
        {
            "kind": "generate",
            "teacher": {"model_name_or_path": str(tmp_path / "teacher")},
            "data": {"kind": "task", "digits": 1, "num_examples": 40},
            "engine": {"batch_size": 16},
        }
    )
    found = run_capture(stage, tmp_path / "s", seed=0, progress=lambda *_, **__: None)
    rows = [json.loads(line) for line in (tmp_path / "s" / "data.jsonl").read_text().splitlines()]
    assert len(rows) == found["num_kept"] > 0
    assert all(row["prompt"].endswith("=") and row["completion"] for row in rows)
