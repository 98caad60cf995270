"""`python -m zchat`, and the `zchat` command."""

from zchat.ui.cli.main import main

if __name__ == "__main__":
    main()
