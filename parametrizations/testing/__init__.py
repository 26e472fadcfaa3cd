"""`check_parametrization` tests any parametrization against every promise that `Parametrization` makes."""

from parametrizations.testing.check import check_parametrization

__all__ = ["check_parametrization"]


def __dir__() -> list[str]:
    return __all__
