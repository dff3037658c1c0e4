"""Knowledge distillation and adversarial robustness in JAX: pure functions over arrays.

    import kdjax as kd

names the folders, `kd.losses`, `kd.attacks` ..., each loaded when it is first asked for, and `fit`, `lesson` and
`compare`.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

FOLDERS = (
    "attacks", "audit", "data", "ensembles", "evaluation", "losses", "methods", "models", "recipes", "spec", "study",
    "teachers", "training",
)  # fmt: skip
_FUNCTIONS = {"fit": "kdjax.fitting", "lesson": "kdjax.recipes.lesson", "compare": "kdjax.study.compare"}

__all__ = [*FOLDERS, *_FUNCTIONS]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name in _FUNCTIONS:
        return getattr(importlib.import_module(_FUNCTIONS[name]), name)
    if name in FOLDERS:
        return importlib.import_module(f"kdjax.{name}")
    raise AttributeError(f"module 'kdjax' has no attribute {name!r}; it has {', '.join(__all__)}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
