"""The base of all values that are read from or written to files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from pydantic import BaseModel, ConfigDict

__all__ = ["Value"]


class Value(BaseModel):
    """A frozen value; unknown fields are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, ser_json_inf_nan="constants")

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Copy the fields alone: what was worked out of them (`cached_property`) need not be true of the copy."""
        return super().model_copy(update=update, deep=deep)._forgetful()

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        """Copy the fields alone, those of values in them too: what was worked out of them may be of any size."""
        return super(Value, self.__copy__()._forgetful()).__deepcopy__(memo)

    def _forgetful(self) -> Self:
        """Forget all that was worked out of the fields; returns itself."""
        for name in self.__dict__.keys() - type(self).model_fields.keys():
            del self.__dict__[name]
        return self
