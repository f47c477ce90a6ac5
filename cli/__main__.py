"""`python -m cli`: the same as `penstock`."""

from cli.main import main

if __name__ == "__main__":
    main()
