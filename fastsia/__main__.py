"""`python -m fastsia`."""

from fastsia.cli import main

if __name__ == "__main__":
    main()
