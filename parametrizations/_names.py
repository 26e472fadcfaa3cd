"""Names that a class has given a meaning, which an attribute of the same name would hide, or be hidden by."""

from __future__ import annotations

import inspect

from torch import nn

__all__ = ["require_free"]


def require_free(owner: object, name: str, value: object) -> None:
    """Refuse an attribute in the place of a method or of a property that is only read, and a module in that of any.

    Python and PyTorch take it, and what calls the method fails later and elsewhere. A function may stand in for a
    method, as wrappers replace ``forward``.

    Args:
        owner: Whose attribute it is.
        name: The attribute's.
        value: What is assigned.

    Raises:
        AttributeError: If the name is taken; it says by what, and what to do.
    """
    member = inspect.getattr_static(type(owner), name, None)
    method, known = inspect.isfunction(member), isinstance(member, property)
    fixed = known and getattr(member, "fset", None) is None
    if fixed or (method and not callable(value)) or ((method or known) and isinstance(value, nn.Module)):
        kind = "method" if method else "property"
        raise AttributeError(
            f"{type(owner).__name__} needs the name {name!r} for a {kind} of its own. Got "
            f"a {type(value).__name__} assigned to it. Give the attribute another name, such as {f'own_{name}'!r}; "
            "options are given where the object is made."
        )
