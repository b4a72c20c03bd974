"""Question -> rationale: Ray Data feeds a pool of engines, whose every answer goes into the ledger at once."""

from infra import command_line

if __name__ == "__main__":
    command_line.main("teach", "pipelines")
