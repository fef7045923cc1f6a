"""`python -m launch` is `headway`."""

from launch.cli import main

if __name__ == "__main__":
    main()
