"""Served model -> predictions: the endpoint is asked every test question over HTTP, by arm and condition."""

from infra import command_line

if __name__ == "__main__":
    command_line.main("examination", "pipelines")
