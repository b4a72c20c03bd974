"""Requests as a hostile client sends them, made from a seed: each a name and the bytes that go into a connection."""

import base64
import functools
import json
import random
import struct
import zlib
from collections.abc import Callable
from typing import Any

from tests.benchmarks.fuzz_images import mutated, png_chunk, seeds

CANARY = "CANARYPATIENT"
QUESTION = f"{CANARY} Which process route made this sample? A mill, B cast, C press."
_FORMATS = ("PNG", "JPEG", "WEBP", "GIF")
# What vLLM, Ray or OpenAI's own API take beside what the endpoint admits, and keys that reach into Python.
_FURTHER_FIELDS = """
add_generation_prompt add_special_tokens allowed_token_ids annotations audio bad_words best_of cache_control
cache_salt chat_template chat_template_kwargs continue_final_message continuous_usage_stats detokenize documents
dry_run echo extra_body file function_call functions guided_choice guided_decoding_backend guided_grammar guided_json
guided_regex image_embeds image_pil include_reasoning include_stop_str_in_output input_audio kv_transfer_params
length_penalty logit_bias logits_processors media_io_kwargs metadata mm_processor_kwargs modalities multi_modal_data
parallel_tool_calls prediction priority prompt_embeds prompt_logprobs prompt_token_ids reasoning_effort request_id
response_format return_token_ids return_tokens_as_token_ids service_tier skip_special_tokens
spaces_between_special_tokens stop_token_ids store structured_outputs suffix thinking_token_budget tool_calls
tool_choice tools truncate_prompt_tokens use_beam_search uuid video_url vllm_xargs __class__ __proto__ self cls kwargs
""".split()  # noqa: SIM905 - a list of words would be one a line
_FIELDS = """
model messages max_tokens max_completion_tokens min_tokens temperature top_p top_k min_p n seed stop stream
stream_options logprobs top_logprobs presence_penalty frequency_penalty repetition_penalty ignore_eos user prompt
""".split()  # noqa: SIM905 - a list of words would be one a line
_DEEP: Any = []
for _ in range(150):
    _DEEP = [_DEEP]
_VALUES: list[Any] = [
    None,
    True,
    False,
    0,
    1,
    -1,
    2,
    16,
    17,
    20,
    21,
    0.5,
    -0.5,
    1e308,
    -1e308,
    2**31,
    2**53,
    2**63,
    -(2**63) - 1,
    10**40,
    float("nan"),
    float("inf"),
    "",
    "\x00",
    "\ud800",
    "\udfff\ud800",
    "a" * 300,
    "a" * 100_000,
    "é\u202e\U0001f600",
    "0",
    "true",
    "null",
    "../../etc/passwd",
    "{{ 7*7 }}",
    "${jndi:x}",
    "<|im_end|>",
    "<|image_pad|>",
    "<|vision_start|>" * 50,
    [],
    [[]],
    [None],
    ["a"] * 20,
    [1] * 300,
    list(range(3000)),
    {},
    {"": ""},
    {"type": "text"},
    {"url": "x"},
    _DEEP,
    {"include_usage": True},
    {"include_usage": "x"},
    {"type": "json_object"},
    ["\n", "."],
    "http://127.0.0.1:9/",
]

_CHAT = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"

Request = tuple[str, bytes]


class Hostile:
    """A stream of requests. trap: an address on this machine that nothing may ever ask. models: what is served."""

    def __init__(self, seed: int, port: int, trap: str, models: list[str]) -> None:
        self._random = random.Random(seed)
        self._port = port
        self._trap = trap
        self.models = models
        self._seeds = {kind: [data for data in seeds(kind) if len(data) < 100_000] for kind in _FORMATS}
        self._kinds: list[Callable[[], Request]] = [
            self._sound,
            self._sound,
            self._strange_value,
            self._strange_value,
            self._strange_value,
            self._further_field,
            self._further_key_of_a_part,
            self._strange_part,
            self._mutated_json,
            self._mutated_image,
            self._mutated_image,
            self._bomb,
            self._strange_url,
            self._too_much,
            self._no_http,
            self._strange_headers,
            self._half,
            self._at_the_limits,
        ]

    def __next__(self) -> Request:
        return self._random.choice(self._kinds)()

    def body(self, /, **fields: Any) -> dict[str, Any]:
        """A sound request about a small image."""
        return {
            "model": self._random.choice(self.models),
            "messages": [{"role": "user", "content": [self.image(self._seed_image("PNG")), text(QUESTION)]}],
            "max_tokens": self._random.choice([1, 4, 8]),
            "temperature": 0.0,
        } | fields

    @staticmethod
    def image(data: bytes, kind: str = "png") -> dict[str, Any]:
        """A part with this image."""
        return {
            "type": "image_url",
            "image_url": {"url": f"data:image/{kind};base64,{base64.b64encode(data).decode()}"},
        }

    def _seed_image(self, kind: str) -> bytes:
        return self._random.choice(self._seeds[kind])

    def _sound(self) -> Request:
        return "sound", self.post(self.body(stream=self._random.random() < 0.5))

    def _strange_value(self) -> Request:
        chosen = self._random.sample(_FIELDS, self._random.choice([1, 1, 2, 4]))
        return "strange value", self.post(self.body(**{field: self._random.choice(_VALUES) for field in chosen}))

    def _further_field(self) -> Request:
        field = self._random.choice(_FURTHER_FIELDS)
        value = self._random.choice([*_VALUES, self._trap, {"url": self._trap}, [self._trap]])
        return "further field", self.post(self.body(**{field: value}))

    def _further_key_of_a_part(self) -> Request:
        body = self.body()
        part = self._random.choice(body["messages"][0]["content"])
        inside = self._random.choice([part, part.get("image_url", part), body["messages"][0]])
        inside[self._random.choice(_FURTHER_FIELDS)] = self._random.choice([self._trap, "a", {}, {"url": self._trap}])
        return "further key of a part", self.post(body)

    def _strange_part(self) -> Request:
        kind = self._random.choice([*_FURTHER_FIELDS, "text", "image_url", "audio_url", "input_image", "thinking"])
        part = {"type": kind, kind: self._random.choice([*_VALUES, self._trap, {"url": self._trap}])}
        return "strange part", self.post(self.body(messages=[{"role": "user", "content": [part, text(QUESTION)]}]))

    def _mutated_json(self) -> Request:
        data = bytearray(json.dumps(self.body()).encode())
        for _ in range(self._random.randint(1, 8)):
            place = self._random.randrange(len(data))
            match self._random.randrange(3):
                case 0:
                    data[place] = self._random.choice(b'{}[]",:\\0-eE\x00\xff\xed\xa0')
                case 1:
                    del data[place : place + self._random.randint(1, 40)]
                case 2:
                    data[place:place] = self._random.choice([b"{", b"[", b'"', b"\\ud800", b"null", b"1e999", b"NaN"])
        return "mutated JSON", self.post(bytes(data))

    def _mutated_image(self) -> Request:
        kind = self._random.choice(_FORMATS)
        data = mutated(self._seed_image(kind), kind, self._seeds[kind], self._random)
        return "mutated image", self.post(self.body(messages=[self._shown(data)]))

    def _shown(self, data: bytes) -> dict[str, Any]:
        return {"role": "user", "content": [self.image(data), text(QUESTION)]}

    def _bomb(self) -> Request:
        side = self._random.choice([1500, 2048, 3000, 8192, 16383])
        return "bomb", self.post(self.body(messages=[self._shown(bomb(side))]))

    def _strange_url(self) -> Request:
        payload = base64.b64encode(self._seed_image("PNG")).decode()
        url = self._random.choice(
            [
                "data:,",
                "data:;base64,",
                f"data:text/html;base64,{payload}",
                f"data:image/png,{payload}",
                self._trap,
                f"data:image/png;base64,{payload[:-3]}",
                f"data:image/png;base64,{payload}\n",
                f"blob:{self._trap}",
                "file:///etc/passwd",
                "http://[",
                "http://127.0.0.1@evil.example/",
                f"data:video/jpeg;base64,{payload},x",
                f"data:image/jpeg;base64,{payload},{payload}",
                "gopher://127.0.0.1:6379/_",
                "\ud800",
                "x" * 10_000,
            ]
        )
        part = {"type": "image_url", "image_url": {"url": url}}
        return "strange URL", self.post(self.body(messages=[{"role": "user", "content": [part, text(QUESTION)]}]))

    def _too_much(self) -> Request:
        match self._random.randrange(7):
            case 0:
                body = self.body(model=QUESTION * 20_000)
            case 1:
                body = self.body(messages=[{"role": "user", "content": [text(QUESTION)] * 20_000}])
            case 2:
                body = self.body(messages=[{"role": "user", "content": QUESTION}] * 20_000)
            case 3:
                body = self.body(messages=[{"role": "user", "content": QUESTION * 20_000}])
            case 4:
                body = self.body(messages=[self._shown(self._seed_image("PNG"))] * 60)
            case 5:
                body = self.body(n=16, max_tokens=100_000)
            case _:
                body = self.body(**{f"{QUESTION} {number}": number for number in range(2_000)})
        return "too much", self.post(body)

    def _at_the_limits(self) -> Request:
        """What the schema takes, and the engine may not."""
        settings = self._random.choice(
            [
                {"n": 16, "temperature": 0.0},
                {"n": 16, "temperature": 1.0, "max_tokens": 8},
                {"min_tokens": 100},
                {"stop": [QUESTION[:200], "\x00", "\n"]},
                {"top_k": 0},
                {"top_k": 1 << 20},
                {"min_p": 1.0, "temperature": 2.0},
                {"logprobs": True, "top_logprobs": 20},
                {"repetition_penalty": 1e-9},
                {"temperature": 1e-9},
                {"top_p": 1e-9},
                {"seed": -(2**63) + 1},
                {"max_tokens": 4096},
                {"presence_penalty": -2.0, "frequency_penalty": 2.0},
                {"messages": [{"role": "assistant", "content": QUESTION}]},
                {"messages": [{"role": "system", "content": ""}]},
                {"messages": [{"role": "user", "content": ""}]},
                {"messages": [{"role": "user", "content": "<|image_pad|>"}]},
                {"messages": [{"role": "user", "content": "<|vision_start|><|image_pad|><|vision_end|>" + QUESTION}]},
                {"messages": [{"role": "user", "content": "ab " * 3000}]},
                {"messages": [{"role": "user", "content": "\x00"}]},
            ]
        )
        return "at the limits", self.post(self.body(**settings))

    def _no_http(self) -> Request:
        return "no HTTP", self._random.choice(
            [
                b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
                b"\x00" * 1000,
                b"GET\r\n\r\n",
                b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
                b"POST /v1/models HTTP/9.9\r\nHost: localhost\r\nConnection: close\r\n\r\n",
                b"A" * 100_000,
                b"GET / HTTP/1.1\r\n\r\n",
                _CHAT + b"Content-Length: -1\r\n\r\n",
                _CHAT + b"Content-Length: 99999999999999999999\r\n\r\n",
                _CHAT + b"Transfer-Encoding: chunked\r\n\r\nzz\r\nx\r\n0\r\n\r\n",
                _CHAT + b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n",
            ]
        )

    def _strange_headers(self) -> Request:
        header = self._random.choice(
            [
                "Host: evil.example",
                "Origin: http://evil.example",
                "Content-Type: multipart/form-data; boundary=x",
                "Content-Encoding: gzip",
                "X-A: " + "a" * 60_000,
                "Cookie: \x80\xff",
                "Expect: 100-continue",
                "X-Request-Id: " + CANARY * 10,
                "Upgrade: websocket\r\nConnection: Upgrade",
                "Host: localhost\r\nHost: x",
                "Authorization: Bearer " + CANARY,
                "Content-Type: application/json; charset=utf-16",
            ]
        )
        path = self._random.choice(
            ["/v1/chat/completions", "/v1/completions", "/v1/models/%00", "/v1//x", "/" + "a" * 9000]
        )
        return "strange headers", self.post(self.body(), path=path, header=header)

    def _half(self) -> Request:
        """A request whose client leaves in the middle of it, or of its answer."""
        whole = self.post(self.body(stream=True, max_tokens=64))
        return "half", whole[: self._random.choice([10, 60, 200, len(whole) // 2, len(whole) - 1, len(whole)])]

    def some_images(self) -> list[bytes]:
        """A few sound images."""
        return self._seeds["PNG"][:2] + self._seeds["JPEG"][:2]

    def post(self, body: Any, *, path: str = "/v1/chat/completions", header: str = "") -> bytes:
        """The bytes of a request with this body."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        host = "" if header.startswith("Host") else f"Host: 127.0.0.1:{self._port}\r\n"
        head = f"POST {path} HTTP/1.1\r\n{host}{header}{header and chr(13) + chr(10)}Connection: close\r\n"
        return f"{head}Content-Length: {len(data)}\r\n\r\n".encode("latin-1") + data


def text(words: str) -> dict[str, Any]:
    """A part with this text."""
    return {"type": "text", "text": words}


@functools.cache
def bomb(side: int) -> bytes:
    """A small PNG of side x side black pixels; above 8,192 only its header has them."""
    packer = zlib.compressobj(1)
    row = b"\x00" * (side * 3 + 1)
    rows = b"".join(packer.compress(row) for _ in range(min(side, 8192))) + packer.flush()
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + png_chunk(b"IDAT", rows) + png_chunk(b"IEND", b"")
