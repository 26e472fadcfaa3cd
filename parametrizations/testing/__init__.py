"""`check_parametrization` runs every promise of the contract against any parametrization."""

from parametrizations.testing.check import check_parametrization

__all__ = ["check_parametrization"]


def __dir__() -> list[str]:
    return __all__
