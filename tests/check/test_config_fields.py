import pytest
from transformers import AutoConfig

from llmkd.check.architectures import KNOWN
from llmkd.check.config_fields import UNDECLARED, unknown_fields, with_defaults
from llmkd.models.load import UNLISTED_CONFIG_FIELDS


@pytest.mark.parametrize("kind", KNOWN)
def test_every_field_that_training_takes_is_known(kind):
    config = AutoConfig.for_model(kind)
    taken = {*config.to_dict(), *config.attribute_map, *UNLISTED_CONFIG_FIELDS}

    assert unknown_fields(kind, dict.fromkeys(taken)) == {}
    assert set(UNLISTED_CONFIG_FIELDS) <= set(UNDECLARED)


@pytest.mark.parametrize("kind", KNOWN)
def test_the_defaults_are_those_of_the_class(kind):
    config = AutoConfig.for_model(kind)
    found = with_defaults(kind, {})

    for name in ("vocab_size", "tie_word_embeddings", "pad_token_id", "bos_token_id"):
        assert found[name] == getattr(config, name)


def test_a_common_name_is_the_classs_own():
    assert with_defaults("gpt2", {"hidden_size": 5})["n_embd"] == 5


def test_a_misspelt_field_gets_the_name_that_was_meant():
    assert unknown_fields("qwen3", {"num_hiden_layers": 1, "zzz": 2}) == {
        "num_hiden_layers": "did you mean `num_hidden_layers`?",
        "zzz": "leave it out",
    }
