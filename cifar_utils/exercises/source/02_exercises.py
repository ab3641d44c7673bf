# %% [markdown]
# # Exercises for notebook 2 · A network of your own
#
# Four exercises and two extras. Replace the `...` or repair the code, and run the cell. `hint("2.1")` gives up to
# three hints, one per call, and `solution("2.1")` shows a solution. Any sound answer passes, not only ours.

# %%
import torch
from torch import nn
from torch.nn import functional as F

from cifar_utils.exercises import check, hint, quiz, solution
from cifar_utils.models import count_parameters

# %% [markdown]
# ## 2.1 Predict: the parameters of a layer
#
# How many parameters does `nn.Conv2d(16, 32, kernel_size=3, bias=False)` have? Predict first; then count them, if you
# like.

# %% exercise="2.1" part="stub"
parameters = ...
check("2.1", parameters)

# %% exercise="2.1" part="solution"
# Filters, channels that each looks at, rows and columns of its window.
parameters = 32 * 16 * 3 * 3
check("2.1", parameters)

# %% [markdown]
# ## 2.2 Repair: a network that cannot be made
#
# Something is missing. Run the cell, read the reply, and repair the class.


# %% exercise="2.2" part="stub"
class TinyNetwork(nn.Module):
    def __init__(self, classes=10):
        self.blocks = nn.Conv2d(3, 16, kernel_size=3)
        self.head = nn.Linear(16, classes)

    def forward(self, images):
        return self.head(self.blocks(images).relu().mean((2, 3)))


check("2.2", TinyNetwork)


# %% exercise="2.2" part="solution"
class TinyNetwork(nn.Module):
    def __init__(self, classes=10):
        super().__init__()  # prepares the module, so it comes before the first layer
        self.blocks = nn.Conv2d(3, 16, kernel_size=3)
        self.head = nn.Linear(16, classes)

    def forward(self, images):
        return self.head(self.blocks(images).relu().mean((2, 3)))


check("2.2", TinyNetwork)

# %% [markdown]
# ## 2.3 Repair: layers that are not trained
#
# This network runs, and its loss even falls a little. Yet something is wrong: look at
# `count_parameters(ListNetwork())`.


# %% exercise="2.3" part="stub"
class ListNetwork(nn.Module):
    def __init__(self, classes=10):
        super().__init__()
        self.blocks = [nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3)]
        self.head = nn.Linear(16, classes)

    def forward(self, images):
        for block in self.blocks:
            images = block(images)
        return self.head(images.mean((2, 3)))


check("2.3", ListNetwork)


# %% exercise="2.3" part="solution"
class ListNetwork(nn.Module):
    def __init__(self, classes=10):
        super().__init__()
        self.blocks = nn.Sequential(
            nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3)
        )
        self.head = nn.Linear(16, classes)

    def forward(self, images):
        return self.head(self.blocks(images).mean((2, 3)))


check("2.3", ListNetwork)

# %% [markdown]
# ## 2.4 Code: your network
#
# This is the second part of your project: a network of your own, with at most 250,000 parameters, that takes images
# [N, 3, 32, 32] and returns logits [N, 10]. Use `block` from notebook 2, repeated below, or anything else. The check
# covers shapes, trained layers, logits, the first loss, and a loss below 0.1 on 64 images within 300 steps. If your
# network passes, it is saved for notebooks 3 and 4.


# %%
def block(channels_in, channels_out):
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, kernel_size=3, padding=1, bias=False),
        nn.MaxPool2d(2),
        nn.BatchNorm2d(channels_out),
        nn.ReLU(),
        nn.Conv2d(channels_out, channels_out, kernel_size=3, padding=1, bias=False),
        nn.BatchNorm2d(channels_out),
        nn.ReLU(),
    )


# %% exercise="2.4" part="stub"
class MyNetwork(nn.Module):
    def __init__(self, classes=10):
        super().__init__()
        ...

    def forward(self, images): ...


check("2.4", MyNetwork)


# %% exercise="2.4" part="solution"
class MyNetwork(nn.Module):
    def __init__(self, classes=10):
        super().__init__()
        self.blocks = nn.Sequential(block(3, 32), block(32, 48), block(48, 96))
        self.head = nn.Linear(96, classes)

    def forward(self, images):
        return self.head(self.blocks(images).mean((2, 3)))


check("2.4", MyNetwork)

# %% [markdown]
# ## 2.5 Extra · Repair: a network that hardly learns
#
# Its loss never falls below 1.46. Which line is to blame? Repair it.


# %% exercise="2.5" part="stub"
class SlowNetwork(nn.Module):
    def __init__(self, classes=10):
        super().__init__()
        self.blocks = block(3, 16)
        self.head = nn.Linear(16, classes)

    def forward(self, images):
        return self.head(self.blocks(images).mean((2, 3))).softmax(1)


check("2.5", SlowNetwork)


# %% exercise="2.5" part="solution"
class SlowNetwork(nn.Module):
    def __init__(self, classes=10):
        super().__init__()
        self.blocks = block(3, 16)
        self.head = nn.Linear(16, classes)

    def forward(self, images):
        # Cross-entropy applies the softmax itself.
        return self.head(self.blocks(images).mean((2, 3)))


check("2.5", SlowNetwork)

# %% [markdown]
# ## 2.6 Extra · Code: a filter that blurs
#
# Write a [3, 3] tensor that blurs an image and leaves the brightness of a uniform gray image unchanged. Random noise
# must come out weaker, at most 0.9 times as strong.

# %% exercise="2.6" part="stub"
blur = ...
check("2.6", blur)

# %% exercise="2.6" part="solution"
blur = torch.ones(3, 3) / 9  # the mean of a pixel and its eight neighbors
check("2.6", blur)

# %% [markdown]
# ## Quiz

# %%
quiz(2, 1)

# %%
quiz(2, 2)

# %%
quiz(2, 3)
