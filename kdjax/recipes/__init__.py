"""What is learned: a `LossFn` from terms. `kdjax.lesson` makes one of an expression."""

from kdjax.recipes.attacked import Attacked as Attacked
from kdjax.recipes.distill import distill as distill
from kdjax.recipes.learn import learn as learn
from kdjax.recipes.supervised import supervised as supervised
