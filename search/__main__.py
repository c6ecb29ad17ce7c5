"""`python -m sparsevlr.search`, where only the package itself has come along and no command has been installed."""

from .cli import main

if __name__ == "__main__":
    main()
