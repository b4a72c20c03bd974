"""Sources -> questions: every row of every table becomes a sealed question, or is set aside with its reason."""

import sys

from pipelines.questions import command

if __name__ == "__main__":
    command.main(sys.argv[1:])
