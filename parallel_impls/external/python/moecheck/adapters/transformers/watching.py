"""Sees what a release's router and experts modules are given and return, inside of all that its parallel styles put around them.

Styles replace or hook `forward` of an instance, or wrap it; the class's own method is what they all call in the end. So it is the class
that is watched, before any instance is distributed. Nothing that passes is changed.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable
from typing import Any
from unittest import mock

Seen = Callable[..., None]

_watchers: weakref.WeakKeyDictionary[Any, Seen] = weakref.WeakKeyDictionary()


def watch(module: Any, seen: Seen) -> None:
    """seen(inputs, output, logits): each time the class's watchable method has run on this instance. logits: of a router, what its first product
    with the weight gave; else None."""
    _watchers[module] = seen


def make_watchable(module_class: Any, method: str = "forward") -> None:
    """Once a class; later calls do nothing."""
    original = getattr(module_class, method)
    if getattr(original, "is_watched_by_moecheck", False):
        return

    @functools.wraps(original)
    def watched(self: Any, *args: Any, **named: Any) -> Any:
        seen = _watchers.get(self)
        if seen is None:
            return original(self, *args, **named)
        with _FirstProduct(self) as product:
            output = original(self, *args, **named)
        seen((*args, *named.values()), output, product.result)
        return output

    watched.is_watched_by_moecheck = True  # type: ignore[attr-defined]
    setattr(module_class, method, watched)


class _FirstProduct:
    """The result of the first torch.nn.functional.linear with the module's own weight. Routers of releases before 5.6 return
    probabilities where later ones return logits."""

    def __init__(self, module: Any) -> None:
        self._weight = getattr(module, "weight", None)
        self.result: Any = None

    def __enter__(self) -> _FirstProduct:
        import torch.nn.functional as F

        original = F.linear

        def linear(*args: Any, **named: Any) -> Any:
            result = original(*args, **named)
            if self.result is None and len(args) > 1 and args[1] is self._weight:
                self.result = result
            return result

        self._patch = mock.patch.object(F, "linear", linear) if self._weight is not None else None
        if self._patch is not None:
            self._patch.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._patch is not None:
            self._patch.stop()
