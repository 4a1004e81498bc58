"""A classifier that can be measured."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification

from llmkd.data.words import vocabulary_of, word_tokenizer
from llmkd.models.classifiers import head_config

LABELS = ["rain", "sun", "wind"]
TEXTS = ["wet wet", "warm warm", "loud loud", "wet warm loud cold"]


@pytest.fixture
def weather_model(tmp_path):
    """A BERT that says `rain` of `wet`, `sun` of `warm`, `wind` of `loud`: its first word decides."""
    tokenizer = word_tokenizer(vocabulary_of(2 * TEXTS))
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        "bert", vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16,
        num_hidden_layers=1, num_attention_heads=1, max_position_embeddings=16,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, initializer_range=0.3,
        **head_config(LABELS),
    )  # fmt: skip
    model = AutoModelForSequenceClassification.from_config(config)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    batch = tokenizer(TEXTS[:3], return_tensors="pt")
    for _ in range(60):
        optimizer.zero_grad()
        model(**batch, labels=torch.arange(3)).loss.backward()
        optimizer.step()
    folder = tmp_path / "model"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
