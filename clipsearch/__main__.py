"""`python -m clipsearch`."""

from clipsearch.cli import main

if __name__ == "__main__":
    main()
