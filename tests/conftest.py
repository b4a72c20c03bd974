"""What every test runs under: telemetry off, no hub, and nothing of the user's environment."""

import os

from infra import privacy

privacy.silence()
os.environ["HF_HUB_OFFLINE"] = "1"
for name in (
    "RAY_ADDRESS",
    "MLFLOW_TRACKING_URI",
    "PRECEPTOR_CODE_REVISION",
    "PRECEPTOR_API_KEY",
    "PRECEPTOR_LOCAL_RAY",
):
    os.environ.pop(name, None)
