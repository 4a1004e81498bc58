"""Real classifiers of several architectures, tiny and random."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification

from llmkd.data.intents import vocabulary
from llmkd.data.words import word_tokenizer
from llmkd.errors import InputError
from llmkd.models.adapters import attach
from llmkd.models.classifiers import (
    fit_to,
    head_config,
    labels_in,
    load_classifier,
    load_student_classifier,
)
from llmkd.models.load import build_from_scratch, load_model
from llmkd.models.positions import check_positions, hard_limit
from llmkd.models.signals import classifier_inputs, is_classifier, signals
from llmkd.recipe.models import LoraConfig, PretrainedModel, ScratchStudent

LABELS = ["no", "yes", "maybe"]
SMALL = {"vocab_size": 130, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
SHAPES = {
    "bert": {**SMALL, "intermediate_size": 32},
    "roberta": {**SMALL, "intermediate_size": 32, "max_position_embeddings": 20},
    "electra": {**SMALL, "intermediate_size": 32, "embedding_size": 8},
    "distilbert": {"vocab_size": 130, "dim": 16, "hidden_dim": 32, "n_layers": 2, "n_heads": 2},
    "llama": {**SMALL, "intermediate_size": 32},
    "gpt2": {"vocab_size": 130, "n_embd": 16, "n_layer": 2, "n_head": 2},
}


def classifier(kind, *, seed=0, labels=LABELS, **fields):
    torch.manual_seed(seed)
    config = AutoConfig.for_model(kind, **{**SHAPES[kind], **head_config(labels), **fields})
    return AutoModelForSequenceClassification.from_config(config)


@pytest.fixture
def words():
    return word_tokenizer(vocabulary())


@pytest.fixture(params=SHAPES)
def kind(request):
    return request.param


BATCH = {
    "input_ids": torch.tensor([[2, 9, 8, 3], [2, 7, 3, 0]]),
    "attention_mask": torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]]),
    "token_type_ids": torch.tensor([[0, 0, 1, 1], [0, 0, 0, 0]]),
    "target_ids": torch.tensor([1, -100]),
}


def test_every_architecture_gives_the_logits_of_the_kept_rows(kind, words):
    model = classifier(kind).eval()
    fit_to(model, words, "student")
    assert is_classifier(model)
    kept = torch.tensor([False, True])
    found = signals(model, model, BATCH, kept, len(LABELS)).logits
    # By itself, without padding or a second text.
    alone = model(input_ids=torch.tensor([[2, 7, 3]])).logits
    assert found.shape == (1, 3)
    torch.testing.assert_close(found, alone, rtol=1e-4, atol=1e-5)


def test_only_models_with_types_get_the_types_of_a_pair(kind):
    assert ("token_type_ids" in classifier_inputs(classifier(kind), BATCH)) == (
        kind in ("bert", "roberta", "electra")
    )
    one_type = classifier("bert", type_vocab_size=1)
    assert "token_type_ids" not in classifier_inputs(one_type, BATCH)


def test_adapters_train_the_head_whole_and_nothing_else_but_themselves(kind):
    model = classifier(kind)
    heads = {
        name for name, _ in model.named_parameters() if "classifier" in name or "score" in name
    }
    adapted = attach(model, LoraConfig(r=2))
    trained = {name for name, p in adapted.named_parameters() if p.requires_grad}
    of_head = {name for name in trained if "modules_to_save" in name}
    assert len(of_head) == len(heads) > 0
    assert all("lora_" in name for name in trained - of_head)
    assert trained - of_head
    assert not [
        name for name in trained if "lora_" in name and ("classifier" in name or "score" in name)
    ]
    assert set(classifier_inputs(adapted, BATCH)) == set(classifier_inputs(model, BATCH))


def test_merged_adapters_and_head_load_as_a_classifier(kind, tmp_path):
    adapted = attach(classifier(kind), LoraConfig(r=2)).eval()
    with torch.no_grad():
        for p in adapted.parameters():
            if p.requires_grad:
                p.add_(torch.randn_like(p), alpha=0.1)
    inputs = {"input_ids": BATCH["input_ids"][:1], "attention_mask": torch.ones(1, 4)}
    expected = adapted(**inputs).logits
    adapted.merge_and_unload().save_pretrained(tmp_path)
    loaded = load_classifier(PretrainedModel(model_name_or_path=str(tmp_path))).eval()
    torch.testing.assert_close(loaded(**inputs).logits, expected, rtol=1e-4, atol=1e-5)
    assert labels_in(PretrainedModel(model_name_or_path=str(tmp_path))) == LABELS


def test_an_encoder_gets_a_head_as_a_student_and_is_refused_as_a_teacher(tmp_path):
    encoder = AutoModel.from_config(AutoConfig.for_model("bert", **SHAPES["bert"]))
    encoder.save_pretrained(tmp_path)
    source = PretrainedModel(model_name_or_path=str(tmp_path))
    student, _ = load_student_classifier(source, LABELS)
    assert student.config.id2label == dict(enumerate(LABELS))
    assert student.classifier.weight.shape[0] == 3
    kept = student.bert.embeddings.word_embeddings.weight
    assert torch.equal(kept, encoder.embeddings.word_embeddings.weight)
    with pytest.raises(InputError, match="is no trained classifier, as classifier"):
        load_classifier(source)


def test_a_head_for_other_labels_is_made_anew_and_that_is_said(tmp_path, capsys):
    classifier("bert").save_pretrained(tmp_path)
    source = PretrainedModel(model_name_or_path=str(tmp_path))
    fewer, _ = load_student_classifier(source, ["a", "b"])
    assert fewer.classifier.weight.shape[0] == 2
    others, _ = load_student_classifier(source, ["a", "b", "c"])
    assert not (others.classifier.weight == classifier("bert").classifier.weight).any()
    assert others.config.id2label == {0: "a", 1: "b", 2: "c"}
    assert capsys.readouterr().err.count("new for these labels, and random: classifier") == 2
    kept = others.bert.pooler.dense.weight
    assert torch.equal(kept, classifier("bert").bert.pooler.dense.weight)


def test_a_head_follows_its_labels_to_another_order(kind, tmp_path, capsys):
    model = classifier(kind).eval()
    model.save_pretrained(tmp_path)
    order = [2, 0, 1]
    student, _ = load_student_classifier(
        PretrainedModel(model_name_or_path=str(tmp_path)), [LABELS[i] for i in order]
    )
    inputs = {"input_ids": BATCH["input_ids"][:1]}
    expected = model(**inputs).logits[:, order]
    torch.testing.assert_close(student.eval()(**inputs).logits, expected)
    assert "random" not in capsys.readouterr().err


def test_a_head_whose_outputs_nobody_named_is_kept(tmp_path, capsys):
    model = classifier("bert", labels=[f"LABEL_{i}" for i in range(3)])
    model.save_pretrained(tmp_path)
    source = PretrainedModel(model_name_or_path=str(tmp_path))
    student, _ = load_student_classifier(source, LABELS)
    assert torch.equal(student.classifier.weight, model.classifier.weight)
    assert "random" not in capsys.readouterr().err


@pytest.mark.parametrize("broken", ["missing", "larger"])
def test_weights_that_do_not_fit_are_refused_by_name(broken, tmp_path):
    classifier("bert").save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    name = "bert.encoder.layer.1.output.dense.weight"
    weights[name] = torch.zeros(17, 32)
    if broken == "missing":
        del weights[name]
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    source = PretrainedModel(model_name_or_path=str(tmp_path))
    with pytest.raises(InputError, match=f"{name} are missing, or have other sizes"):
        load_student_classifier(source, LABELS)
    with pytest.raises(InputError, match=r"no trained classifier|no classifier could be loaded"):
        load_classifier(source)


def test_a_language_model_of_other_sizes_than_it_says_is_refused(tmp_path, tokenizer, tiny_llama):
    tiny_llama(tokenizer).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "intermediate_size": 48}))
    with pytest.raises(InputError, match="no model could be loaded"):
        load_model(PretrainedModel(model_name_or_path=str(tmp_path)))


def test_an_encoder_with_a_decoder_makes_no_classifier(tmp_path, tokenizer, tiny_seq2seq):
    model = tiny_seq2seq(tokenizer, "bart")
    model.save_pretrained(tmp_path)
    source = PretrainedModel(model_name_or_path=str(tmp_path))
    with pytest.raises(InputError, match=r"has an encoder and a decoder .bart., and a classifier"):
        load_student_classifier(source, LABELS)
    with pytest.raises(InputError, match=r"has an encoder and a decoder .bart., and a classifier"):
        load_classifier(source)
    scratch = ScratchStudent(kind="scratch", config={"model_type": "t5"})
    with pytest.raises(InputError, match=r"student.config: t5 has an encoder and a decoder"):
        build_from_scratch(scratch, tokenizer, auto=AutoModelForSequenceClassification)


def test_adapters_train_a_pooler_that_the_checkpoint_lacks_and_keep_it(tmp_path):
    encoder = AutoModel.from_config(
        AutoConfig.for_model("bert", **SHAPES["bert"]), add_pooling_layer=False
    )
    encoder.save_pretrained(tmp_path)
    student, new_parts = load_student_classifier(
        PretrainedModel(model_name_or_path=str(tmp_path)), LABELS
    )
    assert new_parts == ["bert.pooler"]
    adapted = attach(student, LoraConfig(r=2, target_modules=["dense"]), new_parts)
    trained = {name for name, p in adapted.named_parameters() if p.requires_grad}
    assert [name for name in trained if "pooler" in name and "modules_to_save" in name]
    assert not [name for name in trained if "pooler" in name and "lora_" in name]
    adapted.save_pretrained(tmp_path / "adapter")
    saved = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert any(name.endswith("pooler.dense.weight") for name in saved)


def test_a_classifier_is_no_language_model(tmp_path):
    classifier("bert").save_pretrained(tmp_path)
    with pytest.raises(InputError, match="is a classifier, which writes no text"):
        load_model(PretrainedModel(model_name_or_path=str(tmp_path)))
    with pytest.raises(InputError, match="nowhere: no model could be loaded"):
        load_classifier(PretrainedModel(model_name_or_path=str(tmp_path / "nowhere")))


def test_what_does_not_fit_is_refused(words):
    with pytest.raises(InputError, match="student: the model has 100 token embeddings, its"):
        fit_to(_small(), words, "student")
    several = classifier("bert", problem_type="multi_label_classification")
    with pytest.raises(InputError, match=r"teacher: .* problem_type: multi_label_classification"):
        fit_to(several, words, "teacher")
    # Of what nobody gave a problem_type, the number of outputs decides.
    number = classifier("bert", labels=["LABEL_0"], problem_type=None)
    fit_to(number, words, "teacher", is_regression=True)
    with pytest.raises(InputError, match="null and 1 outputs, and single_label_classification"):
        fit_to(number, words, "teacher")
    with pytest.raises(InputError, match="null and 3 outputs, and regression with one is needed"):
        fit_to(classifier("bert", problem_type=None), words, "student", is_regression=True)
    broken = classifier("bert")
    broken.classifier.bias.data[0] = torch.inf
    with pytest.raises(InputError, match="logits are not finite"):
        fit_to(broken, words, "student")


def _small():
    model = classifier("bert")
    model.resize_token_embeddings(100)
    return model


@pytest.mark.parametrize("own", [None, 9])
@pytest.mark.parametrize("decoder", ["llama", "gpt2"])
def test_a_decoders_head_reads_the_last_token_before_the_tokenizers_padding(decoder, own, words):
    model = classifier(decoder, pad_token_id=own).eval()
    fit_to(model, words, "student")
    assert model.config.pad_token_id == words.pad_token_id == 0
    padded = model(
        input_ids=torch.tensor([[2, 7, 9, 0, 0]]), attention_mask=torch.tensor([[1, 1, 1, 0, 0]])
    )
    alone = model(input_ids=torch.tensor([[2, 7, 9]]))
    torch.testing.assert_close(padded.logits, alone.logits, rtol=1e-4, atol=1e-5)


def test_positions_that_are_counted_from_the_padding_token_stay(words, tmp_path):
    model = classifier("roberta", pad_token_id=1).eval()
    expected = model(input_ids=BATCH["input_ids"][:1]).logits
    fit_to(model, words, "student")
    model.save_pretrained(tmp_path)
    loaded = load_classifier(PretrainedModel(model_name_or_path=str(tmp_path))).eval()
    torch.testing.assert_close(loaded(input_ids=BATCH["input_ids"][:1]).logits, expected)


def test_robertas_first_positions_are_never_used():
    model = classifier("roberta", pad_token_id=1)
    assert hard_limit(model) == 18
    assert hard_limit(classifier("bert", max_position_embeddings=20)) == 20
    model(input_ids=torch.full((1, 18), 5))
    with pytest.raises((IndexError, RuntimeError)):
        model(input_ids=torch.full((1, 19), 5))
    with pytest.raises(InputError, match=r"19 tokens .* 18 positions; write max_length: 18"):
        check_positions(model, 19, "data.max_length (student)")
