"""The vLLM engine's own part, with a stand-in for vLLM; the flow's tests run the real one."""

import asyncio
from types import SimpleNamespace

import pytest
from PIL import Image

from pipelines.inference.backends import chat, vllm_engine
from pipelines.inference.backends.backend import Before, EngineDiedError, Example, RowError
from pipelines.inference.backends.vllm_engine import VllmBackend
from pipelines.inference.logprobs import vocabulary_digest
from pipelines.teaching.requests import inference
from tests.pipelines.fixtures import put_questions, question, sealed
from tests.pipelines.teaching.fixtures import config


def own_config(**changes):
    return inference(config(**changes))


pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # vLLM's own, while it is imported


PLACES = ([(5, -0.5), (7, -1.5)], [(9, -0.125), (2, -0.25)])  # the likeliest tokens in each place


class Vllm:
    """Writes down what it is asked, and answers with the number of images."""

    def __init__(self):
        self.requests = []
        self.refusal = None
        self.tokenizer = SimpleNamespace(
            apply_chat_template=self._render, decode=self._decode, get_vocab=lambda: {"a": 0}
        )

    def _render(self, messages, add_generation_prompt, tokenize):
        said = []
        for message in messages:
            content = message["content"]
            parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
            text = "".join("<image>" if part["type"] == "image" else part["text"] for part in parts)
            said.append(text if len(messages) == 1 else f"{message['role']}: {text}\n")
        return "".join(said)

    def _decode(self, token_ids, skip_special_tokens):
        assert skip_special_tokens
        return f"{token_ids[0]} images"

    async def generate(self, request, sampling, request_id):
        self.requests.append((request, sampling))
        if self.refusal:
            raise self.refusal
        shown = request.get("multi_modal_data", {"image": []})["image"]
        flat = [(5, -0.5), *PLACES[0][: sampling.logprobs], (2, -0.25), *PLACES[1][: sampling.logprobs]]
        logprobs = SimpleNamespace(token_ids=[each for each, _ in flat], logprobs=[each for _, each in flat])
        output = SimpleNamespace(finish_reason="stop", token_ids=[len(shown), 2], logprobs=logprobs)
        yield SimpleNamespace(outputs=[output], prompt_token_ids=[1, 2, 3])


@pytest.fixture
def vllm(monkeypatch):
    made = Vllm()
    monkeypatch.setattr(vllm_engine, "start_vllm", lambda model, config, revision: made)
    return made


@pytest.mark.parametrize("numbers", [(), (0,), (0, 1), (1, 0), (0, 1, 1)])
def test_a_request_has_its_images_in_their_order_and_a_place_for_each(vllm, tmp_path, numbers):
    pictures = {f"images/0.zip/{n}.png": Image.new("RGB", (4, 4), (n, n, n)) for n in range(2)}
    folder = put_questions(tmp_path, [question()], pictures).path
    asked = sealed(folder, *(f"images/0.zip/{n}.png" for n in numbers))
    said = asyncio.run(VllmBackend(own_config()).generate("Which?", asked, seed=7))
    ((request, sampling),) = vllm.requests
    assert request["prompt"] == "<image>" * len(numbers) + "Which?"
    shown = request.get("multi_modal_data", {"image": []})["image"]
    assert [image.getpixel((0, 0))[0] for image in shown] == list(numbers)
    assert request.get("multi_modal_uuids", {"image": []})["image"] == [image.digest for image in asked]
    assert (sampling.seed, sampling.max_tokens, sampling.logprobs) == (7, config().max_tokens, 0)
    assert (said.text, said.logprobs) == (f"{len(numbers)} images", [-0.5, -0.25])
    assert (said.num_prompt_tokens, said.num_output_tokens) == (3, 2)


def test_a_system_message_and_answered_examples_go_before_and_images_keep_the_order_of_all_turns(vllm, tmp_path):
    pictures = {f"images/0.zip/{n}.png": Image.new("RGB", (4, 4), (n, n, n)) for n in range(2)}
    folder = put_questions(tmp_path, [question()], pictures).path
    first, second = sealed(folder, *pictures)
    before = Before(system="Be brief.", examples=[Example(prompt="What?", images=[first], answer="A")])
    asyncio.run(VllmBackend(own_config()).generate("Which?", [second], 7, before))
    ((request, _),) = vllm.requests
    assert request["prompt"] == "system: Be brief.\nuser: <image>What?\nassistant: A\nuser: <image>Which?\n"
    assert [image.getpixel((0, 0))[0] for image in request["multi_modal_data"]["image"]] == [0, 1]
    assert request["multi_modal_uuids"]["image"] == [first.digest, second.digest]


def test_an_answer_that_is_begun_is_left_open_as_vllm_s_own_endpoint_leaves_it(vllm):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained("train/pocket/base", trust_remote_code=False)
    vllm.tokenizer.apply_chat_template = tokenizer.apply_chat_template
    before = Before(prefill="It is round.\nAnswer:")
    asyncio.run(VllmBackend(own_config()).generate("Which?", (), 7, before))
    ((request, _),) = vllm.requests
    sent = chat.body("m", "Which?", (), own_config().sampling, 7, before)
    assert request["prompt"] == tokenizer.apply_chat_template(
        sent["messages"],
        tokenize=False,
        add_generation_prompt=sent["add_generation_prompt"],
        continue_final_message=sent["continue_final_message"],
    )
    assert request["prompt"].endswith("<|im_start|>assistant\nIt is round.\nAnswer:")


def test_the_likeliest_tokens_in_each_place_are_kept_when_they_are_asked_for(vllm):
    said = asyncio.run(VllmBackend(own_config(top_logprobs=2)).generate("Which?", [], seed=7))
    assert said.logprobs == [-0.5, -0.25]
    assert said.top_logprobs.written_T.tolist() == [0, 2]
    assert said.top_logprobs.tokens_TK.tolist() == [[5, 7], [9, 2]]
    assert said.top_logprobs.logprobs_TK.tolist() == [[-0.5, -1.5], [-0.125, -0.25]]
    assert said.top_logprobs.vocabulary == vocabulary_digest({"a": 0})


@pytest.mark.parametrize("kind", ["VLLMValidationError", "ValueError"])
@pytest.mark.parametrize(
    ("said", "reason"),
    [("The prompt (length 900) is longer than 512", "prompt_too_long"), ("No.", "refused_by_engine")],
)
def test_a_request_that_the_engine_refuses_is_that_row_s_trouble(vllm, kind, said, reason):
    import vllm.exceptions

    vllm_error = getattr(vllm.exceptions, kind, ValueError)
    engines_vllm = VllmBackend(own_config())
    engines_vllm._engine.refusal = vllm_error(said)
    with pytest.raises(RowError, match=reason):
        asyncio.run(engines_vllm.generate("Which?", [], seed=1))


def test_an_error_of_one_request_is_that_row_s_and_a_dead_engine_is_everybody_s(vllm):
    from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

    engine = VllmBackend(own_config())
    engine._engine.refusal = EngineGenerateError("out of memory in this one")
    with pytest.raises(RowError, match="engine_error"):
        asyncio.run(engine.generate("Which?", [], seed=1))
    engine._engine.refusal = EngineDeadError()
    with pytest.raises(EngineDiedError):
        asyncio.run(engine.generate("Which?", [], seed=1))
