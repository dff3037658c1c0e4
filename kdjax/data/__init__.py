"""Data sets as arrays on the host: `load` one by name, or make a `Source` of your own."""

from kdjax.data.load import load as load
from kdjax.data.source import Examples as Examples
from kdjax.data.source import Source as Source
