"""Networks as two pure functions: by name, or from a Linen or NNX module of your own. Flax stays in this folder."""

from kdjax.models.create import NORMS as NORMS
from kdjax.models.create import accepts as accepts
from kdjax.models.create import all_names as all_names
from kdjax.models.create import create as create
from kdjax.models.create import from_linen as from_linen
from kdjax.models.create import names as names
from kdjax.models.create import parameter_count as parameter_count
from kdjax.models.from_nnx import from_nnx as from_nnx
