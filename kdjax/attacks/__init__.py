"""Attacks as products: objective x oracle x transform x projection x steps (x space, start, stop rule)."""

from kdjax.attacks.autoattack import fab as fab
from kdjax.attacks.autoattack import standard as standard
from kdjax.attacks.boundary import hop_skip_jump as hop_skip_jump
from kdjax.attacks.combine import restarts as restarts
from kdjax.attacks.combine import then as then
from kdjax.attacks.combine import worst_of as worst_of
from kdjax.attacks.named import apgd as apgd
from kdjax.attacks.named import bim as bim
from kdjax.attacks.named import cw as cw
from kdjax.attacks.named import deepfool as deepfool
from kdjax.attacks.named import fgsm as fgsm
from kdjax.attacks.named import fgsm_rs as fgsm_rs
from kdjax.attacks.named import mi_fgsm as mi_fgsm
from kdjax.attacks.named import nes as nes
from kdjax.attacks.named import noise as noise
from kdjax.attacks.named import pgd as pgd
from kdjax.attacks.named import r_fgsm as r_fgsm
from kdjax.attacks.named import spsa as spsa
from kdjax.attacks.named import square as square
from kdjax.attacks.named import zoo as zoo
from kdjax.attacks.run import run as run
from kdjax.attacks.victims import black_box as black_box
from kdjax.attacks.victims import queries_only as queries_only
from kdjax.attacks.victims import white_box as white_box
