"""Lines of libraries that say nothing to a user, at every start or in each step."""

import logging
import os
import warnings


def quiet_libraries() -> None:
    """Keeps them out of the terminal; to be called before the libraries are imported."""
    import torch

    # On a CPU, it tells at every start of a kernel that it could fetch.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    # Where there is no accelerator, DeepSpeed says so at every start, unless it is told beforehand.
    if not torch.accelerator.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    # DeepSpeed calls older names of torch's: several lines in each step of ZeRO-3, from every process.
    older = r"`torch\.distributed\.\w+` is deprecated"
    warnings.filterwarnings("ignore", message=older, category=FutureWarning)
    # peft and TRL ask models by a name that transformers has given up.
    older = "`is_gradient_checkpointing` is deprecated"
    warnings.filterwarnings("ignore", message=older, category=FutureWarning)
