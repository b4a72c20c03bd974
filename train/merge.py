"""Adapter and base -> one model without LoRA: `python -m train.merge ADAPTER FOLDER`. [edge]"""

import argparse
import json
import shutil
import sys
from pathlib import Path

import torch
from peft import PeftModel
from transformers import Qwen3VLForConditionalGeneration, Qwen3VLProcessor

from infra.command_line import reporting_errors
from infra.errors import InputError, first_line

_DTYPES = ("auto", "float32", "bfloat16")


def merge(adapter: Path, folder: Path, base: str | None = None, dtype: str = "auto") -> None:
    """Write base and adapter as one model, with the base's processor and the adapter's README.

    base: a model folder or hub id to use instead of the one that the adapter names. dtype: of the weights; `auto` is
    the base's own. Raises InputError when the adapter cannot be read, the two do not match, or the folder exists
    already. A failure leaves no half-written folder.
    """
    try:
        config = json.loads((adapter / "adapter_config.json").read_text())
        base_name, revision = config["base_model_name_or_path"], config.get("revision")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(
            f"{adapter} is no adapter: it has no readable adapter_config.json. Name a folder that `fit` sealed."
        ) from error
    if folder.exists():
        raise InputError(f"{folder} is there already. Name a folder that is not.")
    if base:
        base_name, revision = base, None
    try:
        model = Qwen3VLForConditionalGeneration.from_pretrained(
            base_name, revision=revision or "main", dtype=dtype, trust_remote_code=False
        )
        processor = Qwen3VLProcessor.from_pretrained(base_name, revision=revision, trust_remote_code=False)
        adapted = PeftModel.from_pretrained(model, adapter)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise InputError(
            f"{base_name} and {adapter} do not go together: {first_line(error)}. Name the base with --base."
        ) from error
    draft = folder.with_name(f".{folder.name}.draft")
    shutil.rmtree(draft, ignore_errors=True)
    try:
        with torch.no_grad():
            adapted.merge_and_unload().save_pretrained(draft)
        processor.save_pretrained(draft)
        if (adapter / "README.md").exists():
            shutil.copy(adapter / "README.md", draft)
        draft.rename(folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m train.merge", description="Write an adapter and its base as one model."
    )
    parser.add_argument(
        "adapter", type=Path, help="a folder that `fit` sealed, such as runs/pocket/adapters/answer_only"
    )
    parser.add_argument("folder", type=Path, help="where the model is written; must not exist yet")
    parser.add_argument("--base", help="the base model's folder or hub id, instead of the one that the adapter names")
    parser.add_argument(
        "--dtype", choices=_DTYPES, default="auto", help="of the written weights; default: %(default)s, the base's own"
    )
    options = parser.parse_args()
    with reporting_errors("merge"):
        merge(options.adapter, options.folder, options.base, options.dtype)
        print(f"merge: wrote {options.folder}", file=sys.stdout, flush=True)


if __name__ == "__main__":
    main()
