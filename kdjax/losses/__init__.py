"""Losses: arrays in, one number per example out; `response` is on answers, the others on layers or numbers."""

from kdjax.losses import contrastive as contrastive
from kdjax.losses import feature as feature
from kdjax.losses import regression as regression
from kdjax.losses import relation as relation
from kdjax.losses import response as response
