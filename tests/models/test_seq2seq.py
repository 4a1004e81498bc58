"""Models with an encoder and a decoder: which they are, how they begin, and what their heads give."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForSeq2SeqLM, T5ForConditionalGeneration

from llmkd.errors import InputError
from llmkd.losses.closed_form import CROSS_ENTROPY
from llmkd.losses.divergences import cross_entropy
from llmkd.losses.linear_head import divergence_from_hidden
from llmkd.losses.terms import HeadTerm
from llmkd.models.head import check_head, hidden_states, linear_head
from llmkd.models.kinds import check_same_kind, decoder_start_token_id, is_seq2seq
from llmkd.models.load import build_from_scratch, load_model
from llmkd.recipe.models import PretrainedModel, ScratchStudent

LIKE_T5 = {
    "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 1, "num_heads": 4, "vocab_size": 50,
    "decoder_start_token_id": 0,
}  # fmt: skip
LIKE_BART = {
    "d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64, "encoder_attention_heads": 4, "decoder_attention_heads": 4,
    "max_position_embeddings": 32, "vocab_size": 50, "pad_token_id": 0,
}  # fmt: skip
CONFIGS = {
    "t5": LIKE_T5,
    "t5 unscaled": {**LIKE_T5, "model_type": "t5", "tie_word_embeddings": False},
    "mt5": LIKE_T5,
    "bart": LIKE_BART,
    "mbart": LIKE_BART,
    "marian": {**LIKE_BART, "decoder_vocab_size": 50, "decoder_start_token_id": 0},
    "pegasus": LIKE_BART,
}


def make(name):
    torch.manual_seed(0)
    model = AutoModelForSeq2SeqLM.from_config(
        AutoConfig.for_model(**{"model_type": name, **CONFIGS[name]})
    )
    with torch.no_grad():
        # Larger weights than at initialisation, so that scales and biases show.
        model.get_output_embeddings().weight.mul_(20)
        if hasattr(model, "final_logits_bias"):
            model.final_logits_bias.normal_()
    return model.eval()


def batch_of():
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(1, 50, (3, 7), generator=generator)
    mask = torch.ones_like(ids)
    mask[1, 5:] = 0
    written = torch.randint(1, 50, (3, 4), generator=generator)
    return {"input_ids": ids, "attention_mask": mask, "decoder_input_ids": written}


@pytest.mark.parametrize("name", CONFIGS)
def test_cross_entropy_and_gradients_are_those_of_the_models_own_logits(name):
    ours, plain = make(name), make(name)
    batch = batch_of()
    target_ids = batch["decoder_input_ids"].roll(-1, 1)
    kept = torch.ones_like(target_ids, dtype=torch.bool)
    kept[2, 1:] = False

    hidden = hidden_states(ours, ours, batch)[kept]
    weights = torch.full((1, int(kept.sum())), 1 / int(kept.sum()))
    output = divergence_from_hidden(
        linear_head(ours, hidden), None, target_ids[kept], [HeadTerm("ce", CROSS_ENTROPY)], weights
    )
    output.loss.backward()
    expected = cross_entropy(plain(**batch).logits[kept], target_ids[kept]).mean()
    expected.backward()

    torch.testing.assert_close(output.loss, expected, rtol=1e-5, atol=1e-6)
    for (parameter, a), (_, b) in zip(
        ours.named_parameters(), plain.named_parameters(), strict=True
    ):
        assert (a.grad is None) == (b.grad is None), parameter
        if b.grad is not None:
            torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-5, msg=parameter)


@pytest.mark.parametrize("name", CONFIGS)
def test_every_architecture_listed_here_passes_the_check(name):
    check_head(make(name), "student")


def test_a_head_with_a_bias_of_its_own_keeps_it_beside_the_fixed_one():
    model = make("bart")
    head = torch.nn.Linear(32, 50)
    model.set_output_embeddings(head)
    hidden = hidden_states(model, model, batch_of()).flatten(0, 1)
    found = linear_head(model, hidden, 40)
    expected = model(**batch_of()).logits.flatten(0, 1)[:, :40]
    torch.testing.assert_close(found.logits(), expected)
    found.logits().sum().backward()
    assert head.bias.grad[:40].tolist() == [12.0] * 40, "of twelve positions"


@pytest.mark.parametrize("kind", ["t5", "bart"])
def test_a_folder_is_loaded_as_what_its_configuration_says(
    kind, tokenizer, tiny_seq2seq, tiny_llama, tmp_path
):
    for model, name in ((tiny_seq2seq(tokenizer, kind), "s"), (tiny_llama(tokenizer), "c")):
        model.save_pretrained(tmp_path / name)
        loaded = load_model(PretrainedModel(model_name_or_path=str(tmp_path / name)))
        assert type(loaded) is type(model)
        assert is_seq2seq(loaded.config) == (name == "s")


@pytest.mark.parametrize(
    ("kind", "start"), [("t5", "pad"), ("bart", "eos"), ("mbart", "pad"), ("blenderbot", "bos")]
)
def test_a_new_decoder_begins_with_the_token_that_its_architecture_begins_with(framed, kind, start):
    tokenizer = framed("$A <eos>")
    # Other ids than in any configuration's defaults.
    ids = {"pad": 7, "bos": 8, "eos": 9}
    for name, token in ids.items():
        setattr(tokenizer, f"{name}_token", tokenizer.convert_ids_to_tokens(token))
    shape = LIKE_T5 if kind == "t5" else LIKE_BART
    shape = {k: v for k, v in shape.items() if "_id" not in k and k != "vocab_size"}
    source = ScratchStudent(kind="scratch", config={"model_type": kind, **shape})
    config = build_from_scratch(source, tokenizer).config
    assert decoder_start_token_id(config, "student") == ids[start]
    assert (config.pad_token_id, config.eos_token_id) == (7, 9)
    assert getattr(config, "forced_eos_token_id", None) in (None, 9)


def test_a_decoder_that_has_nothing_to_begin_with_is_refused():
    config = AutoConfig.for_model("t5")
    with pytest.raises(InputError, match=r"teacher: .* t5 model has no decoder_start_token_id"):
        decoder_start_token_id(config, "teacher")
    assert decoder_start_token_id(AutoConfig.for_model("llama"), "teacher") is None


def test_models_that_do_not_read_one_batch_are_refused():
    t5, other = make("t5").config, make("bart").config
    causal = AutoConfig.for_model("llama")
    with pytest.raises(InputError, match="student is a causal model and the teacher a seq2seq"):
        check_same_kind(causal, t5)
    with pytest.raises(InputError, match="student is a seq2seq model and the teacher a causal"):
        check_same_kind(t5, causal)
    with pytest.raises(InputError, match=r"begins with token 0, .*token 2.*_token_id: 2 in the"):
        check_same_kind(t5, other)
    check_same_kind(t5, make("pegasus").config)
    check_same_kind(causal, causal)


def test_a_t5_that_does_not_scale_its_outputs_still_does_not_when_loaded(tmp_path):
    model = make("t5 unscaled")
    assert not model.config.scale_decoder_outputs
    model.save_pretrained(tmp_path)
    loaded = load_model(PretrainedModel(model_name_or_path=str(tmp_path)))
    assert isinstance(loaded, T5ForConditionalGeneration)
    torch.testing.assert_close(loaded(**batch_of()).logits, model(**batch_of()).logits)
