"""Variables by which no library reports its usage, fetches from a hub, or logs prompts."""

import os

SILENCE = {
    "DO_NOT_TRACK": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAYLLM_ENABLE_REQUEST_PROMPT_LOGS": "0",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
}


def silence() -> None:
    """Apply the settings to this process and its children; a value that the user set is kept."""
    for name, value in SILENCE.items():
        os.environ.setdefault(name, value)
