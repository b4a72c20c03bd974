"""A model folder and its adapters -> a Ray Serve LLM server with a running vLLM engine. [edge]

Imported only inside a replica: importing vLLM takes ten seconds of a core, and neither driver nor ingress needs it.
What is changed about Ray's server is here: `SkipModelDownload` and `SingleProcessEngine`.
"""

from collections.abc import Mapping
from typing import Any

from ray.llm._internal.common.callbacks.base import CallbackBase
from ray.llm._internal.serve.core.configs.openai_api_models import (
    ChatCompletionRequest,
    CompletionRequest,
    ErrorResponse,
)
from ray.llm._internal.serve.engines.vllm.vllm_engine import VLLMEngine
from ray.serve.llm import LLMConfig, LLMServer
from vllm.entrypoints.openai.models.protocol import LoRAModulePath

from pipelines.inference.backends.engine_config import EngineConfig, keep_in_one_process
from pipelines.inference.backends.engine_process import core_started_early
from serve.api.validation import Limits
from serve.catalogue import HostedModel

__all__ = ["REQUESTS", "ErrorResponse", "llm_config", "start"]

REQUESTS = {"chat": ChatCompletionRequest, "completions": CompletionRequest}
_NO_DOMAIN = "no.domain.is.allowed.invalid"  # vLLM reads an empty list as: every domain is allowed


class SkipModelDownload(CallbackBase):
    """Skips Ray's download of the model: it is a folder, and the process for it would take ten seconds to start."""

    async def on_before_node_init(self) -> None:
        """Called by Ray before it would look for the model on a hub."""
        self.ctx.run_init_node = False


class SingleProcessEngine(VLLMEngine):
    """Ray's vLLM engine with its CPU worker in the engine's own process, which starts and answers sooner.

    A private method of Ray's is overridden, since only there does vLLM's finished config pass by.
    """

    def _start_async_llm_engine(self, vllm_engine_args: Any, vllm_engine_config: Any, placement_group: Any) -> Any:
        keep_in_one_process(vllm_engine_config)
        with core_started_early():
            return super()._start_async_llm_engine(vllm_engine_args, vllm_engine_config, placement_group)


async def start(config: LLMConfig) -> LLMServer:
    """A server whose engine is up and has loaded every adapter."""
    server: LLMServer = LLMServer.sync_init(config, engine_cls=SingleProcessEngine)
    await server.start()
    return server


def llm_config(
    model: HostedModel,
    config: EngineConfig,
    adapters: Mapping[str, str],
    max_lora_rank: int,
    limits: Limits,
) -> LLMConfig:
    """The settings of one engine, as Ray Serve LLM takes them. adapters: name -> folder."""
    return LLMConfig(
        model_loading_config={"model_id": model.name, "model_source": model.source},
        accelerator_config={"kind": "gpu" if config.gpus else "cpu"},
        engine_kwargs={
            **config.arguments(),
            "revision": model.revision,
            "trust_remote_code": False,
            "allowed_media_domains": list(limits.image_domains) or [_NO_DOMAIN],
            # For a request that sets no length: vLLM's default is all that is left of the context.
            "override_generation_config": {"max_new_tokens": limits.max_answer_tokens},
            # vLLM keeps its cache of prepared images in two processes. They differ once a request was refused or
            # cancelled between them, and the next request with that image fails. It would also take 4 GiB.
            "mm_processor_cache_gb": 0,
            **_lora_arguments(config, adapters, max_lora_rank),
        },
        experimental_configs={"stream_batching_interval_ms": 0},
        callback_config={"callback_class": SkipModelDownload},
        log_engine_metrics=False,
    )


def _lora_arguments(config: EngineConfig, adapters: Mapping[str, str], max_lora_rank: int) -> dict[str, Any]:
    if not adapters:
        return {}
    modules = [LoRAModulePath(name=name, path=folder) for name, folder in adapters.items()]
    return {
        "enable_lora": True,
        "max_loras": len(modules),
        "max_lora_rank": max_lora_rank,
        "lora_modules": modules,
    } | ({} if config.gpus else {"worker_cls": "serve.engine.cpu_worker.Worker"})
