"""Predictions -> report: accuracies with n and interval, the account of every question, and examples to look at."""

from infra import command_line

if __name__ == "__main__":
    command_line.main("report", "pipelines")
