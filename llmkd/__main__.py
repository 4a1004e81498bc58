"""`python -m llmkd` is `llmkd`."""

from llmkd.cli import main

if __name__ == "__main__":
    main()
