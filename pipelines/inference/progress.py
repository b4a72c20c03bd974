"""Accounts -> how far the work is, what it costs, and whether so much of it fails that it must stop."""

import time
from collections import Counter

from infra.stage import Task
from pipelines.inference import failures
from pipelines.inference.config import InferenceConfig
from pipelines.inference.request_set import Plan
from pipelines.inference.worker import Account
from pipelines.records import Status

_MIN_SETTLED_TO_STOP = 100
_METRICS_EVERY_S = 10.0
_SHORTEST_SPAN_S = 1.0  # in which a speed can be measured


class InferenceProgress:
    """Shows the progress of a plan, and logs its metrics.

    arm: what is examined, for messages; empty where only one model is asked.
    """

    def __init__(self, task: Task, config: InferenceConfig, plan: Plan, arm: str = "") -> None:
        self._task = task
        self._config = config
        self._plan = plan
        self._arm = arm
        self._sum = Account()
        self._uptime_s: dict[str, float] = {}
        self._started = self._logged = time.monotonic()
        self._first: float | None = None
        self._tokens_at_first = 0
        task.progress(0, plan.num_open, f"questions{self._of_arm()}")

    def add(self, account: Account) -> None:
        """Count a batch in. Raises InputError when too much has failed."""
        now = time.monotonic()
        if self._first is None:
            self._first, self._tokens_at_first = now, account.output_tokens
            self._task.progress.say(f"first answers{self._of_arm()} after {now - self._started:.1f} s")
        self._sum.add(account)
        self._uptime_s[account.worker] = max(account.uptime_s, self._uptime_s.get(account.worker, 0.0))
        self._stop_if_too_much_failed()
        self._show()
        if now - self._logged >= _METRICS_EVERY_S:
            self._logged = now
            prefix = ".".join(filter(None, (self._config.stage, self._arm)))
            for name, value in self.metrics().items():
                self._task.metric(f"{prefix}.{name}", value, self._sum.questions)

    def _show(self) -> None:
        whole = self._sum
        quality = {"right": f"{whole.right / whole.needed:.2f}"} if whole.needed else {"unscored": whole.unread}
        failed = sum(whole.settled.values()) - sum(self._settled(Status.ANSWERED).values())
        self._task.progress(
            whole.questions,
            self._plan.num_open,
            f"questions{self._of_arm()}",
            tokens_per_s=round(self._tokens_per_s()),
            **quality,
            failed=failed,
        )

    def _of_arm(self) -> str:
        return f" of {self._arm}" if self._arm else ""

    def _settled(self, status: Status) -> Counter[str]:
        """Requests of a status, by condition."""
        parts = ((name.rpartition("/"), count) for name, count in self._sum.settled.items())
        return Counter({condition: count for (condition, _, each), count in parts if each == status})

    def _tokens_per_s(self) -> float:
        """Since the first answers came, since what was before is start-up; of all of the time while that is short."""
        now, tokens = time.monotonic(), self._sum.output_tokens
        if self._first is None or now - self._first < _SHORTEST_SPAN_S:
            return tokens / max(now - self._started, 1e-3)
        return (tokens - self._tokens_at_first) / (now - self._first)

    def _stop_if_too_much_failed(self) -> None:
        """Raise InputError as soon as more has failed than may fail of all, or most of the first requests were not
        answered."""
        for condition, planned in self._plan.requests.items():
            settled = sum(self._settled(status)[condition] for status in Status)
            own = {
                name.partition("/")[2]: count
                for name, count in self._sum.reasons.items()
                if name.startswith(f"{condition}/")
            }
            limit = self._config.max_failed_share
            if settled >= _MIN_SETTLED_TO_STOP or sum(own.values()) > limit * planned:
                what = f"requests{self._of_arm()} under the condition `{condition}`" if self._arm else "requests"
                failures.check(what, settled, own, limit, self._config.stage, planned=planned)

    def metrics(self) -> dict[str, float]:
        """Numbers of the work so far, in this run; the seconds include the start of engines."""
        whole, engine_seconds = self._sum, sum(self._uptime_s.values())
        metrics = {
            "tokens_per_s": self._tokens_per_s(),
            "attempts_now": whole.made,
            "seconds_now": time.monotonic() - self._started,
            "prompt_tokens_now": whole.prompt_tokens,
            "output_tokens_now": whole.output_tokens,
            "seconds_to_first": (self._first or time.monotonic()) - self._started,
            "engine_seconds_now": engine_seconds,
        }
        if not whole.needed:
            return metrics
        gpu_seconds = engine_seconds * (0 if self._config.endpoint else self._config.engine.gpus)
        return metrics | {
            "right_share": whole.right / whole.needed,
            "gpu_seconds_now": gpu_seconds,
            "output_tokens_per_right": whole.output_tokens / max(whole.right, 1),
            "gpu_seconds_per_right": gpu_seconds / max(whole.right, 1),
        }
