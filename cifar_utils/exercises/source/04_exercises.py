# %% [markdown]
# # Exercises for notebook 4 · Evaluation
#
# Four exercises and two extras. `hint("4.1")` gives up to three hints, one per call, and `solution("4.1")` shows a
# solution.

# %%
import numpy as np

from cifar_utils import data, network_file, overview, runs, speedrun
from cifar_utils.evaluation import compare, plots, predict, robustness
from cifar_utils.exercises import check, hint, quiz, solution
from cifar_utils.plots import show

# %% [markdown]
# ## 4.1 Predict: recall and precision
#
# Rows are the true classes cat, dog and frog, columns the predicted ones. What are the recall and the precision of
# *cat*? Hand in two fractions.

# %%
print(np.array([[70, 20, 10], [15, 80, 5], [5, 0, 95]]))

# %% exercise="4.1" part="stub"
recall, precision = ..., ...
check("4.1", (recall, precision))

# %% exercise="4.1" part="solution"
# Along the row, and along the column.
recall, precision = 70 / (70 + 20 + 10), 70 / (70 + 15 + 5)
check("4.1", (recall, precision))

# %% [markdown]
# ## 4.2 Repair: the best epoch
#
# This function chooses the epoch whose network is reported. The history has one row per epoch with `epoch`,
# `training_loss`, `validation_loss`, `validation_accuracy` and `test_accuracy`. Repair the choice.


# %% exercise="4.2" part="stub"
def best_epoch(history):
    return max(history, key=lambda row: row["test_accuracy"])["epoch"]


check("4.2", best_epoch)


# %% exercise="4.2" part="solution"
def best_epoch(history):
    return min(history, key=lambda row: row["validation_loss"])["epoch"]


check("4.2", best_epoch)

# %% [markdown]
# ## 4.3 Explore: find the leak
#
# Five teams report an accuracy. In which of these did the images behind the reported accuracy, or copies of them,
# influence the training or the choice of what is reported?
#
# - **a** makes ten augmented copies of every photo, then splits all copies at random into training and test images.
# - **b** trains five networks, takes the one with the best validation accuracy, and reports its test accuracy.
# - **c** tries 30 policies, and reports the highest of the 30 test accuracies.
# - **d** measures mean and standard deviation on all 60,000 images for normalization, then trains on 45,000 of them
#   and reports the accuracy on the rest.
# - **e** finds on the validation images that six views are better than one, and reports the test accuracy with six
#   views.

# %% exercise="4.3" part="stub"
leaks = {...}  # letters, as in {"a", "b"}
check("4.3", leaks)

# %% exercise="4.3" part="solution"
leaks = {"a", "c", "d"}
check("4.3", leaks)

# %% [markdown]
# ## 4.4 Code: defend your result
#
# This is the last part of your project: two networks, the same images, and a claim. Compare your run with another
# one. Until you have two runs, compare one view and six views (test-time augmentation) of the shipped network, as
# below. If p is below 0.05, claim "the first is better" or "the second is better"; otherwise, claim "cannot tell".

# %%
# Validation images, since which network to keep is a choice. (All images of the sample
# lie in the full set's validation split, so full-set runs can be compared, too.)
train, val = data.split(data.cifar10(sample=True))
model = runs.load(runs.SHIPPED, speedrun.network(train))
first, second = predict(model, val), predict(model, val, tta=True)

# Do you have two runs of your own? (0, 1) are rows of the table in exercise 3.4, which
# overview.table(overview.find_runs()) shows again: choose two with the same images,
# and remove "# " before the next four lines.

# one, another = (overview.find_runs()[row].folder for row in (0, 1))
# model = network_file.trained(one, speedrun.CNN)
# other = network_file.trained(another, speedrun.CNN)
# first, second = predict(model, val), predict(other, val)

# Were both trained on the full set? Then compare on all 5,000 validation images: before
# the line with `one, another`, add
# train, val = data.split(data.cifar10())

print(compare(first, second))

# %% exercise="4.4" part="stub"
claim = ...
check("4.4", (first, second, claim))

# %% exercise="4.4" part="solution"
result = compare(first, second)
claim = "cannot tell"
if result.p_value < 0.05:
    claim = "the second is better" if result.difference > 0 else "the first is better"
check("4.4", (first, second, claim))

# %% [markdown]
# For your report, fill in: "My network reaches ... % (... % to ... %) on ... images. Against ... the difference is ...
# points (... to ..., p = ...). I do *not* claim that ... Its weakest class is ..."
#
# And how robust are your networks to rotation? The curves show the accuracy at each angle. (Without runs
# of your own, the second network is one before training.)

# %%
if "other" not in globals():
    other = speedrun.network(train)
networks = {"first": model, "second": other}
curves = {
    name: robustness.robustness_curve(net, val, "rotation")
    for name, net in networks.items()
}
units = {"rotation": robustness.CORRUPTIONS["rotation"].unit}
show(plots.robustness_curves({"rotation": curves}, units, f"Robustness ({val})"))

# %% [markdown]
# ## 4.5 Extra · Code: paired counts
#
# `a` and `b` are boolean arrays [N]: `a[i]` is True if the first network predicts image i correctly, `b[i]` if the
# second does. Return two counts: images that only the first predicts correctly, and images that only the second
# predicts correctly.


# %% exercise="4.5" part="stub"
def paired_counts(a, b): ...


check("4.5", paired_counts)


# %% exercise="4.5" part="solution"
def paired_counts(a, b):
    return (a & ~b).sum(), (~a & b).sum()


check("4.5", paired_counts)

# %% [markdown]
# ## 4.6 Extra · Explore: where robustness ends
#
# In the curves above (*For your report*): which is the smallest of the measured clockwise angles at which the first
# network's accuracy has fallen by more than 10 percentage points? Set `angle` to it, or to None if it never falls so
# far. Read it off the figure, or let NumPy find it: the columns of a curve are angle, accuracy, and the ends of its
# interval.

# %% exercise="4.6" part="stub"
angle = ...
check("4.6", (curves["first"], angle))

# %% exercise="4.6" part="solution"
severity, accuracy = curves["first"][:, 0], curves["first"][:, 1]
lost = (accuracy[severity == 0] - accuracy).round(6)
fallen = severity[(severity > 0) & (lost > 0.1)]
angle = fallen[0] if len(fallen) else None
check("4.6", (curves["first"], angle))

# %% [markdown]
# ## Quiz

# %%
quiz(4, 1)

# %%
quiz(4, 2)

# %%
quiz(4, 3)
