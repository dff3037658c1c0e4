"""Train a classifier from labels, over several seeds; its workdir can be given to `distill --teacher`.

    python -m experiments.train_teacher --workdir=runs/teacher
    python -m experiments.train_teacher --dataset=mnist --train_split=train --validation_split= \
        --hidden=1200,1200 --dropout=0.5 --epochs=3 --workdir=runs/notebook-teacher
    python -m experiments.train_teacher --dataset=mnist --train_split=train --validation_split= --model=fast_cnn \
        --hidden=16,32,100 --batch_size=100 --epochs=10 --learning_rate=5e-3 --schedule='warmup(0.4, linear(1, 0))' \
        --dropout=0 --attack='fgsm_rs(0.3)' --workdir=runs/fgsm-rs

Cost: the first about 20 seconds on two cores, the second about 4 minutes, the third about a minute a seed. The third
is the adversarial training of Wong, Rice, Kolter, Fast is better than free, ICLR 2020.
"""

from kdjax.study import command
from kdjax.study.supervised import Config, main

if __name__ == "__main__":
    command.start(Config, main)
