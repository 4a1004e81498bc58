import math

import pytest

from llmkd.report import notices

FALLING = [2.0 - 0.05 * i for i in range(20)]


def test_a_loss_that_is_not_finite_is_told_with_its_first_step():
    found = notices.not_finite("student", "loss", [10, 20, 30], [1.0, math.nan, math.nan])
    assert found is not None
    assert found.found == "loss is not finite in 2 of 3 log lines, first at step 20"
    assert notices.not_finite("student", "loss", [10, 20], [1.0, 2.0]) is None
    assert notices.not_finite("student", "loss", [], []) is None


def test_skipped_steps_are_told():
    found = notices.skipped_steps("student", num_steps=4000, num_skipped=1)
    assert found is not None
    assert found.found.startswith("1 of 4,000 optimizer steps were skipped: ")
    assert notices.skipped_steps("student", num_steps=4000, num_skipped=0) is None


def test_a_term_that_hardly_fell_is_told_with_both_ends():
    found = notices.hardly_fell("student", "kl", [2.0] * 18 + [1.9, 1.9])
    assert found is not None
    assert found.found.startswith("kl fell by 5 %, from 2 in the first tenth")
    rising = notices.hardly_fell("student", "kl", [1.0] * 18 + [1.5, 1.5])
    assert rising is not None
    assert "kl rose" in rising.found


@pytest.mark.parametrize(
    "values",
    [FALLING, [2.0, 1.9, 1.9, 1.9], [1e-5] * 20, [], [math.nan] * 20],
    ids=["it fell", "too few lines", "began as the teacher", "none", "not finite"],
)
def test_a_term_that_fell_or_cannot_be_judged_is_not_told(values):
    assert notices.hardly_fell("student", "kl", values) is None


def test_the_fall_that_it_takes_is_a_tenth():
    assert notices.hardly_fell("s", "kl", [1.0] * 10 + [0.89] * 10) is None
    assert notices.hardly_fell("s", "kl", [1.0] * 10 + [0.91] * 10) is not None


def test_a_term_without_weight_in_the_gradient_is_told():
    norms = {"forward_kl": [0.005, 0.005], "cross_entropy": [1.0, 1.0]}
    found = notices.unfelt_term("student", "forward_kl", norms)
    assert found is not None
    # 0.005 / 1.005
    assert "forward_kl makes 0.5 % of the gradient" in found.found
    assert notices.unfelt_term("student", "cross_entropy", norms) is None
    assert notices.unfelt_term("student", "forward_kl", {**norms, "forward_kl": [0.02]}) is None
    assert notices.unfelt_term("student", "forward_kl", {"forward_kl": [0.0]}) is None
    assert notices.unfelt_term("student", "forward_kl", {}) is None


def test_a_term_whose_gradient_was_never_finite_has_no_share_of_it():
    nan = [math.nan]
    assert notices.unfelt_term("s", "kl", {"kl": nan, "ce": [1.0]}) is None
    assert notices.unfelt_term("s", "kl", {"kl": nan, "ce": nan}) is None
    assert notices.unfelt_term("s", "kl", {"kl": [1.0], "ce": nan}) is None
    felt_least = {"kl": [0.001], "ce": [1.0], "mse": nan}
    assert notices.unfelt_term("s", "kl", felt_least) is not None


def test_a_teacher_that_is_worse_on_the_text_at_the_end_is_told():
    found = notices.worse_teacher("student", [1.5] * 20, FALLING)
    assert found is not None
    assert "1.5, is above the student's own, 1.075" in found.found
    assert notices.worse_teacher("student", [1.0] * 20, FALLING) is None
    assert notices.worse_teacher("student", [1.0] * 20, []) is None
    assert notices.worse_teacher("student", [], FALLING) is None


def test_rows_cut_or_dropped_are_told_above_a_twentieth():
    def told(num_kept, num_truncated, num_dropped, num_available=None):
        there = num_kept if num_available is None else num_available
        notice = notices.lost_rows("student", num_kept, num_truncated, num_dropped, there)
        return notice and notice.found

    assert told(90, 4, 10) == "4 of 90 rows were cut (4 %), 10 of 100 dropped (10 %)"
    assert told(100, 6, 0) == "6 of 100 rows were cut (6 %), 0 of 100 dropped (0 %)"
    assert told(100, 5, 0) is None
    assert told(0, 0, 0) is None
    # A mixture takes 20 of 1,000 rows: that is no loss, and what was dropped is little of all.
    assert told(20, 0, 30, num_available=1000) is None


def test_answers_left_out_are_told_above_a_twentieth():
    found = notices.lost_completions("texts", num_prompts=4000, num_kept=3000)
    assert found is not None
    assert "of 4,000 answers 1,000 (25 %)" in found.found
    assert notices.lost_completions("texts", num_prompts=4000, num_kept=3900) is None
    assert notices.lost_completions("texts", num_prompts=0, num_kept=0) is None


def test_overlapping_intervals_are_told_whichever_is_higher():
    names = ("student", "twin", "sums", "exact_match")
    found = notices.overlapping(*names, (0.5, 0.7), (0.6, 0.8))
    assert found is not None
    assert "exact_match [50.0, 70.0] overlaps twin's [60.0, 80.0]" in found.found
    assert notices.overlapping(*names, (0.6, 0.8), (0.5, 0.7)) is not None
    assert notices.overlapping(*names, (0.5, 0.6), (0.7, 0.8)) is None
    assert notices.overlapping(*names, (0.7, 0.8), (0.5, 0.6)) is None
    assert notices.overlapping(*names, (math.nan, math.nan), (0.5, 0.6)) is None


def test_a_baseline_that_had_a_teacher_is_not_called_one_without():
    names = ("student", "other", "sums", "exact_match")
    found = notices.overlapping(*names, (0.5, 0.7), (0.6, 0.8), is_twin=False)
    assert found is not None
    assert found.found.endswith("no difference to other is shown")
    of_twin = notices.overlapping(*names, (0.5, 0.7), (0.6, 0.8))
    assert of_twin is not None
    assert of_twin.found.endswith("no difference to a student without a teacher is shown")


def test_a_student_that_is_clearly_worse_than_the_twin_is_told():
    names = ("student", "twin", "sums")
    found = notices.worse_student(*names, "exact_match", 0.2, 0.6, is_clear=True)
    assert found is not None
    assert found.found == "on sums, exact_match 20.0 % is worse than twin's 60.0 %"
    assert notices.worse_student(*names, "perplexity", 6.0, 4.0, is_clear=True) is not None
    assert notices.worse_student(*names, "perplexity", 4.0, 6.0, is_clear=True) is None
    assert notices.worse_student(*names, "exact_match", 0.6, 0.2, is_clear=True) is None
    assert notices.worse_student(*names, "exact_match", 0.2, 0.6, is_clear=False) is None
    assert notices.worse_student(*names, "exact_match", math.nan, 0.6, is_clear=True) is None


def test_a_difference_of_shares_is_in_points():
    found = notices.no_claim("s", "twin", "sums", "exact_match", (0.1, -0.1, 0.3), is_claim=False)
    assert found is not None
    assert "differs from twin's by +10.0 points [-10.0, +30.0] over runs" in found.found


def test_a_difference_that_is_no_claim_is_told():
    names = ("student", "twin", "stories", "perplexity")
    found = notices.no_claim(*names, (-2.4, -8.4, 3.6), is_claim=False)
    assert found is not None
    assert "-2.4 [-8.4, +3.6] over runs" in found.found
    assert notices.no_claim(*names, (-2.4, -3.4, -1.4), is_claim=True) is None


def test_a_student_that_is_its_teacher_from_the_start_is_told():
    found = notices.began_as_teacher("student", [0.0002, 0.01])
    assert found is not None
    assert "KL between teacher and student is 0.0002" in found.found
    assert notices.began_as_teacher("student", [0.5, 0.0]) is None
    assert notices.began_as_teacher("student", [math.nan, 0.5]) is None
    assert notices.began_as_teacher("student", []) is None


def test_a_result_that_is_not_finite_is_told():
    assert notices.not_measured("student", "text", "perplexity", math.inf) is not None
    assert notices.not_measured("student", "text", "perplexity", 3.0) is None
