"""`python -m sparsespec` is the command `sparsespec`."""

from sparsespec.cli.app import main

if __name__ == "__main__":
    main()
