"""`python -m bigm` is the command `bigm`."""

from bigm.cli import main

if __name__ == "__main__":
    main()
