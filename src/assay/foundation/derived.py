"""Values that keep what they derive from their own fields."""

from __future__ import annotations

from typing import Any, Self

from assay.foundation.strict import Value

__all__ = ["Deriving"]


class Deriving(Value):
    """A value with `cached_property`; its copies derive everything anew, because their fields may differ."""

    def __copy__(self) -> Self:
        copied = super().__copy__()
        for name in copied.__dict__.keys() - type(self).model_fields.keys():
            del copied.__dict__[name]
        return copied

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        return super(Deriving, self.__copy__()).__deepcopy__(memo)
