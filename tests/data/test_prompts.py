"""What a teacher is asked, from the cache."""

import json

import pytest
from transformers import LlamaConfig, T5Config

from llmkd.data.cache import tokenized
from llmkd.data.prompts import PromptTokenize
from llmkd.recipe.data import DatasetRows

BOS, EOS = 1, 2


@pytest.fixture
def prompts(tmp_path, framed):
    """Reads prompts in a file, as a model of some configuration would; the tokenizer adds both ends."""

    def read(config, texts):
        path = tmp_path / "prompts.jsonl"
        path.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in texts))
        tokenize = PromptTokenize(framed("<bos> $A <eos>"), config)
        source = DatasetRows(dataset_name=str(path))
        return tokenized(source, tokenize, seed=0, progress=lambda done, total: None)

    return read


@pytest.mark.parametrize(("config", "ending"), [(LlamaConfig(), []), (T5Config(), [EOS])])
def test_prompts_have_their_text_and_the_tokens_that_the_kind_of_model_reads(
    prompts, config, ending
):
    texts = ["7=", "20+3=", "7="]
    found, num_dropped = prompts(config, texts)
    assert num_dropped == 0
    assert found["text"][:] == texts
    digits = {"7=": [11, 15], "20+3=": [6, 4, 14, 7, 15]}
    assert found["input_ids"][:] == [[BOS, *digits[text], *ending] for text in texts]


def test_prompts_are_read_from_their_file_and_do_not_stand_in_memory(prompts):
    found, _ = prompts(LlamaConfig(), ["1+1="])
    (file,) = found.cache_files
    assert file["filename"].endswith("examples.arrow")
