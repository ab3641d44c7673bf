"""The fast network and its tricks, each one file that plugs into `fit` where a part of your own could."""

from cifar_utils.speedrun.cnn import CNN, network
from cifar_utils.speedrun.recipes import RECIPES, Recipe, recipe

__all__ = ["CNN", "RECIPES", "Recipe", "network", "recipe"]
