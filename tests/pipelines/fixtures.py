"""Small records for tests of this folder."""

from pipelines.records import Prediction, Question, Rationale

OPTIONS = ("mill", "cast", "press", "die cast")


def question(**changes) -> Question:
    fields = {
        "id": "q1",
        "source": "test",
        "split": "train",
        "stratum": "seen",
        "image": "images/aa/a.png",
        "image_digest": "a" * 64,
        "text": "Which process route made this sample?",
        "options": OPTIONS,
        "gold": "B",
    }
    return Question(**(fields | changes))


def rationale(text: str, **changes) -> Rationale:
    fields = {
        "question_id": "q1",
        "text": text,
        "finish_reason": "stop",
        "num_prompt_tokens": 40,
        "num_output_tokens": 20,
        "seed": 1,
        "error": None,
    }
    return Rationale(**(fields | changes))


def prediction(letter: str | None, **changes) -> Prediction:
    fields = {
        "question_id": "q1",
        "model": "m",
        "arm": "zero_shot",
        "condition": "real",
        "stratum": "seen",
        "gold": "B",
        "text": "",
        "letter": letter,
        "finish_reason": "stop",
        "num_output_tokens": 3,
        "error": None,
    }
    return Prediction(**(fields | changes))
