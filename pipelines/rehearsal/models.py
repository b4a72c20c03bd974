"""The pocket models that ship with the code, as stand-ins for larger ones."""

import json
from pathlib import Path

_SHIPPED = Path(__file__).parents[2] / "train" / "pocket"
_CONTEXT = 1 << 15  # tokens: they stand in for models with far longer contexts, and have rotary positions only


def widened(folder: Path) -> Path:
    """Teacher and base in `folder`, their files linked or copied, with room for prompts that are not theirs."""
    for name in ("teacher", "base"):
        (folder / name).mkdir(parents=True)
        for file in (_SHIPPED / name).iterdir():
            if file.name == "config.json":
                config = json.loads(file.read_text())
                config["text_config"]["max_position_embeddings"] = _CONTEXT
                (folder / name / file.name).write_text(json.dumps(config, indent=2))
            elif file.is_file():
                (folder / name / file.name).write_bytes(file.read_bytes())
    return folder
