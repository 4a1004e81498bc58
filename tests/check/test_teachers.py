"""What teachers take beside their student, by hand and by bitsandbytes."""

import pytest

from llmkd.check.architectures import shape_of
from llmkd.check.facts import Fact
from llmkd.check.models import Model
from llmkd.check.spread import ALONE, Spread
from llmkd.check.teachers import Beside, loaded_bytes, sent_bytes, teacher_bytes
from llmkd.models.load import load_model
from llmkd.recipe.models import InProcessTeacher

# 1 layer, h 8, f 10, q = k 8, V 16: 496 numbers in 60 rows of matrices, 16 of norms; a head of 128, and
# 136 others outside.
SMALL = {"model_type": "llama", "hidden_size": 8, "intermediate_size": 10, "vocab_size": 16}
SMALL |= {"num_hidden_layers": 1, "num_attention_heads": 2}
FOUR = Spread("ddp", 4)
RUN = 20 * 4 * (4 * 8 + 3 * 10)
"""Of 20 tokens."""


def teacher(config=SMALL, **settings):
    shape = shape_of(config)
    count = Fact(shape.num_parameters, "exact")
    model = Model("a", count, count, shape, "none", shape.vocab_size, 4)
    return Beside(model, InProcessTeacher(model_name_or_path="a", **settings))


def taken(spread=FOUR, *, keeps=0, has_accelerator=True, is_half=False, **settings):
    return teacher_bytes(
        teacher(**settings), 20, spread, is_half=is_half, has_accelerator=has_accelerator,
        student_keeps=keeps,
    )  # fmt: skip


def test_a_teacher_as_it_is_counts_whole_in_every_process():
    assert taken() == taken(ALONE) == 4 * 776 + RUN
    # Autocast: half of what it computes in, and a copy of the head.
    assert taken(is_half=True) == 4 * 776 + RUN // 2 + 2 * 128


def test_a_sharded_teacher_keeps_its_head_and_gathers_layers():
    # (776 - 128) / 4 of its own; gathered are the 136, and a layer of 512 twice.
    assert taken(sharded=True) == 4 * (128 + 162 + 136 + 2 * 512) + RUN
    assert taken(sharded=True, has_accelerator=False) == taken(sharded=True)
    assert sent_bytes(teacher(sharded=True), FOUR) == 4 * 512


def test_alone_a_sharded_teacher_is_whole():
    one = Spread("ddp", 1)

    assert taken(one, sharded=True) == taken()
    assert sent_bytes(teacher(sharded=True), one) == sent_bytes(teacher(), FOUR) == 0


def test_quantised_teachers_have_scales_beside_their_bits():
    # 280 numbers are outside the matrices, in float32.
    assert taken(quantization="8bit") == 496 + 4 * 60 + 4 * 280 + RUN
    assert taken(quantization="4bit") == 248 + 4 * 496 // 64 + 4 * 280 + RUN


def test_an_offloaded_teacher_and_what_its_student_keeps_are_not_there_together():
    assert taken(offload="cpu") == taken()
    assert taken(offload="cpu", keeps=1000) == taken() - 1000
    # Its head stays for the loss.
    assert taken(offload="cpu", keeps=10**6) == 4 * 128
    # Its parts wait on the host.
    assert taken(offload="cpu", sharded=True) == taken(sharded=True) - 4 * 162


def test_on_a_processor_there_is_nowhere_else_to_be():
    assert taken(offload="cpu", keeps=1000, has_accelerator=False) == taken()


def test_a_teacher_is_loaded_whole_unless_quantised():
    settings = [{"sharded": True, "offload": "cpu"}, {"sharded": True}, {"quantization": "8bit"}]

    assert [loaded_bytes(teacher(**each)) for each in settings] == [3104, 3104, 1856]


@pytest.mark.parametrize("bits", ["8bit", "4bit"])
def test_a_quantised_teacher_takes_what_bitsandbytes_makes_of_it(
    tokenizer, tiny_llama, tmp_path, bits
):
    pytest.importorskip("bitsandbytes")
    tiny_llama(tokenizer, hidden_size=64, intermediate_size=128).save_pretrained(tmp_path)
    model = load_model(InProcessTeacher(model_name_or_path=str(tmp_path), quantization=bits))
    taken = sum(parameter.nbytes for parameter in model.parameters())
    for parameter in model.parameters():
        scales = getattr(parameter, "SCB", None)
        if getattr(parameter, "quant_state", None) is not None:
            scales = parameter.quant_state.absmax
        taken += 0 if scales is None else scales.nbytes

    assert taken == loaded_bytes(teacher(model.config.to_dict(), quantization=bits))
