"""`python -m orderflow.cli`: how a system starts its own children, whatever is on PATH."""

from orderflow.cli.main import main

if __name__ == "__main__":
    main()
