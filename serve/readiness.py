"""Whether every served model really answers, and whether an adapter really changes what its base says."""

import json
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from PIL import Image

from infra.errors import ClusterError
from pipelines.images import decoding
from pipelines.inference.backends.chat import data_url
from pipelines.records import TAUGHT, Arm
from pipelines.records.endpoint import Endpoint

_TOKENS = 4


def check(endpoint: Endpoint, api_key: str | None, timeout_s: float) -> None:
    """Ask every model about one grey image, all at the same time: the first image of an engine costs seconds.

    Raises ClusterError when a model does not answer, or when an adapter's answer has the very probabilities of the
    base's: that is what an adapter does that was loaded and is not applied.
    """
    names = [model.name for model in endpoint.models]
    with ThreadPoolExecutor(len(names)) as threads:
        answers = threads.map(lambda name: _ask(endpoint.base_url, name, api_key, timeout_s), names)
        said = dict(zip(names, answers, strict=True))
    untouched = [said[model.name] for model in endpoint.models if model.arm is Arm.ZERO_SHOT]
    for model in endpoint.models:
        if model.arm in TAUGHT and said[model.name] in untouched:
            raise ClusterError(
                f"{model.name} answers exactly as its base does: its weights were loaded and are not applied, or it "
                "learned nothing. Look at the fitting's loss, then fit it again."
            )


def _ask(base_url: str, model: str, api_key: str | None, timeout_s: float) -> Any:
    """The tokens of a model's answer and their log-probabilities."""
    picture = {"type": "image_url", "image_url": {"url": data_url(decoding.png(Image.new("RGB", (96, 96), "grey")))}}
    question = {"role": "user", "content": [picture, {"type": "text", "text": "What is shown?"}]}
    body = {"model": model, "messages": [question], "max_tokens": _TOKENS, "temperature": 0, "logprobs": True}
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {api_key}"} if api_key else {})
    request = urllib.request.Request(f"{base_url}/chat/completions", json.dumps(body).encode(), headers)  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=timeout_s) as answer:  # noqa: S310 - our own http address
            tokens = json.load(answer)["choices"][0]["logprobs"]["content"]
            return [(token["token"], token["logprob"]) for token in tokens]
    except urllib.error.HTTPError as error:
        raise ClusterError(f"{model} does not answer: status {error.code}, {error.read(2000).decode()}") from error
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise ClusterError(f"{model} does not answer at {base_url}: {error!r}") from error
