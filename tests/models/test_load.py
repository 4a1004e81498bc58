import json

import pytest

from llmkd.models.load import dtype_name, load_model
from llmkd.recipe.models import PretrainedModel


@pytest.mark.parametrize("stored", ["float32", "bfloat16", "float16"])
def test_auto_is_the_type_that_transformers_loads(tiny_llama, tokenizer, tmp_path, stored):
    written = PretrainedModel(model_name_or_path=str(tmp_path), dtype=stored)
    auto = written.model_copy(update={"dtype": "auto"})
    tiny_llama(tokenizer).save_pretrained(tmp_path)
    load_model(written).save_pretrained(tmp_path)
    assert dtype_name(auto) == stored
    assert load_model(auto).dtype == load_model(written).dtype
    assert dtype_name(written.model_copy(update={"dtype": "float32"})) == "float32"


@pytest.mark.parametrize("own", [None, "float64"])
def test_a_type_that_no_recipe_writes_is_left_to_the_engine(tiny_llama, tokenizer, tmp_path, own):
    tiny_llama(tokenizer).save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"dtype": own}))
    assert dtype_name(PretrainedModel(model_name_or_path=str(tmp_path), dtype="auto")) == "auto"
