"""python -m nlptl: the same as the command nlptl."""

from nlptl.cli import main

if __name__ == "__main__":
    main()
