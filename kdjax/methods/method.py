"""What a method is, and the methods by the name that a flag gives: `crd`, `review(weight=5)`."""

from kdjax import spec
from kdjax.methods import distillation
from kdjax.methods.formulas import Method as Method
from kdjax.spec import Call, Family

FAMILY = Family(distillation, accepts=lambda function: function.__annotations__.get("return") is Method)
"""The distillation methods by name."""


def method(text: str | Call, *, flag: str = "method") -> Method:
    """The method that a text names, with the numbers that the text gives it.

    Args:
        text: such as `kd`, `kd(temperature=2)` or `review(weight=5)`.
        flag: what messages call it.

    Raises:
        BadInput: a name or a keyword that there is not; the message lists those that there are.

    >>> method("kd(alpha=0.5)").expression
    0.5*response.kl(temperature=4.0) + 0.5*labels
    """
    return FAMILY.resolve(spec.call(text, flag=flag))()
