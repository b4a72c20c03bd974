"""The stage `teach` with a teacher that costs nothing, as a process of its own: what the fault tests kill.

`python -m tests.flow.teach RUN_DIR SETTINGS FAKE`: both of them JSON objects, of the recipe's fields and the fake's.
"""

import dataclasses
import json
import sys
from functools import partial
from pathlib import Path

from infra import command_line, runner
from infra.progress import Progress
from pipelines import recipes
from pipelines.inference.backends.engine_config import EngineConfig
from pipelines.teaching import stage as teacher
from tests.fakes import FakeEngine


def main(run_dir: Path, settings: dict, fake: dict) -> None:
    engine = EngineConfig(**settings.pop("engine"))
    config = dataclasses.replace(recipes.pocket().teach, engine=engine, **settings)
    fake |= {name: Path(fake[name]) for name in ("calls", "starts") if name in fake}
    run = partial(teacher.run, start=partial(FakeEngine, **fake))
    command_line.interrupt_on_sigterm()
    with command_line.reporting_errors("teach"):
        runner.carry_out(config, run_dir, Progress("teach", 0.5), run=run)


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(sys.argv[2]), json.loads(sys.argv[3]))
