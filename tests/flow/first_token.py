"""The first token that each adapter would write, from the real engine: `python -m tests.flow.first_token < request`.

request: JSON with model, max_lora_rank, token_ids, and adapters (name -> folder). All are asked in one batch, the base
too; printed is name -> {token id: log-probability}, as the last line.
"""

import json
import sys
from typing import Any

from pipelines.inference.backends.engine_config import EngineConfig

# In float32, so that a wrong scale is no matter of rounding.
ENGINE = EngineConfig(max_num_seqs=8, enforce_eager=True, kv_cache_gib=0.2, dtype="float32")
BASE = "base"
TOP = 20


def main() -> None:
    from vllm import LLM, SamplingParams, TokensPrompt
    from vllm.lora.request import LoRARequest

    request: dict[str, Any] = json.load(sys.stdin)
    engine = LLM(
        request["model"],
        trust_remote_code=False,
        **ENGINE.arguments(),
        enable_lora=True,
        max_loras=len(request["adapters"]),
        max_lora_rank=request["max_lora_rank"],
        worker_cls="serve.engine.cpu_worker.Worker",
    )
    loras = [LoRARequest(name, number, path) for number, (name, path) in enumerate(request["adapters"].items(), 1)]
    answers = engine.generate(
        [TokensPrompt(prompt_token_ids=request["token_ids"])] * (1 + len(loras)),
        SamplingParams(max_tokens=1, temperature=0, logprobs=TOP),
        lora_request=[None, *loras],
        use_tqdm=False,
    )
    names = [BASE, *request["adapters"]]
    tops = [answer.outputs[0].logprobs[0] for answer in answers]
    print(
        json.dumps(
            {name: {token: said.logprob for token, said in top.items()} for name, top in zip(names, tops, strict=True)}
        )
    )


if __name__ == "__main__":
    main()
