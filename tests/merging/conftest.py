"""Tiny models in folders, and a merge of them."""

import pytest

from llmkd.merging.merge import merge
from llmkd.recipe.merging import MergeStage


def _silent(done, total):
    """Shows nothing."""


@pytest.fixture
def saved(tmp_path, tokenizer, tiny_llama):
    """Saves a tiny Llama of a seed with its tokenizer; gives its folder."""

    def save(name, seed, *, dtype=None, max_shard_size="5GB", **config):
        model = tiny_llama(tokenizer, seed=seed, **config)
        folder = tmp_path / name
        (model if dtype is None else model.to(dtype)).save_pretrained(
            folder, max_shard_size=max_shard_size
        )
        tokenizer.save_pretrained(folder)
        return folder

    return save


@pytest.fixture
def merged(tmp_path):
    """Merges folders; gives the new one."""

    def make(*models, output="merged", progress=_silent, max_shard_size="5GB", **method):
        stage = MergeStage.model_validate(
            {
                "kind": "merge",
                "models": [str(model) for model in models],
                "method": {key: str(v) if key == "base" else v for key, v in method.items()},
                "max_shard_size": max_shard_size,
            }
        )
        folder = tmp_path / output
        merge(stage, folder, name="merged", progress=progress)
        return folder

    return make
