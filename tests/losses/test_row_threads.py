import os
import threading

import pytest
import torch

from llmkd.losses import closed_form
from llmkd.losses.linear_head import divergence_from_hidden
from llmkd.losses.row_threads import for_each
from llmkd.losses.scratch import Scratch
from llmkd.losses.signals import LinearHead
from llmkd.losses.terms import HeadTerm

CPU = torch.device("cpu")


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("two_threads")
def test_every_start_is_called_once_by_other_threads_without_gradients():
    seen = []

    def call(start: int) -> None:
        seen.append((start, threading.current_thread().name, torch.is_grad_enabled()))

    for_each(call, range(0, 50, 5), device=CPU)
    assert sorted(start for start, *_ in seen) == list(range(0, 50, 5))
    assert {name.split("_")[0] for _, name, _ in seen} == {"llmkd-rows"}
    assert not any(has_gradients for *_, has_gradients in seen)


@pytest.mark.usefixtures("two_threads")
def test_torch_has_one_thread_there_and_as_many_as_before_here():
    counts = []
    for_each(lambda _: counts.append(torch.get_num_threads()), range(20), device=CPU)
    assert set(counts) == {1}
    assert torch.get_num_threads() == 2
    found = []
    thread = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert found == [2]


@pytest.mark.parametrize("num_threads", [1, 2])
def test_an_exception_is_passed_on(num_threads):
    before = torch.get_num_threads()
    torch.set_num_threads(num_threads)

    def fail(start: int) -> None:
        if start == 3:
            raise ValueError(f"block {start}")

    try:
        with pytest.raises(ValueError, match="block 3"):
            for_each(fail, range(5), device=CPU)
    finally:
        torch.set_num_threads(before)


@pytest.mark.usefixtures("two_threads")
def test_nothing_is_still_running_after_an_exception():
    is_running, may_end, ended = threading.Event(), threading.Event(), []

    def call(start: int) -> None:
        if start == 0:
            is_running.wait(10)
            # The other one ends only when this one has failed.
            threading.Timer(0.2, may_end.set).start()
            raise ValueError("block 0")
        if start == 1:
            is_running.set()
            may_end.wait(10)
        ended.append(start)

    with pytest.raises(ValueError, match="block 0"):
        for_each(call, range(4), device=CPU)
    seen = list(ended)
    assert 1 in seen
    may_end.wait(10)
    assert ended == seen


@pytest.mark.usefixtures("two_threads")
def test_an_accelerators_work_is_queued_by_the_calling_thread():
    names = []
    for_each(
        lambda _: names.append(threading.current_thread().name),
        range(4),
        device=torch.device("cuda"),
    )
    assert set(names) == {threading.current_thread().name}


@pytest.mark.usefixtures("two_threads")
def test_a_forked_process_has_threads_of_its_own():
    for_each(lambda _: None, range(4), device=CPU)
    child = os.fork()
    if child == 0:
        done = []
        for_each(done.append, range(4), device=CPU)
        os._exit(0 if sorted(done) == [0, 1, 2, 3] else 1)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0


def head_loss(monkeypatch, num_threads: int, rows_per_block: int, *, backward: bool = True):
    n, vocab, hidden = 64, 50, 8
    torch.manual_seed(0)
    student = LinearHead(
        torch.randn(n, hidden, requires_grad=True), torch.randn(vocab, hidden, requires_grad=True)
    )
    teacher = LinearHead(torch.randn(n, hidden), torch.randn(vocab, hidden))
    monkeypatch.setattr("llmkd.losses.budgets.BLOCK_BYTES_ON_CPU", 4 * vocab * rows_per_block)
    terms = [
        HeadTerm("forward_kl", closed_form.FORWARD_KL, 2.0),
        HeadTerm("jsd", closed_form.jsd(0.5)),
        HeadTerm("todi", closed_form.TODI),
        HeadTerm("adaptive_kl", closed_form.adaptive_kl(0.5)),
        HeadTerm("ce", closed_form.CROSS_ENTROPY),
    ]
    before = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    try:
        output = divergence_from_hidden(
            student,
            teacher,
            torch.randint(vocab, (n,)),
            terms,
            torch.rand(len(terms), n),
            diagnostics=[HeadTerm("reverse_kl", closed_form.REVERSE_KL)],
            chunk_size=n,
        )
        if backward:
            output.loss.backward()
    finally:
        torch.set_num_threads(before)
    return [output.values, output.diagnostics, student.hidden.grad, student.weight.grad]


@pytest.mark.parametrize("rows_per_block", [1, 7])
def test_threads_and_blocks_change_no_value(monkeypatch, rows_per_block):
    whole = head_loss(monkeypatch, 1, 64)
    # Again and again, as threads meet in another order each time.
    for _ in range(5):
        parts = head_loss(monkeypatch, 2, rows_per_block)
        assert torch.equal(parts[0], whole[0])
        assert torch.equal(parts[1], whole[1])
        torch.testing.assert_close(parts[2:], whole[2:], rtol=1e-6, atol=1e-6)


def test_scratch_hands_out_different_tensors_until_it_is_restarted():
    scratch, example = Scratch(), torch.zeros(3, 4)
    first, second = scratch.like(example), scratch.like(example)
    assert first.data_ptr() != second.data_ptr()
    assert first.shape == (3, 4)
    scratch.restart()
    assert scratch.like(example).data_ptr() == first.data_ptr()


def test_scratch_grows_and_changes_its_type_where_it_must():
    scratch = Scratch()
    small = scratch.like(torch.zeros(2, 2))
    scratch.restart()
    large = scratch.like(torch.zeros(5, 7))
    assert large.shape == (5, 7)
    assert large.data_ptr() != small.data_ptr()
    scratch.restart()
    assert scratch.like(torch.zeros(2, 2)).data_ptr() == large.data_ptr()
    scratch.restart()
    assert scratch.like(torch.zeros(2, 2, dtype=torch.float64)).dtype == torch.float64


@pytest.mark.parametrize("num_threads", [1, 2])
def test_training_goes_on_after_a_call_in_inference_mode(monkeypatch, num_threads):
    expected = head_loss(monkeypatch, num_threads, 3)
    found = []

    def first_inference_then_training():
        # A new thread has no scratch memory yet.
        with torch.inference_mode():
            found.append(head_loss(monkeypatch, num_threads, 3, backward=False))
        found.append(head_loss(monkeypatch, num_threads, 3))

    thread = threading.Thread(target=first_inference_then_training)
    thread.start()
    thread.join()
    assert len(found) == 2
    for ours, theirs in zip(found[0][:2], expected[:2], strict=True):
        assert torch.equal(ours, theirs)
    for ours, theirs in zip(found[1], expected, strict=True):
        assert torch.equal(ours, theirs)


def test_types_and_sizes_in_any_order_change_no_result():
    def run(dtype: torch.dtype, n: int):
        torch.manual_seed(1)
        student, teacher = (
            LinearHead(torch.randn(n, 4).to(dtype).requires_grad_(), torch.randn(9, 4).to(dtype))
            for _ in range(2)
        )
        output = divergence_from_hidden(
            student,
            teacher,
            torch.zeros(n, dtype=torch.long),
            [HeadTerm("jsd", closed_form.jsd(0.5))],
            torch.ones(1, n),
        )
        output.loss.backward()
        return output.values, student.hidden.grad

    cases = [
        (torch.float32, 5),
        (torch.bfloat16, 11),
        (torch.float64, 3),
        (torch.float32, 40),
        (torch.bfloat16, 2),
        (torch.float32, 5),
    ]
    first = {case: run(*case) for case in cases}
    for case in reversed(cases):
        for ours, theirs in zip(run(*case), first[case], strict=True):
            assert torch.equal(ours, theirs)
