"""`python -m raystage` is the command `raystage`."""

from raystage.cli import main

if __name__ == "__main__":
    main()
