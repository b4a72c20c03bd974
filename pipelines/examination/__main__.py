"""Served model -> predictions: the endpoint is asked every test question over HTTP, by the entries of a plan."""

import sys

from pipelines.examination import command

if __name__ == "__main__":
    command.main(sys.argv[1:])
