"""The types of arguments and results of this library, for annotations."""

from parametrizations._models.dense_gradients import DenseGradient
from parametrizations._models.register import Rules
from parametrizations._models.remask import MaskRules
from parametrizations._models.summary import Row, Summary
from parametrizations._models.tune import Tuned, Tuning
from parametrizations._products.choice import Explanation, Product
from parametrizations._products.places import Places
from parametrizations.masks import MaskRule
from parametrizations.parametrization import Infeasible

__all__ = [
    "DenseGradient",
    "Explanation",
    "Infeasible",
    "MaskRule",
    "MaskRules",
    "Places",
    "Product",
    "Row",
    "Rules",
    "Summary",
    "Tuned",
    "Tuning",
]


def __dir__() -> list[str]:
    return __all__
