"""`python -m promptopt` is the command line."""

from promptopt.cli import main

if __name__ == "__main__":
    main()
