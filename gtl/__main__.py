"""python -m gtl: the command line."""

from gtl.cli import main

if __name__ == "__main__":
    main()
