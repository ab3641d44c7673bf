"""The hyper-parameters of a training, all in one place."""

from dataclasses import dataclass

from cifar_utils.data import Split
from cifar_utils.settings import Profile


@dataclass(frozen=True)
class Config:
    """The hyper-parameters, chosen on the validation split.

    Attributes:
        epochs: passes over the training split; all but the first leave images out, see `skip`.
        batch_size: images a step; an incomplete last batch is left out (shuffling gives every image its turn).
        optimiser: "muon", or "sgd", which wants other numbers (PLAIN_SGD); both with Nesterov momentum.
        learning_rate: of the convolutions' filters, at the peak of the schedule.
        linear_rate, bias_rate: learning rates of the linear layer and of the biases, as multiples of the filters'.
        momentum, weight_decay: of the optimiser; only weights decay, and with Muon only the linear layer's.
        label_smoothing: share of the target that is spread over all classes.
        warm_up: share of the steps in which the learning rate rises; it falls to 0 in the others.
        skip: share of the images that each epoch after the first leaves out, the easiest ones; see `selection`.
        small_sides: the training images' side in pixels, and until which share of the steps, in turn; 32 afterwards.
        bfloat16: whether convolutions multiply 16-bit numbers, where the device is made for that; see `device`.
        compile: whether the network is compiled first, see `compiling`; changes the last bits of the result.
        seed: of the network's initial weights, of the order of images and of their augmentation.
    """

    epochs: int = 9
    batch_size: int = 500
    optimiser: str = "muon"
    learning_rate: float = 0.18
    linear_rate: float = 8.0
    bias_rate: float = 100.0
    momentum: float = 0.6
    weight_decay: float = 0.0
    label_smoothing: float = 0.0
    warm_up: float = 0.0
    skip: float = 0.5
    small_sides: tuple[tuple[int, float], ...] = ((16, 0.15), (24, 0.65))
    bfloat16: bool = True
    compile: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        # Read back from JSON, pairs are lists.
        object.__setattr__(self, "small_sides", tuple(map(tuple, self.small_sides)))

    @classmethod
    def of(cls, profile: Profile, training: Split, seed: int = 0) -> "Config":
        """The configuration of a profile: more and smaller batches where there is only the sample."""
        if training.is_sample:
            return cls(profile.sample_epochs, profile.sample_batch_size, seed=seed, **FEW_IMAGES)
        return cls(profile.epochs, profile.batch_size, seed=seed, **(WITH_PATIENCE if profile.name == "full" else {}))


# The fields of Config that few images want otherwise: leaving the easy ones of them out gained nothing on validation.
FEW_IMAGES = {"skip": 0.0, "label_smoothing": 0.1}

# Those that the full profile's long training wants otherwise. It has the time to meet every image in every epoch at its
# full size, and learns them by heart unless told not to be too sure. Its numbers are those of Muon's published run.
WITH_PATIENCE = {"learning_rate": 0.24, "skip": 0.0, "label_smoothing": 0.2, "small_sides": ()}

PLAIN_SGD = {  # the fields of Config that SGD wants otherwise; chosen on the validation split, like Muon's
    "optimiser": "sgd", "learning_rate": 0.2, "linear_rate": 4.0, "bias_rate": 8.0, "momentum": 0.9,
    "weight_decay": 5e-4, "warm_up": 0.2,
}  # fmt: skip
