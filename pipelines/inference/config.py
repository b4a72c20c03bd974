"""What decides an answer, and how it is asked for: the settings that every inference run has. Light."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from infra.digests import digest_json
from pipelines.inference.backends.engine_config import EngineConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class Model:
    """The model that is asked.

    name: a model folder or hub id, or the name under which an endpoint serves it. digest: of the folder's content, of
    the hub id and its revision, or of the adapter. base_digest: of the model that an adapter rests on. revision: of a
    hub model. engine: the engine's settings that change an answer, where they are known.
    """

    name: str
    digest: str
    base_digest: str | None = None
    revision: str | None = None
    engine: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def identity(self) -> dict[str, Any]:
        """What the digest of a request holds of its model: never the name, under which others may come to be served."""
        return {
            "digest": self.digest,
            "base": self.base_digest,
            "revision": self.revision,
            "engine": dict(self.engine),
        }


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sampling:
    """How tokens are chosen. temperature: 0 is greedy. top_k: 0 for all tokens. max_tokens: of an answer. seed: of the
    recipe. logprobs: whether the logprob of each written token is asked for. top_logprobs: how many of the likeliest
    tokens are kept at each place."""

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    max_tokens: int
    seed: int = 0
    logprobs: bool = False
    top_logprobs: int = 0

    def identity(self) -> dict[str, Any]:
        """What the digest of a request holds of it. Without top_logprobs an answer is another one than with them;
        whether logprobs are reported changes no answer."""
        names = ("temperature", "top_p", "top_k", "max_tokens", "seed", *(("top_logprobs",) * bool(self.top_logprobs)))
        return {name: getattr(self, name) for name in names}

    @property
    def digest(self) -> str:
        """Digest of the identity."""
        return digest_json(self.identity())


@dataclasses.dataclass(frozen=True, kw_only=True)
class InferenceConfig:
    """How requests are sent, and what happens to those that fail.

    stage: for messages; advice: what to type where the endpoint does not have the model. endpoint: base URL of an
    OpenAI-compatible endpoint that is asked; None for a vLLM engine of our own, which `engine` configures.
    engine.max_num_seqs: also how many requests an endpoint is sent at the same time. answer_first: the answer is on the
    first line of the text. attempts: how often a request is sent that fails or gives no answer where one is needed.
    timeout_s: of an attempt. max_failed_share: a larger share of failures stops the stage. batch_size: questions that a
    worker takes at once.
    """

    stage: str
    model: Model
    sampling: Sampling
    endpoint: str | None
    engine: EngineConfig
    advice: str = ""
    answer_first: bool = False
    attempts: int = 1
    timeout_s: float
    max_failed_share: float
    batch_size: int
