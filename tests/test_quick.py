"""The fast constructor makes what the class itself would make, and nothing else."""

from __future__ import annotations

import copy
import pickle
from typing import ClassVar

import attrs
import pytest

from trio_cancel._values.quick import quick


@attrs.frozen
class Base:
    kind: ClassVar[str] = "base"

    first: int
    second: str = "two"
    error: str | None = attrs.field(default=None, kw_only=True)


@attrs.frozen
class Whole(Base):
    _private: float = attrs.field(default=0.5, kw_only=True)
    needed: bytes = attrs.field(kw_only=True)


build = quick(Whole)


def test_it_makes_what_the_class_makes() -> None:
    for made, expected in (
        (build(1, needed=b""), Whole(1, needed=b"")),
        (build(1, "b", needed=b"n", error="e", private=2.0), Whole(1, "b", needed=b"n", error="e", private=2.0)),
        (build(second="b", first=1, needed=b"n"), Whole(1, "b", needed=b"n")),
    ):
        assert type(made) is Whole
        assert made == expected
        assert hash(made) == hash(expected)
        assert repr(made) == repr(expected)
        assert attrs.evolve(made, first=3) == attrs.evolve(expected, first=3)
        assert copy.copy(made) == made
        assert pickle.loads(pickle.dumps(made)) == made
        assert made.kind == "base"


def test_what_it_makes_is_frozen() -> None:
    made = build(1, needed=b"")
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        made.first = 2  # type: ignore[misc]  # that it is frozen is what is tested
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        del made.first
    assert not hasattr(made, "__dict__")


def test_it_takes_the_arguments_that_the_class_takes() -> None:
    with pytest.raises(TypeError):
        build(1)  # type: ignore[call-arg]  # one is missing
    with pytest.raises(TypeError):
        build(1, "b", b"n")  # type: ignore[call-arg, arg-type]  # by name only


@attrs.frozen
class Checked:
    value: int = attrs.field(validator=attrs.validators.instance_of(int))


@attrs.frozen
class Converted:
    value: int = attrs.field(converter=int)


@attrs.frozen
class Made:
    value: list[int] = attrs.field(factory=list)


@attrs.frozen
class Derived:
    value: int = attrs.field(init=False, default=1)


@attrs.frozen
class Hooked:
    value: int

    def __attrs_post_init__(self) -> None:
        raise AssertionError


@pytest.mark.parametrize("cls", [Checked, Converted, Made, Derived, Hooked])
def test_a_constructor_that_does_more_is_refused(cls: type[object]) -> None:
    with pytest.raises(TypeError, match=f"the constructor of {cls.__name__} does more"):
        quick(cls)


def test_checks_are_left_out_if_the_caller_makes_them() -> None:
    assert quick(Hooked, checked=True)(1).value == 1
