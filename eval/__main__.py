"""`python eval MODEL ...` is `llmkd eval MODEL ...`."""

import sys

from llmkd.cli import main

sys.argv = ["llmkd", "eval", *sys.argv[1:]]
main()
