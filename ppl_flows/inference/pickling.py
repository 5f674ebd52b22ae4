"""Results pickle where what they hold does, and else their error says what keeps them."""

from __future__ import annotations

import pickle
from copy import deepcopy
from dataclasses import fields, replace
from typing import Any, ClassVar, Self


class PicklesOrSaysHow:
    """Of a frozen dataclass: ``way_out`` ends the error of one that holds a model which does not pickle."""

    way_out: ClassVar[str]

    def __reduce_ex__(self, protocol: Any) -> Any:
        try:
            pickle.dumps(self._values())
        except (pickle.PicklingError, AttributeError, TypeError, RuntimeError) as error:
            raise TypeError(
                f"this {type(self).__name__} does not pickle, as its model or guide does not ({error}); {self.way_out}."
            ) from error
        return super().__reduce_ex__(protocol)

    def __copy__(self) -> Self:
        return replace(self)  # type: ignore[type-var]

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return replace(self, **{name: deepcopy(value, memo) for name, value in self._values().items()})  # type: ignore[type-var]

    def _values(self) -> dict[str, Any]:
        return {f.name: getattr(self, f.name) for f in fields(self)}  # type: ignore[arg-type]
