"""Laws about registering, assigning and removing a parametrization."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.parametrize import register_parametrization, remove_parametrizations

from parametrizations.testing.requirements import Skipped, most, require, require_equal, require_raises
from parametrizations.testing.subject import Subject, dense, parametrization_of, set_stored, stored


def registering_enters_the_set(subject: Subject) -> None:
    """Registering on any finite weight gives a finite weight in the set."""
    layer = subject.layer()
    weight, x, contains = dense(layer), stored(layer), parametrization_of(layer).contains
    require(bool(x.isfinite().all()), f"{int((~x.isfinite()).sum())} stored numbers are not finite.")
    require(bool(weight.isfinite().all()), f"{int((~weight.isfinite()).sum())} entries of the weight are not finite.")
    require(contains(weight), "The registered weight is not in the set.")
    if project := getattr(parametrization_of(layer), "project", None):
        inside = contains(project(subject.weight.detach()))
        require(inside, "project(weight) is not in the set. Correct project or excess.")


def registering_keeps_a_member(subject: Subject) -> None:
    """Registering does not change a member of the set (beyond `rounding`, zero by default)."""
    for member in subject.members():
        layer = subject.layer(member)
        if not parametrization_of(layer).contains(member):
            raise Skipped("registering on two layers gives two different sets")
        _require_unmoved(layer, member, "A member that is registered")


def assigning_keeps_a_member(subject: Subject) -> None:
    """Assigning a weight in the set gives that weight, up to the error that `rounding` allows, zero by default.

    So ``forward`` can give every weight that `contains` accepts.
    """
    layer, weight = subject.layer(), subject.weight.detach()
    for member in (torch.zeros_like(weight), weight.clone(), -weight, *subject.members()):
        if parametrization_of(layer).contains(member):
            layer.weight = member
            _require_unmoved(layer, member, "A member that is assigned")


def assigning_an_outsider_follows_the_policy(subject: Subject) -> None:
    """Assigning a weight outside the set raises a ValueError and changes nothing; or, if asked to, projects it."""
    outsider, layer = subject.outsider(), subject.layer()
    if getattr(parametrization_of(layer), "on_infeasible", "raise") == "project":
        copied = outsider.clone()
        layer.weight = outsider
        require_equal(outsider, copied, "The assigned tensor, after its projection,")
        require(parametrization_of(layer).contains(dense(layer)), "The projected weight is not in the set.")
        return
    before = dense(layer)
    require_raises(partial(setattr, layer, "weight", outsider), "Assigning a weight outside the set")
    require_equal(dense(layer), before, "After a refused assignment the weight")


def assigning_shares_no_memory(subject: Subject) -> None:
    """After ``layer.weight = W`` a change of the layer does not change W, nor the other way round."""
    layer = subject.layer()
    member = dense(layer)
    copied = member.clone()
    layer.weight = member
    set_stored(layer, stored(layer) * 2 + 1)
    require_equal(member, copied, "The assigned tensor, after a step on the layer,")
    changed = dense(layer)
    member.fill_(3)
    require_equal(dense(layer), changed, "The layer's weight, after a write to the assigned tensor,")


def bad_input_changes_nothing(subject: Subject) -> None:
    """Assigning integers, NaN, infinity or another shape raises a TypeError or ValueError before any change.

    Registering on NaN or infinity raises such an error, too; so does one more dimension, unless ``dims`` is None.
    """
    layer = subject.layer()
    before, member = stored(layer).detach().clone(), dense(layer)
    poisoned = {"NaN": member.clone().fill_(torch.nan), "infinity": member.clone().fill_(torch.inf)}
    longer = torch.cat([member, member]) if member.dim() else member.new_zeros(2)
    shapes = {"another shape": longer, "3 dimensions": member.unsqueeze(0)}
    for what, value in {**poisoned, **shapes, "integers": member.abs().int()}.items():
        require_raises(partial(setattr, layer, "weight", value), f"Assigning {what}")
        require_equal(stored(layer), before, f"After assigning {what}, the stored tensor")
    if getattr(subject.parametrization, "dims", 2) is not None:
        poisoned["3 dimensions"] = shapes["3 dimensions"]
    for what, value in poisoned.items():
        require_raises(partial(subject.layer, value), f"Registering on {what}")


def one_object_for_one_tensor(subject: Subject) -> None:
    """Registering one object on a second tensor is an error."""
    layer = subject.layer()  # keeps the first registration alive
    register = partial(register_parametrization, subject.plain(), "weight", parametrization_of(layer))
    require_raises(register, "Registering one object on a second tensor")


def removal_gives_a_plain_layer(subject: Subject) -> None:
    """remove_parametrizations leaves a contiguous weight, and the same output."""
    layer, inputs = subject.layer(), subject.inputs(3)
    expected = layer(inputs).detach()
    remove_parametrizations(layer, "weight")
    require(layer.weight.is_contiguous(), f"The remaining weight has strides {layer.weight.stride()}.")
    require_equal(layer(inputs), expected, "The output after removal")


def _require_unmoved(layer: Any, member: Tensor, what: str) -> None:
    rounding = getattr(parametrization_of(layer), "rounding", None)
    allowed = rounding(member) if rounding else torch.zeros_like(member.abs())
    moved = (dense(layer) - member).abs()
    beyond = ~(moved <= allowed)  # NaN is beyond
    require(
        not bool(beyond.any()),
        f"{what} moved in {int(beyond.sum())} of {member.numel()} entries, by at most {most(moved):.3g}. "
        "Define invert(member), the inverse of forward. If the map rounds, rounding(weight) must return by how much.",
    )
    claimed, limit = most(allowed), _most_rounding(member)
    require(claimed <= limit, f"rounding(weight) returns up to {claimed:.3g}. At most {limit:.3g} is accepted.")


def _most_rounding(member: Tensor) -> float:
    """The largest absolute rounding error that the law accepts: ``8 n (1 + max |log w|) eps max w``.

    ``w`` runs over the non-zero absolute values of the entries of ``member``, a weight in the set. ``n`` is its longer
    side, and ``eps`` the machine epsilon of its dtype.
    """
    size = member.abs().double()
    logarithms = 1 + most(size[size > 0].log())
    return 8 * max(member.shape, default=1) * logarithms * torch.finfo(member.dtype).eps * most(size)
