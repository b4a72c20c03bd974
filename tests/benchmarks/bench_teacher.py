"""The teacher against its peers, killed and resumed, and its machinery alone.

`python -m tests.benchmarks.bench_teacher [REPETITIONS]` (`make bench-teacher`). All in one run, on the same questions,
with the same engine; medians. Prints a table last, and writes build/bench/teacher.json.
"""

import dataclasses
from typing import Any

from pipelines import recipes
from pipelines.sources.pocket import PocketConfig

NUM_QUESTIONS = 2000


def recipe() -> dict[str, Any]:
    """The pocket recipe with more questions."""
    pocket = recipes.pocket()
    assert pocket.draw is not None
    drawn = PocketConfig(num_train_questions=NUM_QUESTIONS, num_test_questions=8)
    teach = dataclasses.replace(pocket.teach, num_rationales=1, grounding_share=0.0, attempts=1, max_failed_share=1.0)
    return {"pipelines": dataclasses.replace(pocket, draw=dataclasses.replace(pocket.draw, pocket=drawn), teach=teach)}
