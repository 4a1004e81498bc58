"""Models that give NaN: lm-eval would make a number of it."""

import pytest
import torch

from llmkd.errors import InputError
from llmkd.evaluation.harness.measure import measure_harness
from tests.evaluation.harness.conftest import CHOICE, TEXT, WRITTEN


@pytest.mark.parametrize("definition", [CHOICE, WRITTEN, TEXT])
def test_weights_that_are_not_finite_are_refused(make_task, subject, setting, definition):
    model = subject.model
    model.lm_head.weight.data[3, 2] = torch.nan
    model.save_pretrained(subject.source.model_name_or_path)
    subject.release()
    with pytest.raises(InputError, match=r"tiny: its weight lm_head\.weight holds NaN"):
        measure_harness(subject, make_task(definition), setting())


@pytest.mark.parametrize("definition", [CHOICE, TEXT])
def test_an_overflow_is_refused_and_not_kept(make_task, subject, setting, definition, tmp_path):
    mlp = subject.model.half().model.layers[1].mlp
    for part in (mlp.up_proj, mlp.down_proj):
        part.weight.data *= 5e3
    with pytest.raises(InputError, match=r"tasks\.sums: the model gives NaN"):
        measure_harness(subject, make_task(definition), setting(folder=tmp_path / "kept"))
    (kept,) = (tmp_path / "kept").iterdir()
    assert len(kept.read_text().splitlines()) == 1
