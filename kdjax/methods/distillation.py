"""The distillation methods of the field, each one expression with its paper and its weights.

The weights are those of CIFAR-100's common protocol (Tian, Krishnan, Isola, Contrastive Representation Distillation,
ICLR 2020, and the code released with it) where it has the method, and of the method's own code or paper otherwise; they
were tuned on one pair of networks. They stand here and nowhere else.

`stages` are all stages that both networks have, or else their numbered layers, evenly; `middle` and `final` are one of
them. A method of two stages teaches layers alone for the first part of the run.
"""

from kdjax.methods.formulas import (
    Method,
    Number,
    contrastive,
    embedding,
    feature,
    final,
    labels,
    middle,
    relation,
    response,
    stages,
)  # fmt: skip
from kdjax.methods.shares import complement
from kdjax.spec import warmup

_WARM = 20 / 240
"""The released recipes' warm-up, 20 of 240 epochs."""


def kd(alpha: Number = 0.9, temperature: Number = 4.0) -> Method:
    """0.9 KL at T = 4 and 0.1 of the labels.

    Reference: Hinton, Vinyals, Dean, Distilling the Knowledge in a Neural Network, NIPS 2014 Deep Learning Workshop;
    weights of the CIFAR-100 protocol.
    """
    return Method(alpha * response.kl(temperature=temperature) + complement(alpha) * labels)


def patient(temperature: Number = 1.0) -> Method:
    """The teacher's answers alone, for a long time, on the same mixed views.

    Reference: Beyer et al., Knowledge distillation: A good teacher is patient and consistent, CVPR 2022.
    """
    return Method(1.0 * response.kl(temperature=temperature))


def soft_labels(alpha: Number = 0.9, temperature: Number = 4.0) -> Method:
    """`kd` with cross-entropy in place of KL: the same gradient.

    Reference: Hinton, Vinyals, Dean, 2014, section 2.
    """
    return Method(alpha * response.soft_cross_entropy(temperature=temperature) + complement(alpha) * labels)


def reverse_kl(alpha: Number = 0.9, temperature: Number = 4.0) -> Method:
    """`kd` with KL(student || teacher).

    Reference: Gu, Dong, Wei, Huang, MiniLLM: Knowledge Distillation of Large Language Models, ICLR 2024, section 2.
    """
    return Method(alpha * response.reverse_kl(temperature=temperature) + complement(alpha) * labels)


def jensen_shannon(alpha: Number = 0.9, temperature: Number = 4.0) -> Method:
    """`kd` with the generalised Jensen-Shannon divergence.

    Reference: Agarwal et al., On-Policy Distillation of Language Models, ICLR 2024, section 3.
    """
    return Method(alpha * response.jensen_shannon(temperature=temperature) + complement(alpha) * labels)


def logit_mse(alpha: Number = 0.9) -> Method:
    """Squared differences of logits.

    Reference: Ba, Caruana, Do Deep Nets Really Need to be Deep?, NIPS 2014, equation 1.
    """
    return Method(alpha * response.logit_mse + complement(alpha) * labels)


def centred_logit_mse(alpha: Number = 0.9) -> Method:
    """Squared differences of centred logits: the limit of `kd` at a high temperature.

    Reference: Hinton, Vinyals, Dean, 2014, section 2.1.
    """
    return Method(alpha * response.centred_logit_mse + complement(alpha) * labels)


def hard_labels(alpha: Number = 0.5) -> Method:
    """The teacher's top class as a second label.

    Reference: Touvron et al., Training data-efficient image transformers and distillation through attention, ICML 2021,
    equation 3.
    """
    return Method(alpha * response.hard_label + complement(alpha) * labels)


def standardized_kd(weight: Number = 9.0, temperature: Number = 2.0) -> Method:
    """KL of standardised logits at a base temperature of 2.

    Reference: Sun et al., Logit Standardization in Knowledge Distillation, CVPR 2024; the released command.
    """
    return Method(weight * response.standardized_kl(temperature=temperature) + 0.1 * labels)


def dkd(beta: Number = 8.0, temperature: Number = 4.0) -> Method:
    """The target's and the other classes' divergence apart, with a warm-up.

    beta is 8 for resnet32x4 and resnet50 as teachers, 6 for vgg13 and between wide ResNets, 2 for resnet56 and
    resnet110.

    Reference: Zhao, Cui, Song, Qiu, Liang, Decoupled Knowledge Distillation, CVPR 2022, equation 7 and the released
    configurations.
    """
    return Method(1.0 * labels + warmup(_WARM, 1.0) * response.dkd(alpha=1.0, beta=beta, temperature=temperature))


def dist() -> Method:
    """Correlations within and between classes.

    Reference: Huang, You, Wang, Qian, Xu, Knowledge Distillation from A Stronger Teacher, NeurIPS 2022.
    """
    return Method(1.0 * labels + 1.0 * response.dist(temperature=4.0))


def fitnet() -> Method:
    """The middle stage as a hint, in one stage of training.

    Reference: Romero et al., FitNets: Hints for Thin Deep Nets, ICLR 2015; weight of the CIFAR-100 protocol.
    """
    return Method(1.0 * labels + 100.0 * feature.hint(middle))


def fitnet_two_stages() -> Method:
    """The middle stage as a hint first, then the labels.

    Reference: Romero et al., ICLR 2015, algorithm 1.
    """
    return fitnet()._replace(first=1 / 4)


def at() -> Method:
    """Attention maps of all stages, as the authors' code has them.

    Reference: Zagoruyko, Komodakis, Paying More Attention to Attention, ICLR 2017; weight of the released code.
    """
    return Method(1.0 * labels + 1000.0 * feature.attention(stages))


def at_paper() -> Method:
    """Attention maps of all stages, by the paper's formula.

    Reference: Zagoruyko, Komodakis, ICLR 2017, equation 2.
    """
    return Method(1.0 * labels + 1.0 * feature.attention_paper(stages))


def nst() -> Method:
    """Which places each channel selects, at all stages.

    Reference: Huang, Wang, Like What You Like: Knowledge Distill via Neuron Selectivity Transfer, 2017.
    """
    return Method(1.0 * labels + 50.0 * feature.nst(stages))


def fsp() -> Method:
    """How each stage flows into the next, first alone; both networks need as many channels.

    Reference: Yim, Joo, Bae, Kim, A Gift from Knowledge Distillation, CVPR 2017; weight of the CIFAR-100 protocol.
    """
    return Method(1.0 * labels + 50.0 * feature.fsp(stages), first=1 / 8)


def vid() -> Method:
    """The teacher's layers as the student's layers predict them, with a learned variance.

    Reference: Ahn, Hu, Damianou, Lawrence, Dai, Variational Information Distillation for Knowledge Transfer, CVPR 2019.
    """
    return Method(1.0 * labels + 1.0 * feature.vid(stages))


def ofd() -> Method:
    """Layers before the ReLU, through a margin; an earlier stage weighs half of the next.

    Reference: Heo et al., A Comprehensive Overhaul of Feature Distillation, ICCV 2019; the released weights.
    """
    return Method(1.0 * labels + 1e-3 * feature.ofd(stages))


def review(weight: Number = 1.0) -> Method:
    """All stages and the embedding fused from deep to shallow, with a warm-up.

    The weight is 5 for resnet32x4 to resnet8x4 and 0.6 for resnet56 to resnet20 in the released commands.

    Reference: Chen, Liu, Zhao, Jia, Distilling Knowledge via Knowledge Review, CVPR 2021.
    """
    return Method(1.0 * labels + warmup(_WARM, weight) * feature.review(stages + embedding))


def ab() -> Method:
    """Which side of zero each neuron is on, first alone; an earlier stage weighs half of the next.

    Reference: Heo, Lee, Yun, Choi, Knowledge Transfer via Distillation of Activation Boundaries Formed by Hidden
    Neurons, AAAI 2019; the released weights.
    """
    return Method(1.0 * labels + 3e-3 * feature.ab(stages), first=1 / 8)


def ft() -> Method:
    """The teacher's last stage in factors: a paraphraser learns them first.

    Reference: Kim, Park, Kwak, Paraphrasing Complex Network: Network Compression via Factor Transfer, NeurIPS 2018.
    """
    return Method(1.0 * labels + 500.0 * feature.ft(final), first=1 / 8)


def ft_crd() -> Method:
    """`ft` by the formula and the weight of the CIFAR-100 code, which takes the mean of squares first.

    Reference: Tian, Krishnan, Isola, ICLR 2020, the released `FactorTransfer`.
    """
    return Method(1.0 * labels + 200.0 * feature.ft_crd(final), first=1 / 8)


def pkd() -> Method:
    """Normalised layers, every one.

    Reference: Sun, Cheng, Gan, Liu, Patient Knowledge Distillation for BERT Model Compression, EMNLP 2019.
    """
    return Method(1.0 * labels + 10.0 * feature.pkd(stages))


def cosine() -> Method:
    """The angle between layers.

    Reference: Sanh, Debut, Chaumond, Wolf, DistilBERT, a distilled version of BERT, 2019, section 3.
    """
    return Method(1.0 * labels + 1.0 * feature.cosine(stages))


def rkd() -> Method:
    """Distances and angles between examples.

    Reference: Park, Kim, Lu, Cho, Relational Knowledge Distillation, CVPR 2019, section 4.1.
    """
    return Method(1.0 * labels + 25.0 * relation.rkd_distance + 50.0 * relation.rkd_angle)


def sp() -> Method:
    """Which examples of a batch the last stage finds alike.

    Reference: Tung, Mori, Similarity-Preserving Knowledge Distillation, ICCV 2019.
    """
    return Method(1.0 * labels + 3000.0 * relation.sp(final))


def pkt() -> Method:
    """Who is likely to be whose neighbour.

    Reference: Passalis, Tefas, Learning Deep Representations with Probabilistic Knowledge Transfer, ECCV 2018.
    """
    return Method(1.0 * labels + 30000.0 * relation.pkt)


def cc() -> Method:
    """Correlations of neighbours in the batch, as in the CIFAR-100 code.

    Reference: Peng et al., Correlation Congruence for Knowledge Distillation, ICCV 2019.
    """
    return Method(1.0 * labels + 0.02 * relation.cc_neighbours)


def cc_kernel() -> Method:
    """Correlations of all examples in the batch by the paper's kernel.

    Reference: Peng et al., ICCV 2019, equation 10.
    """
    return Method(1.0 * labels + 0.02 * relation.cc_kernel)


def crd(weight: Number = 0.8) -> Method:
    """An example's embedding against a bank of others'.

    Reference: Tian, Krishnan, Isola, Contrastive Representation Distillation, ICLR 2020.
    """
    return Method(1.0 * labels + weight * contrastive.crd)


def crd_kd(weight: Number = 0.8) -> Method:
    """`crd` with answers, as in the paper's best rows.

    Reference: Tian, Krishnan, Isola, ICLR 2020, table 1 (CRD + KD).
    """
    return Method(1.0 * labels + 1.0 * response.kl(temperature=4.0) + weight * contrastive.crd)


def queue(weight: Number = 0.8) -> Method:
    """An example's embedding against the last ones of a stream.

    Reference: Fang et al., SEED: Self-supervised Distillation for Visual Representation, ICLR 2021, equation 5.
    """
    return Method(1.0 * labels + weight * contrastive.queue)
