"""Exercises of notebook 3: steps, a training step, a fair evaluation, and a run of your own."""

import json
from copy import deepcopy
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from cifar_utils import overview, runs, settings
from cifar_utils.evaluation.inference import predict
from cifar_utils.exercises.core import RIGHT, Wrong, exercise
from cifar_utils.exercises.images import images
from cifar_utils.models import Normalize, SmallCNN


@exercise(
    "3.1",
    "Predict",
    "How many steps?",
    hints=(
        "A step uses one batch. How many batches are in 45,000 images?",
        "45,000 / 128 is not a whole number. The remaining images make a smaller batch.",
        "Round up the batches of one epoch, then multiply by the epochs.",
    ),
    wrong={
        "one": Wrong("the steps of one epoch", "answer = 352", "That is one epoch."),
        "down": Wrong(
            "the last, smaller batch dropped",
            "answer = 351 * 12",
            "45,000 is not a multiple of 128. Are the remaining images left out?",
        ),
        "images": Wrong(
            "images instead of batches", "answer = 45_000 * 12", "These are images. A step uses a whole batch of them."
        ),
        "fraction": Wrong("no rounding", "answer = 45_000 / 128 * 12", "There is no fraction of a step."),
        "all": Wrong("50,000 images", "answer = 391 * 12", "A tenth of the 50,000 images is for validation."),
        "late": Wrong(
            "rounded once, at the end",
            "answer = 4219",
            "Every epoch has a smaller last batch of its own, not only the last one.",
        ),
        "other": Wrong(
            "a slip in the arithmetic",
            "answer = 4000",
            "How many batches does one epoch have? Then multiply by the epochs.",
        ),
    },
    meaning="Each of these steps changes the weights once. The learning rate schedule is planned for this number.",
    sound=("answer = 4224", "answer = -(-45_000 // 128) * 12"),
)
def total_steps(answer) -> str:
    replies = {4224: RIGHT, 352: "one", 4212: "down", 4218: "late", 4219: "late", 540_000: "images", 4692: "all"}
    return replies.get(answer, "fraction" if answer != int(answer) else "other")


STEP = "def answer(model, optimizer, images, labels):\n"
LOSS = "    loss = F.cross_entropy(model(images), labels)\n"


@exercise(
    "3.2",
    "Code",
    "One training step",
    hints=(
        "The five lines are in notebook 3, under “The loop, written out”.",
        "The gradients of the step before must be cleared before backward computes new ones.",
        "Loss, zero_grad, backward, step, and return the loss as a number.",
    ),
    wrong={
        "step": Wrong(
            "no optimizer.step()",
            STEP + LOSS + "    optimizer.zero_grad()\n    loss.backward()\n    return loss.item()",
            "The weights are the same after the step.",
        ),
        "backward": Wrong(
            "no backward()",
            STEP + LOSS + "    optimizer.zero_grad()\n    optimizer.step()\n    return loss.item()",
            "The optimizer took a step, but no gradient was ever computed. Which line computes it?",
        ),
        "change": Wrong(
            "two steps for one batch",
            STEP + LOSS + "    optimizer.zero_grad()\n    loss.backward()\n    optimizer.step()\n    optimizer.step()\n"
            "    return loss.item()",
            "The weights change, but not by one step along the gradient of the cross-entropy.",
        ),
        "clear": Wrong(
            "no zero_grad()",
            STEP + LOSS + "    loss.backward()\n    optimizer.step()\n    return loss.item()",
            "The first step is right, but the second is not: what happens to the first step's gradients?",
        ),
        "order": Wrong(
            "zero_grad() between backward() and step()",
            STEP + LOSS + "    loss.backward()\n    optimizer.zero_grad()\n"
            "    optimizer.step()\n    return loss.item()",
            "When the optimizer steps, there are no gradients: look at the order of your lines.",
        ),
        "softmax": Wrong(
            "a softmax before the cross-entropy",
            STEP
            + LOSS.replace("model(images)", "model(images).softmax(1)")
            + "    optimizer.zero_grad()\n    loss.backward()\n    optimizer.step()\n    return loss.item()",
            "The returned loss is {found:.3f}, and the cross-entropy of the logits is {wanted:.3f}.",
        ),
        "return": Wrong(
            "the loss is not returned",
            STEP + LOSS + "    optimizer.zero_grad()\n    loss.backward()\n    optimizer.step()",
            "The weights change as they should. Return the loss as well.",
        ),
    },
    meaning="Two steps in a row change the weights exactly as they should.",
    sound=(
        STEP + LOSS + "    optimizer.zero_grad()\n    loss.backward()\n    optimizer.step()\n    return loss.item()",
        STEP
        + "    optimizer.zero_grad()\n"
        + LOSS
        + "    loss.backward()\n    optimizer.step()\n    return loss.detach()",
        STEP + LOSS + "    loss.backward()\n    optimizer.step()\n    model.zero_grad()\n    return float(loss)",
    ),
)
def training_step(answer) -> str | tuple[str, dict]:
    generator = torch.Generator().manual_seed(0)
    batches = [(torch.randn(8, 5, generator=generator), torch.arange(8) % 3) for _ in range(2)]
    torch.manual_seed(0)
    mine = nn.Linear(5, 3)
    reference = deepcopy(mine)
    optimizers = [torch.optim.SGD(model.parameters(), lr=0.5) for model in (mine, reference)]
    cleared: list[bool] = []  # at each call of step()
    computed: list[bool] = []  # at each call of backward()
    optimizers[0].register_step_pre_hook(lambda *_: cleared.append(True))
    mine.weight.register_hook(lambda _: computed.append(True))
    for x, labels in batches:
        before = deepcopy(mine.state_dict())
        found = answer(mine, optimizers[0], x, labels)
        wanted = F.cross_entropy(reference(x), labels)
        optimizers[1].zero_grad()
        wanted.backward()
        optimizers[1].step()
        if torch.equal(before["weight"], mine.weight):
            return "step" if not cleared else "order" if computed else "backward"
        if found is not None and abs(float(found) - wanted.item()) > 1e-4:
            return "softmax", {"found": float(found), "wanted": wanted.item()}
        if not torch.allclose(mine.weight, reference.weight, atol=1e-6):
            return "clear" if x is batches[1][0] else "change"
    return RIGHT if found is not None else "return"


ACCURACY = "def answer(model, images, labels):\n"


@exercise(
    "3.3",
    "Repair",
    "An accuracy that changes the network",
    hints=(
        "Batch norm behaves differently in training and in evaluation (notebook 2).",
        "Which call puts a network into evaluation mode? It has to come before the prediction.",
        "Switch the mode in the first line. The training loop switches back for the next epoch.",
    ),
    wrong={
        "mode": Wrong(
            "eval() is still forgotten",
            ACCURACY + "    with torch.no_grad():\n"
            "        return (model(images).argmax(1) == labels).float().mean().item()",
            "The network's batch norm statistics changed during the evaluation: it was in training mode.",
        ),
        "late": Wrong(
            "eval() after the prediction",
            ACCURACY + "    with torch.no_grad():\n        predicted = model(images).argmax(1)\n"
            "    model.eval()\n"
            "    return (predicted == labels).float().mean().item()",
            "eval() comes after the prediction, so it is too late.",
        ),
        "count": Wrong(
            "the number of correct images",
            ACCURACY + "    model.eval()\n    with torch.no_grad():\n"
            "        return (model(images).argmax(1) == labels).sum().item()",
            "The result is {found}. An accuracy is a fraction from 0 to 1.",
        ),
        "other": Wrong(
            "the smallest logit instead of the largest",
            ACCURACY + "    model.eval()\n    with torch.no_grad():\n"
            "        return (model(images).argmin(1) == labels).float().mean().item()",
            "The result is {found}, and {wanted:.3f} of these images are predicted correctly.",
        ),
    },
    meaning="The check that finds this mistake: predict one image alone and within a batch. The results must be equal.",
    sound=(
        ACCURACY + "    model.eval()\n    with torch.no_grad():\n"
        "        return (model(images).argmax(1) == labels).float().mean().item()",
        ACCURACY + "    was = model.training\n    model.eval()\n    correct = model(images).argmax(1) == labels\n"
        "    model.train(was)\n    return correct.float().mean()",
    ),
)
def accuracy_in_eval_mode(answer) -> str | tuple[str, dict]:
    train, val = images()
    torch.manual_seed(0)
    model = nn.Sequential(Normalize.from_dataset(train), SmallCNN(widths=(8, 8, 8)))
    for batch in torch.arange(600).split(100):  # so that batch norm's statistics are those of these images
        model(train.images[batch])
    part, before, wanted = val.select(torch.arange(100)), deepcopy(model.state_dict()), 0.75
    labels = torch.from_numpy(predict(model, part).predicted).long()
    labels[::4] = (labels[::4] + 1) % 10  # so that three of four predictions are correct
    model.train()
    found = answer(model, part.images / 255, labels)
    if any(not torch.equal(before[name], tensor) for name, tensor in model.state_dict().items()):
        return "mode" if model.training else "late"
    if found is None or abs(float(found) - wanted) > 1e-6:
        return ("count" if found is not None and found > 1 else "other"), {"found": found, "wanted": wanted}
    return RIGHT


@exercise(
    "3.4",
    "Code",
    "Your run",
    hints=(
        "Notebook 3 trains with your policy and your network by itself, once exercises 1.4 and 2.4 are right.",
        "fit and the dashboard print the folder: “Training in runs/...”. The same call resumes a run that was stopped.",
        "Hand in the folder's name as a string: copy it from the last column of the table above.",
    ),
    wrong={
        "name": Wrong(
            "the row's number",
            "answer = 0",
            "Hand in the folder's name, from the last column, as a string in quotes.",
        ),
        "missing": Wrong(
            "a name that does not exist",
            'answer = "no_such_run"',
            "There is no run {name} in {folder}/. The runs are: {names}.",
        ),
        "empty": Wrong(
            "a folder in which training never began",
            'answer = tiny_run("empty", begin=False)',
            "There is no readable run in {name}. Run its cell again, and hand in the folder that it names.",
        ),
        "unfinished": Wrong(
            "a run that was stopped",
            'answer = tiny_run("stopped", stop=True)',
            "This run has {epoch} of {epochs} epochs. Run its cell again, or press Continue: it resumes.",
        ),
        "plain": Wrong(
            "a run without augmentation", 'answer = tiny_run("plain", transform=None)', "This run has no augmentation."
        ),
        "split": Wrong(
            "a run on other images",
            'answer = tiny_run("other", seed=7)',
            "This run was not validated on the workshop's validation images, so it cannot be compared with others.",
        ),
    },
    meaning="A finished run, with augmentation, on the workshop's split.",
    sound=(
        'answer = tiny_run("mine")',
        'answer = str(tiny_run("mine").name)',
        'answer = str(tiny_run("mine_482913").name)[-6:]',
    ),
    takes_text=True,
)
def your_run(answer) -> str | tuple[str, dict]:
    if not isinstance(answer, (str, Path)):
        return "name"
    folder = overview.folder_of(Path(answer))
    if not (folder / "run.json").is_file():
        names = ", ".join(run.folder.name for run in overview.find_runs()[:5]) or "none yet"
        return "missing", {"name": Path(answer).name, "folder": settings.runs_directory().name, "names": names}
    listed = overview.find_runs(directory=folder.parent)
    run = next((run for run in listed if run.folder.name == folder.name), None)
    if run is None:
        return "empty", {"name": folder.name}
    if run.epoch < run.epochs:
        return "unfinished", {"epoch": run.epoch, "epochs": run.epochs}
    about = json.loads((folder / "run.json").read_text())["settings"]
    if about["augmentation"] == "none" or about["augmentation"].endswith("(none)"):  # none, while images grow
        return "plain"
    if about["data"]["source"] not in ("CIFAR-10", "SAMPLE"):
        return "split"
    shipped = json.loads((runs.SHIPPED / "run.json").read_text())["settings"]  # its data set may not be here
    wanted = {"CIFAR-10": shipped["data"]["validation"], "SAMPLE": images()[1].fingerprint()}
    return RIGHT if about["data"]["validation"] == wanted[about["data"]["source"]] else "split"
