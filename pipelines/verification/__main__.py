"""Rationale -> verdict: whether what the teacher wrote may teach, why not, and which of a question's rationales do."""

from infra import command_line

if __name__ == "__main__":
    command_line.main("verify", "pipelines")
