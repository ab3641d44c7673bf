# %% [markdown]
# # Exercises for notebook 1 · Data and augmentation
#
# Four exercises and one extra. Each takes at most six lines and eight minutes. Replace the `...` or repair the code,
# and run the cell: the check says what is right or what to look at. `hint("1.1")` gives up to three hints, one per
# call, and `solution("1.1")` shows a solution. Any sound answer passes, not only ours.

# %%
from dataclasses import replace

from torchvision.transforms import v2

from cifar_utils.augment import PRESETS, Policy
from cifar_utils.exercises import check, hint, quiz, solution

full = PRESETS["full"]

# %% [markdown]
# ## 1.1 Predict: cats in the validation set
#
# The full CIFAR-10 has 50,000 training images, equally many of each of its ten classes. The stratified split of
# notebook 1 takes 10% of them for validation. How many cats are in the validation set?

# %% exercise="1.1" part="stub"
cats = ...
check("1.1", cats)

# %% exercise="1.1" part="solution"
# A tenth of the images are cats, and a tenth of those is for validation.
cats = 50_000 // 10 // 10
check("1.1", cats)

# %% [markdown]
# ## 1.2 Code: shift and flip, and nothing else
#
# Write a transform that shifts 32 x 32 images by up to 4 pixels horizontally (left or right) and vertically (up or
# down), and mirrors half of the images. Nothing else may happen to an image, and pixels from outside it are black. A
# `Policy` is the shortest way.

# %% exercise="1.2" part="stub"
shift_and_flip = ...
check("1.2", shift_and_flip)

# %% exercise="1.2" part="solution"
# Fractions of the image's side.
shift_and_flip = Policy(flip_p=0.5, translate=(4 / 32, 4 / 32))
check("1.2", shift_and_flip)

# %% [markdown]
# ## 1.3 Repair: images for training and validation
#
# This function prepares the images of both splits. What is wrong? Repair it. (Without a number, a policy takes epoch 0:
# that is not the mistake.)


# %% exercise="1.3" part="stub"
def prepare(train, val, policy):
    return policy(train.images, train.index), policy(val.images, val.index)


check("1.3", prepare)


# %% exercise="1.3" part="solution"
def prepare(train, val, policy):
    return policy(train.images, train.index), val.images


check("1.3", prepare)

# %% [markdown]
# ## 1.4 Code: your policy
#
# This is the first part of your project: the policy with which you will train in notebook 3. It may change images as
# much as you like, as long as they keep their labels. As a rough test, the shipped network classifies images that your
# policy has augmented: your policy passes if the network keeps at least 85% of the accuracy that it has without
# augmentation. Your policy is then saved for notebook 3; if you saved one from the explorer, a copy of that is kept.

# %% exercise="1.4" part="stub"
my_policy = ...
check("1.4", my_policy)

# %% exercise="1.4" part="solution"
my_policy = replace(full, degrees=15, scale=(0.85, 1.15))
check("1.4", my_policy)

# %% [markdown]
# ## 1.5 Extra · Explore: the strength that halves the accuracy
#
# At what strength is the shipped network's accuracy half of what it is without augmentation? Use notebook 1's explorer,
# or try a few strengths here: the check passes within 6 percentage points of half, and otherwise replies with the
# accuracy under `full.scaled(strength)`.

# %% exercise="1.5" part="stub"
strength = ...
check("1.5", strength)

# %% exercise="1.5" part="solution"
strength = 3.5  # between 3, where more than half is left, and 4, where less is
check("1.5", strength)

# %% [markdown]
# ## Quiz
#
# Three questions. Answer with the option's letter, as in `quiz(1, 1, "a")`.

# %%
quiz(1, 1)

# %%
quiz(1, 2)

# %%
quiz(1, 3)
