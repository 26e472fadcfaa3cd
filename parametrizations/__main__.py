"""The tour: ``python -m parametrizations``."""

from parametrizations._tour.command_line import main

if __name__ == "__main__":
    main()
