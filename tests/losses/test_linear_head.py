import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from llmkd.losses import closed_form
from llmkd.losses import divergences as d
from llmkd.losses.linear_head import divergence_from_hidden
from llmkd.losses.scratch import _OfThread
from llmkd.losses.signals import LinearHead, crop
from llmkd.losses.terms import Divergence, HeadTerm

N, V = 11, 23

FORWARD_KL = HeadTerm("forward_kl", closed_form.FORWARD_KL)
REVERSE_KL = HeadTerm("reverse_kl", closed_form.REVERSE_KL)
WARM_JSD = HeadTerm("jsd", closed_form.jsd(0.3), 2.0)
CROSS_ENTROPY = HeadTerm("ce", closed_form.CROSS_ENTROPY)
TEACHER_NLL = HeadTerm("teacher_nll", closed_form.TEACHER_NLL)
TERMS = [FORWARD_KL, WARM_JSD, CROSS_ENTROPY, REVERSE_KL]


def make_head(hidden_size: int, *, seed: int, bias: bool = False, n: int = N, **kwargs):
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_()

    return LinearHead(
        normal(n, hidden_size), normal(V, hidden_size), normal(V) if bias else None, **kwargs
    )


@pytest.fixture
def student():
    return make_head(5, seed=0)


@pytest.fixture
def teacher():
    return make_head(7, seed=1)


@pytest.fixture
def ids():
    ids = torch.randint(V, (N,), generator=torch.Generator().manual_seed(2))
    ids[3] = -100
    return ids


@pytest.fixture
def weights():
    weights = torch.rand(len(TERMS), N, generator=torch.Generator().manual_seed(3)).double()
    weights[1, 2:6] = 0
    return weights


def full_logits(head: LinearHead) -> Tensor:
    logits = head.scale * (head.hidden @ head.weight.T + (0 if head.bias is None else head.bias))
    return logits if head.soft_cap is None else torch.tanh(logits / head.soft_cap) * head.soft_cap


def plain(student: LinearHead, teacher: LinearHead, ids: Tensor, weights: Tensor):
    """TERMS on the full logits, by the functions on logits and by torch's cross-entropy."""
    z_s, z_t = full_logits(student), full_logits(teacher)
    values = torch.stack(
        [
            d.forward_kl(z_s, z_t),
            d.jsd(z_s, z_t, temperature=2.0, teacher_weight=0.3),
            F.cross_entropy(z_s, ids, reduction="none"),
            d.reverse_kl(z_s, z_t),
        ]
    )
    return (weights * values).sum(), values


def gradients_of(loss: Tensor, head: LinearHead) -> list[Tensor]:
    leaves = [x for x in (head.hidden, head.weight, head.bias) if x is not None]
    return list(torch.autograd.grad(loss, leaves))


def assert_same_as_plain(student, teacher, ids, weights, **kwargs):
    output = divergence_from_hidden(student, teacher, ids, TERMS, weights, **kwargs)
    loss, values = plain(student, teacher, ids, weights)
    torch.testing.assert_close(output.loss, loss, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(output.values, values.detach(), rtol=1e-9, atol=1e-9)
    for ours, theirs in zip(
        gradients_of(output.loss, student), gradients_of(loss, student), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("chunk_size", [1, 3, 4, N, 100, None])
def test_any_chunk_size_gives_the_full_computation(student, teacher, ids, weights, chunk_size):
    assert_same_as_plain(student, teacher, ids, weights, chunk_size=chunk_size)


@pytest.mark.parametrize(
    "kwargs",
    [
        {"bias": True},
        {"scale": 0.3},
        {"soft_cap": 1.5},
        {"bias": True, "scale": 2.0, "soft_cap": 2.0},
    ],
    ids=["bias", "scale", "soft_cap", "all"],
)
def test_every_kind_of_head_gives_the_full_computation(student, teacher, ids, weights, kwargs):
    other_student, other_teacher = make_head(5, seed=4, **kwargs), make_head(7, seed=5, **kwargs)
    assert_same_as_plain(other_student, teacher, ids, weights, chunk_size=4)
    assert_same_as_plain(student, other_teacher, ids, weights, chunk_size=4)


def test_all_logits_at_once_are_those_of_the_formula():
    head = make_head(5, seed=4, bias=True, scale=2.0, soft_cap=2.0)
    torch.testing.assert_close(head.logits(), full_logits(head), rtol=1e-9, atol=1e-9)
    # Only the product itself is rounded to bfloat16, not what scale makes of it.
    rounded = replace(as_dtype(head, torch.bfloat16), bias=None, scale=1 / 3, soft_cap=None)
    product = (rounded.hidden @ rounded.weight.T).float()
    torch.testing.assert_close(rounded.logits(), product / 3)


def test_a_cross_entropy_worked_by_hand():
    # logits = (2, 0) @ ((1, 0), (0, 1)).T = (2, 0); -log softmax at token 1 = ln(1 + e^2).
    head = LinearHead(torch.tensor([[2.0, 0.0]]), torch.eye(2))
    weights = torch.tensor([[3.0]])
    output = divergence_from_hidden(head, None, torch.tensor([1]), [CROSS_ENTROPY], weights)
    assert output.loss.item() == pytest.approx(3 * math.log(1 + math.exp(2)))
    assert output.values.item() == pytest.approx(math.log(1 + math.exp(2)))
    # Scale 2, then a cap of 1: logits (tanh(4), 0), not 2 tanh(2).
    head = replace(head, scale=2.0, soft_cap=1.0)
    output = divergence_from_hidden(head, None, torch.tensor([1]), [CROSS_ENTROPY], weights)
    assert output.values.item() == pytest.approx(math.log(1 + math.exp(math.tanh(4))), abs=1e-6)


def test_gradients_agree_with_finite_differences(teacher, ids, weights):
    head = make_head(2, seed=6, bias=True, n=3, scale=0.7, soft_cap=3.0)
    teacher = replace(teacher, hidden=teacher.hidden[:3])

    def loss(hidden, weight, bias):
        student = replace(head, hidden=hidden, weight=weight, bias=bias)
        output = divergence_from_hidden(
            student, teacher, ids[:3], TERMS, weights[:, :3], chunk_size=2
        )
        return output.loss

    leaves = [head.hidden, head.weight, head.bias]
    gradients = torch.autograd.grad(loss(*leaves), leaves)
    # Not gradcheck, which goes back through one forward pass several times.
    for leaf, gradient in zip(leaves, gradients, strict=True):
        torch.testing.assert_close(
            gradient, central_differences(lambda: loss(*leaves), leaf), rtol=1e-6, atol=1e-6
        )


@torch.no_grad()
def central_differences(function, leaf: Tensor, step: float = 1e-6) -> Tensor:
    """The gradient of a function by a tensor that it looks at."""
    found = torch.empty_like(leaf)
    for place in range(leaf.numel()):
        values = []
        for move in (step, -step):
            leaf.view(-1)[place] += move
            values.append(function())
            leaf.view(-1)[place] -= move
        found.view(-1)[place] = (values[0] - values[1]) / (2 * step)
    return found


def test_a_second_backward_pass_through_one_forward_pass_is_refused(student, teacher, ids, weights):
    loss = divergence_from_hidden(student, teacher, ids, TERMS, weights).loss
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="run it again"):
        loss.backward()


def test_the_loss_passes_on_what_multiplies_it(student, teacher, ids, weights):
    output = divergence_from_hidden(student, teacher, ids, TERMS, weights, chunk_size=4)
    loss, _ = plain(student, teacher, ids, weights)
    expected = gradients_of((-2.5 * loss) ** 2, student)
    for ours, theirs in zip(
        gradients_of((-2.5 * output.loss) ** 2, student), expected, strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


def test_two_backward_passes_add_up(student, teacher, ids, weights):
    for _ in range(2):
        divergence_from_hidden(student, teacher, ids, TERMS, weights).loss.backward()
    expected = gradients_of(2 * plain(student, teacher, ids, weights)[0], student)
    torch.testing.assert_close(student.hidden.grad, expected[0], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(student.weight.grad, expected[1], rtol=1e-9, atol=1e-9)


def test_a_tied_weight_gets_the_gradient_of_both_its_uses(teacher, ids, weights):
    weight = make_head(5, seed=7).weight
    student = LinearHead(torch.tanh(weight[ids.clamp(min=0)]), weight)
    ours = divergence_from_hidden(student, teacher, ids, TERMS, weights, chunk_size=4).loss
    theirs, _ = plain(student, teacher, ids, weights)
    (our_gradient,) = torch.autograd.grad(ours, weight, retain_graph=True)
    (their_gradient,) = torch.autograd.grad(theirs, weight)
    torch.testing.assert_close(our_gradient, their_gradient, rtol=1e-9, atol=1e-9)


def test_gradients_flow_past_the_head_into_what_made_the_hidden_states(teacher, ids, weights):
    body = torch.randn(4, 5, dtype=torch.float64, requires_grad=True)
    student = replace(make_head(5, seed=8), hidden=torch.randn(N, 4).double() @ body)
    loss, _ = plain(student, teacher, ids, weights)
    (expected,) = torch.autograd.grad(loss, body, retain_graph=True)
    ours = divergence_from_hidden(student, teacher, ids, TERMS, weights).loss
    torch.testing.assert_close(torch.autograd.grad(ours, body)[0], expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("frozen", ["hidden", "weight", "bias"])
def test_a_frozen_part_gets_no_gradient_and_the_others_keep_theirs(teacher, ids, weights, frozen):
    head = make_head(5, seed=9, bias=True)
    names = [name for name in ("hidden", "weight", "bias") if name != frozen]
    expected = gradients_of(plain(head, teacher, ids, weights)[0], head)
    expected = dict(zip(("hidden", "weight", "bias"), expected, strict=True))
    getattr(head, frozen).requires_grad_(False)
    divergence_from_hidden(head, teacher, ids, TERMS, weights, chunk_size=4).loss.backward()
    assert getattr(head, frozen).grad is None
    for name in names:
        torch.testing.assert_close(getattr(head, name).grad, expected[name], rtol=1e-9, atol=1e-9)


def test_the_teacher_and_the_weights_get_no_gradient(student, teacher, ids, weights):
    weights.requires_grad_()
    output = divergence_from_hidden(student, teacher, ids, TERMS, weights)
    output.loss.backward()
    assert teacher.hidden.grad is teacher.weight.grad is weights.grad is None
    assert not output.values.requires_grad


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_without_gradients_the_values_are_the_same(student, teacher, ids, weights, context):
    expected = divergence_from_hidden(student, teacher, ids, TERMS, weights)
    with context():
        output = divergence_from_hidden(student, teacher, ids, TERMS, weights)
    assert not output.loss.requires_grad
    assert torch.equal(output.loss, expected.loss)
    assert torch.equal(output.values, expected.values)


def test_crop_drops_the_padded_rows_and_gives_them_a_gradient_of_zero(ids, weights):
    padded, teacher = make_head(5, seed=10, bias=True), make_head(7, seed=11, bias=True)
    cropped = crop(padded, V - 3)
    assert len(cropped.weight) == len(cropped.bias) == V - 3
    ids = ids.clamp(max=V - 4)
    output = divergence_from_hidden(cropped, crop(teacher, V - 3), ids, TERMS, weights)
    loss, _ = plain(cropped, crop(teacher, V - 3), ids, weights)
    ours, theirs = gradients_of(output.loss, padded), gradients_of(loss, padded)
    for our, their in zip(ours, theirs, strict=True):
        torch.testing.assert_close(our, their, rtol=1e-9, atol=1e-9)
    assert ours[1].shape == padded.weight.shape
    assert (ours[1][-3:] == 0).all()
    with pytest.raises(ValueError, match="cannot crop a head of 23 rows to 24"):
        crop(padded, V + 1)


def test_diagnostics_are_reported_and_stay_outside_the_loss(student, teacher, ids, weights):
    hot = replace(FORWARD_KL, temperature=3.0)
    without = divergence_from_hidden(student, teacher, ids, TERMS, weights, chunk_size=4)
    output = divergence_from_hidden(
        student,
        teacher,
        ids,
        TERMS,
        weights,
        chunk_size=4,
        diagnostics=[TEACHER_NLL, hot, FORWARD_KL],
    )
    z_s, z_t = full_logits(student).detach(), full_logits(teacher).detach()
    expected = [
        d.teacher_nll(z_t, ids),
        d.forward_kl(z_s, z_t, temperature=3.0),
        d.forward_kl(z_s, z_t),
    ]
    torch.testing.assert_close(output.diagnostics, torch.stack(expected))
    assert not output.diagnostics.requires_grad
    assert torch.equal(output.loss, without.loss)
    assert torch.equal(
        gradients_of(output.loss, student)[1], gradients_of(without.loss, student)[1]
    )
    assert without.diagnostics.shape == (0, N)


def test_terms_of_one_temperature_share_their_log_softmaxes(student, teacher, ids, weights):
    seen = []

    def recorder():
        def record(pair):
            seen.append((id(pair.log_q), id(pair.log_p)))
            return pair.log_q[:, 0], Tensor.zero_

        return Divergence(record)

    terms = [HeadTerm(str(t), recorder(), t) for t in (1.0, 2.0, 1.0, 2.0)]
    divergence_from_hidden(
        student, teacher, ids, terms, weights, diagnostics=[HeadTerm("again", recorder(), 2.0)]
    )
    assert seen[0] == seen[2] != seen[1]
    assert seen[1] == seen[3] == seen[4]


def test_a_diagnostic_that_is_also_a_term_is_taken_once(student, teacher, ids, weights):
    taken = []

    def record(pair):
        taken.append(pair.temperature)
        return pair.log_q[:, 0], Tensor.zero_

    same = Divergence(record)
    terms = [HeadTerm("term", same), HeadTerm("hot", same, 2.0)]
    output = divergence_from_hidden(
        student, teacher, ids, terms, weights[:2], diagnostics=[HeadTerm("diagnostic", same)]
    )
    assert taken == [1.0, 2.0]
    assert torch.equal(output.diagnostics[0], output.values[0])


def test_no_positions_give_a_zero_that_still_has_a_gradient(teacher):
    head = make_head(5, seed=12, bias=True, n=0)
    nothing = replace(teacher, hidden=teacher.hidden[:0])
    ids, weights = torch.zeros(0, dtype=torch.long), torch.zeros(len(TERMS), 0)
    output = divergence_from_hidden(head, nothing, ids, TERMS, weights, diagnostics=[TEACHER_NLL])
    assert output.loss.item() == 0
    assert output.values.shape == (len(TERMS), 0)
    for gradient in gradients_of(output.loss, head):
        assert (gradient == 0).all()


def test_weights_of_zero_give_a_zero_with_a_gradient_and_all_values(student, teacher, ids, weights):
    output = divergence_from_hidden(student, teacher, ids, TERMS, 0 * weights, chunk_size=4)
    assert output.loss.item() == 0
    for gradient in gradients_of(output.loss, student):
        assert (gradient == 0).all()
    expected = plain(student, teacher, ids, weights)[1].detach()
    torch.testing.assert_close(output.values, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("chunk_size", [1, 2, N])
def test_a_position_of_weight_zero_does_no_harm_even_when_infinite(
    student, teacher, ids, weights, chunk_size
):
    # -inf, with a derivative of NaN, at the one position without a target.
    def divided(pair):
        divisor = (pair.target_ids != -100).double()
        first = F.one_hot(torch.zeros_like(pair.target_ids), V)
        slope = (first - pair.q) / divisor.unsqueeze(-1)
        return pair.log_q[:, 0] / divisor, lambda out: out.copy_(slope)

    careless = HeadTerm("careless", Divergence(divided))
    weights = weights[:2].clamp(min=0.1)
    weights[:, 3] = 0
    weights[1, 2] = 0
    output = divergence_from_hidden(
        student, teacher, ids, [FORWARD_KL, careless], weights, chunk_size=chunk_size
    )
    assert output.values[1].isinf().tolist() == [t == 3 for t in range(N)]
    kept = [t for t in range(N) if t != 3]
    z_s, z_t = full_logits(student)[kept], full_logits(teacher)[kept]
    values = torch.stack([d.forward_kl(z_s, z_t), d.logprobs(z_s)[:, 0]])
    loss = (weights[:, kept] * values).sum()
    torch.testing.assert_close(output.loss, loss, rtol=1e-9, atol=1e-9)
    for ours, theirs in zip(
        gradients_of(output.loss, student), gradients_of(loss, student), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


def test_one_position_and_a_vocabulary_of_one():
    head = LinearHead(torch.randn(1, 3, requires_grad=True), torch.randn(1, 3, requires_grad=True))
    one = LinearHead(torch.randn(1, 2), torch.randn(1, 2))
    ids, weights = torch.zeros(1, dtype=torch.long), torch.ones(len(TERMS), 1)
    output = divergence_from_hidden(head, one, ids, TERMS, weights)
    assert (output.values == 0).all()
    for gradient in gradients_of(output.loss, head):
        assert (gradient == 0).all()


def as_dtype(head: LinearHead, dtype: torch.dtype) -> LinearHead:
    cast = {
        name: None if x is None else x.detach().to(dtype).requires_grad_()
        for name, x in (("hidden", head.hidden), ("weight", head.weight), ("bias", head.bias))
    }
    return replace(head, **cast)


def assert_close_in_norm(ours: Tensor, theirs: Tensor, tolerance: float) -> None:
    assert (ours.double() - theirs).norm() <= tolerance * theirs.norm()


@pytest.mark.parametrize("how", ["tensors", "compute_dtype", "autocast"])
def test_bfloat16_products_stay_near_float64(ids, weights, how):
    # bfloat16 has 8 bits: each product is off by up to 2**-9 of itself, logits here are below 4.
    student = make_head(64, seed=13, bias=True, scale=1 / 8)
    teacher = make_head(48, seed=14, bias=True, scale=1 / 8)
    loss, values = plain(student, teacher, ids, weights)
    dtype = torch.bfloat16 if how == "tensors" else torch.float32
    ours = as_dtype(student, dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=how == "autocast"):
        output = divergence_from_hidden(
            ours,
            as_dtype(teacher, dtype),
            ids,
            TERMS,
            weights.float(),
            chunk_size=4,
            compute_dtype=torch.bfloat16 if how == "compute_dtype" else None,
        )
    assert output.loss.dtype == output.values.dtype == torch.float32
    assert output.loss.item() != pytest.approx(loss.item(), rel=1e-6)
    assert_close_in_norm(output.loss, loss, 2e-2)
    assert_close_in_norm(output.values, values, 2e-2)
    for mine, theirs in zip(
        gradients_of(output.loss, ours), gradients_of(loss, student), strict=True
    ):
        assert mine.dtype == dtype
        assert_close_in_norm(mine, theirs, 2e-2)


def test_a_compute_dtype_holds_under_autocast(student, teacher, ids, weights):
    expected = divergence_from_hidden(student, teacher, ids, TERMS, weights)
    ours = as_dtype(student, torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = divergence_from_hidden(
            ours, teacher, ids, TERMS, weights, compute_dtype=torch.float32
        )
    torch.testing.assert_close(output.loss.double(), expected.loss, rtol=1e-5, atol=1e-5)
    gradient, exact = gradients_of(output.loss, ours)[1], gradients_of(expected.loss, student)[1]
    torch.testing.assert_close(gradient.double(), exact, rtol=1e-5, atol=1e-5)


def test_the_weight_gradient_of_a_bfloat16_head_is_summed_in_float32():
    # 1 + 512 * 2**-9 = 2, but in bfloat16 1 + 2**-9 is 1: chunk by chunk it would stay there.
    n = 513
    hidden = torch.full((n, 1), 2.0**-9, dtype=torch.bfloat16)
    hidden[0] = 1
    head = LinearHead(hidden, torch.zeros(2, 1, dtype=torch.bfloat16, requires_grad=True))
    first = HeadTerm(
        "first",
        Divergence(
            lambda pair: (pair.log_q[:, 0], lambda out: out.copy_(torch.tensor([1.0, -1.0])))
        ),
    )
    ids = torch.zeros(n, dtype=torch.long)
    output = divergence_from_hidden(head, None, ids, [first], torch.ones(1, n), chunk_size=1)
    (gradient,) = torch.autograd.grad(output.loss, head.weight)
    assert gradient.tolist() == [[2.0], [-2.0]]


def test_one_chunk_of_bfloat16_is_rounded_no_more_than_its_product(teacher, ids, weights):
    # A float32 weight has its gradient in float32 until after the scale, which bfloat16 cannot hold.
    def weight_gradient(dtype: torch.dtype) -> Tensor:
        head = as_dtype(as_dtype(make_head(5, seed=0), torch.bfloat16), dtype)
        output = divergence_from_hidden(
            head, teacher, ids, TERMS, weights, compute_dtype=torch.bfloat16
        )
        (gradient,) = torch.autograd.grad(output.loss / 3, head.weight)
        return gradient.to(torch.bfloat16)

    assert torch.equal(weight_gradient(torch.bfloat16), weight_gradient(torch.float32))


def test_a_frozen_head_in_another_dtype_is_promoted(ids, teacher, weights):
    student = make_head(5, seed=15)
    mixed = replace(student, weight=student.weight.detach().float().double())
    half = replace(mixed, weight=mixed.weight.float())
    expected = divergence_from_hidden(mixed, teacher, ids, TERMS, weights)
    assert torch.equal(
        divergence_from_hidden(half, teacher, ids, TERMS, weights).loss, expected.loss
    )


class LargestTensor(TorchDispatchMode):
    """Records the bytes of the largest tensor that any operation returns."""

    def __init__(self):
        super().__init__()
        self.num_bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        sizes = [x.untyped_storage().nbytes() for x in tree_leaves(result) if isinstance(x, Tensor)]
        self.num_bytes = max(self.num_bytes, *sizes, 0)
        return result


@pytest.mark.parametrize("n", [512, 2048])
def test_the_workspace_is_two_chunks_and_a_block_however_many_positions(n, monkeypatch):
    vocab_size, hidden_size, chunk_size = 1000, 4, 16
    kept = _OfThread()
    monkeypatch.setattr("llmkd.losses.scratch._of_thread", kept)
    student, teacher = (
        LinearHead(
            torch.randn(n, hidden_size, requires_grad=True),
            torch.randn(vocab_size, hidden_size, requires_grad=True),
        )
        for _ in range(2)
    )
    ids, weights = torch.randint(vocab_size, (n,)), torch.rand(len(TERMS), n)
    with LargestTensor() as largest:
        output = divergence_from_hidden(
            student, teacher, ids, TERMS, weights, diagnostics=[TEACHER_NLL], chunk_size=chunk_size
        )
        output.loss.backward()
    float32_bytes = 4 * chunk_size * vocab_size
    assert largest.num_bytes == float32_bytes
    assert [len(x) for x in kept.chunks.kept] == [float32_bytes] * 2
    assert {len(x) for x in kept.blocks.kept} == {float32_bytes}
    assert len(kept.blocks.kept) < 25
    with LargestTensor() as largest:
        full_logits(student)
    assert largest.num_bytes == 4 * n * vocab_size


def test_the_default_chunk_fits_its_budget(monkeypatch, student, teacher, ids, weights):
    rows = []

    def look(pair):
        rows.append(len(pair.target_ids))
        return pair.q[:, 0], Tensor.zero_

    spy = HeadTerm("spy", Divergence(look))
    # Five float64 rows fit; three chunks of four are as many as two of five and one of one.
    monkeypatch.setattr("llmkd.losses.budgets.CHUNK_BYTES_ON_CPU", 8 * V * 5 + 1)
    divergence_from_hidden(student, teacher, ids, [spy], weights[:1])
    assert rows == [4, 4, 3]


def test_tensors_that_do_not_fit_each_other_are_refused(student, teacher, ids, weights):
    def run(student=student, teacher=teacher, ids=ids, terms=TERMS, weights=weights):
        divergence_from_hidden(student, teacher, ids, terms, weights)

    with pytest.raises(ValueError, match=r"head has 20 tokens and the teacher's 23.*crop\(head"):
        run(student=crop(student, 20))
    with pytest.raises(ValueError, match="the student has 10 positions, the teacher 11"):
        run(student=replace(student, hidden=student.hidden[:10]))
    with pytest.raises(ValueError, match="target_ids 10"):
        run(ids=ids[:10], weights=weights[:, :10])
    with pytest.raises(ValueError, match=r"shape \(4, 11\).*\(1, 11\)"):
        run(terms=[FORWARD_KL])
    with pytest.raises(ValueError, match="at least one"):
        run(terms=[], weights=weights[:0])


# Numerics.


@pytest.mark.parametrize("tau", [0.1, 10.0])
def test_a_padded_vocabulary_of_a_real_size_is_cropped_without_nan(tau):
    # 151,936 rows in one model's head and 152,064 in the other's, for the same tokenizer.
    tokens, n, hidden_size = 151_665, 3, 4
    generator = torch.Generator().manual_seed(0)

    def head(num_rows: int, dtype: torch.dtype) -> LinearHead:
        hidden, weight = (
            3 * torch.randn(size, hidden_size, generator=generator, dtype=torch.float64)
            for size in (n, num_rows)
        )
        return LinearHead(hidden.to(dtype).requires_grad_(), weight.to(dtype).requires_grad_())

    student, teacher = head(151_936, torch.float32), head(152_064, torch.float32)
    ids = torch.tensor([0, 77, tokens - 1])
    terms = [
        HeadTerm("forward_kl", closed_form.FORWARD_KL, tau),
        HeadTerm("reverse_kl", closed_form.REVERSE_KL, tau),
        HeadTerm("jsd", closed_form.jsd(0.5), tau),
    ]
    with pytest.raises(ValueError, match=r"151936 tokens and the teacher's 152064"):
        divergence_from_hidden(student, teacher, ids, terms, torch.ones(3, n))
    output = divergence_from_hidden(
        crop(student, tokens), crop(teacher, tokens), ids, terms, torch.ones(3, n)
    )
    exact = [as_dtype(crop(x, tokens), torch.float64) for x in (student, teacher)]
    z_s, z_t = (full_logits(x) for x in exact)
    expected = torch.stack(
        [
            d.forward_kl(z_s, z_t, temperature=tau),
            d.reverse_kl(z_s, z_t, temperature=tau),
            d.jsd(z_s, z_t, temperature=tau),
        ]
    )
    # Logits up to 100 over temperature 0.1 are 1000, where float32 has steps of 6e-5.
    torch.testing.assert_close(output.values.double(), expected.detach(), rtol=1e-4, atol=1e-5)
    ours = gradients_of(output.loss, student)
    theirs = gradients_of(expected.sum(), exact[0])
    assert (ours[1][tokens:] == 0).all()
    assert_close_in_norm(ours[0], theirs[0], 1e-3)
    assert_close_in_norm(ours[1][:tokens], theirs[1], 1e-3)


def test_a_chunks_sum_of_float16_gradients_does_not_overflow():
    n = 1000
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(n, 4, generator=generator).half()
    hidden[:, 0] = 100
    head = LinearHead(hidden, torch.zeros(30, 4).half().requires_grad_(), torch.zeros(30).half())
    head.bias.requires_grad_()
    ids = torch.zeros(n, dtype=torch.long)
    weights = torch.full((1, n), 1 / n)
    output = divergence_from_hidden(head, None, ids, [CROSS_ENTROPY], weights)
    ours = torch.autograd.grad(output.loss, (head.weight, head.bias))
    # All tokens are as likely, and token 0 is right each time.
    slope = torch.full((30,), 1 / 30, dtype=torch.float64)
    slope[0] -= 1
    assert_close_in_norm(ours[0], slope[:, None] * hidden.double().mean(0), 1e-2)
    assert_close_in_norm(ours[1], slope, 1e-2)


def test_float16_weights_keep_gradients_that_float16_would_round_to_zero():
    # A share of a mean over a million tokens: 1e-6 (q - p) is below what float16 can hold.
    student, teacher = (
        LinearHead(torch.randn(4, 8).half(), torch.randn(30, 8).half()) for _ in range(2)
    )
    hidden = student.hidden.float().requires_grad_()
    ids = torch.zeros(4, dtype=torch.long)
    output = divergence_from_hidden(
        replace(student, hidden=hidden),
        teacher,
        ids,
        [FORWARD_KL],
        torch.full((1, 4), 1e-6),
        compute_dtype=torch.float16,
    )
    (ours,) = torch.autograd.grad(output.loss, hidden)
    exact = hidden.detach().double().requires_grad_()
    wide = LinearHead(exact, student.weight.double())
    z_t = teacher.hidden.double() @ teacher.weight.double().T
    (theirs,) = torch.autograd.grad(1e-6 * d.forward_kl(full_logits(wide), z_t).sum(), exact)
    assert_close_in_norm(ours, theirs, 2e-2)
