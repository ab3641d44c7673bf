# %% [markdown]
# # Exercises for notebook 3 · Training
#
# Four exercises. Open them beside notebook 3 while it trains: the two have kernels (Python processes) of their own.
# `hint("3.1")` gives up to three hints, one per call, and `solution("3.1")` shows a solution.

# %%
import torch
from torch.nn import functional as F

from cifar_utils import overview
from cifar_utils.exercises import check, hint, quiz, solution

# %% [markdown]
# ## Quiz
#
# Three questions to answer while notebook 3 trains, as in `quiz(3, 1, "a")`.

# %%
quiz(3, 1)

# %%
quiz(3, 2)

# %%
quiz(3, 3)

# %% [markdown]
# ## 3.1 Predict: how many steps?
#
# 45,000 images, 128 per batch, 12 epochs. The last batch of an epoch may be smaller. How many steps does the training
# take?

# %% exercise="3.1" part="stub"
steps = ...
check("3.1", steps)

# %% exercise="3.1" part="solution"
steps = -(-45_000 // 128) * 12  # batches per epoch, rounded up, times epochs
check("3.1", steps)

# %% [markdown]
# ## 3.2 Code: one training step
#
# Write the step that notebook 3's loop takes for each augmented batch: compute the cross-entropy of the model's
# logits, change the weights once with its gradient, and return this loss as a number.


# %% exercise="3.2" part="stub"
def training_step(model, optimizer, images, labels): ...


check("3.2", training_step)


# %% exercise="3.2" part="solution"
def training_step(model, optimizer, images, labels):
    loss = F.cross_entropy(model(images), labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()


check("3.2", training_step)

# %% [markdown]
# ## 3.3 Repair: an accuracy that changes the network
#
# Called on a network in training mode, as after an epoch, this function changes what the network will predict later,
# although no gradient is computed. Repair it. (The training loop calls `model.train()` before the next epoch.)


# %% exercise="3.3" part="stub"
def accuracy(model, images, labels):
    with torch.no_grad():
        predicted = model(images).argmax(1)
    return (predicted == labels).float().mean().item()


check("3.3", accuracy)


# %% exercise="3.3" part="solution"
def accuracy(model, images, labels):
    model.eval()  # else batch norm would use this batch's mean, and remember it
    with torch.no_grad():
        predicted = model(images).argmax(1)
    return (predicted == labels).float().mean().item()


check("3.3", accuracy)

# %% [markdown]
# ## 3.4 Code: your run
#
# This is the third part of your project. Notebook 3 trains with the policy of exercise 1.4 and the network of exercise
# 2.4: run it up to and including the training cell, and hand in the name of your run's folder, as a string. For a long
# name, the last six characters are enough. These are your runs (run this cell again when the training has ended):

# %%
print(overview.table(overview.find_runs()))

# %% exercise="3.4" part="stub"
my_run = ...
check("3.4", my_run)

# %% part="solution"
from torch import nn

from cifar_utils import PRESETS, Normalize, SmallCNN, data, fit, settings

train, val = data.split(data.cifar10(sample=True))
model = nn.Sequential(Normalize.from_dataset(train), SmallCNN(widths=(8, 16, 32)))
my_run = settings.runs_directory() / "my_run"
fit(model, train, val, transform=PRESETS["full"], epochs=1, run=my_run)

# %% exercise="3.4" part="solution"
my_run = "my_run"  # take a name from your own table
check("3.4", my_run)
