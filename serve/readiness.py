"""Whether every served model answers, and whether an adapter changes what its base answers."""

import asyncio

from PIL import Image

from infra.errors import ClusterError
from pipelines.images import decoding
from pipelines.inference.backends import chat
from pipelines.inference.backends.client import Client, RequestError
from pipelines.inference.config import Sampling
from pipelines.records import TAUGHT, Arm
from pipelines.records.endpoint import Endpoint

_MAX_TOKENS = 4
Tokens = list[tuple[str, float]]


def check(endpoint: Endpoint, api_key: str | None, timeout_s: float) -> None:
    """Ask every model about one grey image, all at the same time: the first image of an engine costs seconds.

    timeout_s: for all answers together, repeated requests included. Raises ClusterError when a model does not answer,
    or when an adapter's answer has the very probabilities of its base's: that is how an adapter answers that was loaded
    and is not applied.
    """
    answers = asyncio.run(_ask_all(endpoint, api_key, timeout_s))
    of_bases = [answers[model.name] for model in endpoint.models if model.arm is Arm.ZERO_SHOT]
    for model in endpoint.models:
        if model.arm in TAUGHT and answers[model.name] in of_bases:
            raise ClusterError(
                f"{model.name} answers exactly as its base does: its weights were loaded and are not applied, or it "
                "learned nothing. Look at the fitting's loss, then fit it again."
            )


async def _ask_all(endpoint: Endpoint, api_key: str | None, timeout_s: float) -> dict[str, Tokens]:
    """Model name -> the tokens of its answer and their log-probabilities."""
    names = [model.name for model in endpoint.models]
    # The client's limit is for each of its attempts, and stays out of the way of ours, which is for all of them.
    async with Client(endpoint.base_url, concurrency=len(names), timeout_s=2 * timeout_s, api_key=api_key) as client:
        answers = await asyncio.gather(*(_ask(client, endpoint.base_url, name, timeout_s) for name in names))
    return dict(zip(names, answers, strict=True))


async def _ask(client: Client, base_url: str, model: str, timeout_s: float) -> Tokens:
    picture = chat.data_url(decoding.png(Image.new("RGB", (96, 96), "grey")))
    body = chat.body(model, "What is shown?", [picture], Sampling(max_tokens=_MAX_TOKENS, logprobs=True), seed=0)
    try:
        async with asyncio.timeout(timeout_s):
            answer = await client.post(lambda: body)
        return [(token["token"], token["logprob"]) for token in answer["choices"][0]["logprobs"]["content"]]
    except RequestError as error:
        reason = str(error)
    except TimeoutError:
        reason = f"no answer within {timeout_s:g} s"
    except (LookupError, TypeError) as error:
        reason = f"no log-probabilities of tokens in its answer ({error!r})"
    raise ClusterError(
        f"{model} does not answer at {base_url}: {reason}. Its engine's log is among Ray's (logs/serve)."
    )
