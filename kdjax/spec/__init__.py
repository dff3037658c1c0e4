"""The one grammar of flags: losses, attacks, augmentations, schedules, teachers, sweeps and layer maps.

It is Python's own, read by `ast.parse` and never run:

    0.9*response.kl(temperature=4) + 0.1*labels + 100*feature.hint(block2, block4)

- A **call** is `NAME`, `NAME(argument, ..., key=value)`, or either with a dot in the name; `NAME` and `NAME()` are one.
- A **formula** is a sum of weighted calls. Parentheses distribute their weight; `a - b` and `a/2` are what they seem.
- A **value** is a number, a text in quotes, True, False, None, a tuple, a call or a formula. Numbers may be worked out:
  `8/255`, `2**-3`.
- Commas at the top make a tuple: `fgsm, pgd(steps=40)`.

Where a number stands, a **schedule** may stand: `constant(value)`, `linear(start, end)`, `cosine(start, end)`,
`warmup(share, value)`, `steps(values, after)`; or a **set**: `grid(1, 2, 4)`, `uniform(low, high)`, `log(low, high)`.
With arguments these eight words mean nothing else.

    linear(1, 0)*feature.hint(block2)      response.kl(temperature=grid(1, 2, 4))      pgd(epsilon=8/255, norm=l2)

How each thing is typed:

| what | text |
|---|---|
| losses on layers | `100*feature.hint(block2, block4) + 50*feature.fsp((block1, block2), (block2, block4))` |
| losses on views | `response.kl(student=attacked, teacher=clean) + 0.5*labels` |
| layer maps | `every(2) + embedding + logits`, `last`, `pairs((1, 2), (2, 4))` |
| attacks | `fgsm, pgd(steps=40, norm=l2, epsilon=grid(0.1, 0.2))` |
| augmentations, transforms | `random_shift(2), random_flip`, `rotate(45)` |
| teachers | `mlp(128), cnn(8, 16), lenet` |
| ensembles | `vote + entropy(scale=0.3)`, `mean_logit + fixed(shares=(2, 1, 1))` |
| domains | `mnist, usps(invert) + kmnist(train='test[:80%]', test='test[80%:]')` |
| a schedule, a sweep | `--schedule='warmup(0.05, cosine(1, 0))'`, `--learning_rate='log(1e-4, 1e-2)'` |

The same expression in Python is the same object:

>>> response, feature, names = Names("response"), Names("feature"), Names()
>>> typed = formula("0.9*response.kl(temperature=4) + 0.1*labels")
>>> typed == 0.9 * response.kl(temperature=4) + 0.1 * names.labels
True
>>> parse(str(typed)) == typed
True

Numbers have names, so that they can be traced, and sets make populations (`places`):

>>> numbers(typed)
{'response.kl.weight': 0.9, 'response.kl.temperature': 4, 'labels.weight': 0.1}
>>> points(sets(parse("grid(1, 2)*labels")))
[{'labels.weight': 1}, {'labels.weight': 2}]

A call becomes a function through a `Family`, the public functions of some modules.
"""

from kdjax.spec.expression import Place as Place
from kdjax.spec.family import Family as Family
from kdjax.spec.formula import Call as Call
from kdjax.spec.formula import Formula as Formula
from kdjax.spec.formula import Names as Names
from kdjax.spec.formula import Weighted as Weighted
from kdjax.spec.parse import call as call
from kdjax.spec.parse import calls as calls
from kdjax.spec.parse import formula as formula
from kdjax.spec.parse import number as number
from kdjax.spec.parse import parse as parse
from kdjax.spec.parse import summands as summands
from kdjax.spec.places import extremes as extremes
from kdjax.spec.places import fill as fill
from kdjax.spec.places import labels as labels
from kdjax.spec.places import numbers as numbers
from kdjax.spec.places import points as points
from kdjax.spec.places import schedules as schedules
from kdjax.spec.places import sets as sets
from kdjax.spec.varying import Schedule as Schedule
from kdjax.spec.varying import Set as Set
from kdjax.spec.varying import constant as constant
from kdjax.spec.varying import cosine as cosine
from kdjax.spec.varying import ends as ends
from kdjax.spec.varying import grid as grid
from kdjax.spec.varying import linear as linear
from kdjax.spec.varying import log as log
from kdjax.spec.varying import steps as steps
from kdjax.spec.varying import uniform as uniform
from kdjax.spec.varying import warmup as warmup
