"""Which rollouts the teacher's term counts, by what their rewards say."""

from typing import Literal

from torch import Tensor

MaskKind = Literal["none", "response", "group"]


def kept_responses(mask: MaskKind, is_right: Tensor, num_generations: int) -> Tensor:
    """Which responses are imitated, [N], boolean.

    The right ones need no teacher, and to follow it there makes them longer.

    Args:
        mask: `none` keeps all, `response` the wrong ones, `group` those of groups without a right one.
        is_right: Of each response, group by group, [N].
        num_generations: Responses of a group; divides N.

    References:
        Xu et al. 2025, "KDRL", https://arxiv.org/abs/2506.02208, section 3.4.
    """
    if mask == "none":
        return is_right.new_ones(is_right.shape)
    if mask == "response":
        return ~is_right
    has_right = is_right.view(-1, num_generations).any(1)
    return (~has_right).repeat_interleave(num_generations)
