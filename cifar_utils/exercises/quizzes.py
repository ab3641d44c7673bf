"""Three questions per notebook. Each option has a sentence of its own, for a wrong choice teaches as well."""

# notebook -> questions; each: the question, and its options: (text, is it right, why).
QUIZZES: dict[int, list[tuple[str, list[tuple[str, bool, str]]]]] = {
    1: [
        ("Why is there a validation set beside the test set?", [
            ("More images make the accuracy more precise.", False, "The two are not added up: each has a purpose of its own."),
            ("Validation images are easier than test images.", False, "They are drawn like the training images, and are as hard as any."),
            ("So that choices and the final report use different images.", True, "A network looks a little too good on the images used to choose it."),
        ]),
        ("Which images does the augmentation policy change?", [
            ("Training and validation images.", False, "Then the validation accuracy would be that of altered images, and change with every draw."),
            ("Training images only.", True, "The others represent the images that the network will be used on."),
            ("All images, each in the same way.", False, "The same change for all would teach nothing: the network would only see other images."),
        ]),
        ("A policy rotates digits by up to 180 degrees. What goes wrong?", [
            ("A 6 becomes a 9 with the label 6.", True, "Augmentation must not change what the label stands for."),
            ("Nothing: more variety is always better.", False, "Only variety that keeps the label helps."),
            ("Training becomes too slow.", False, "The cost of a rotation does not depend on its angle."),
        ]),
    ],
    2: [
        ("A convolution has 16 input and 32 output channels. How many channels does one of its filters look at?", [
            ("1", False, "A filter that looks at one channel is a special case (depthwise convolution)."),
            ("16", True, "Each filter looks at all input channels and writes one output channel."),
            ("32", False, "That is the number of filters."),
        ]),
        ("A new network's first loss is 5.1, with ten classes. What does that tell you?", [
            ("Its first predictions are confident and wrong.", True, "A network that gives every class the same chance has a loss of log 10 = 2.30."),
            ("It needs more training.", False, "Before training it cannot be worse than guessing unless it is sure of wrong classes."),
            ("The learning rate is too large.", False, "No step has been taken yet, so the rate has had no effect."),
        ]),
        ("A network memorizes 32 images perfectly. What have you shown?", [
            ("That it will reach a high accuracy.", False, "It has only seen 32 images, and predicts others poorly."),
            ("That it overfits, so it is too large.", False, "Every useful network can overfit 32 images."),
            ("That its layers, loss and gradients work together.", True, "A network that cannot do that has a bug, or is far too small."),
        ]),
    ],
    3: [
        ("The validation loss rises while the training loss still falls. Which checkpoint do you keep?", [
            ("The last one: it has trained longest.", False, "Since the validation loss rises, it has become worse on new images."),
            ("The one with the lowest validation loss.", True, "That is what `best` holds."),
            ("The one with the lowest training loss.", False, "That is the last one, and it measures how well images are memorized."),
        ]),
        ("You forget optimizer.zero_grad(). What happens?", [
            ("Nothing changes: backward overwrites the gradients.", False, "backward adds to the gradients that are there."),
            ("The network is reset.", False, "zero_grad clears gradients, not weights."),
            ("Gradients of all steps add up, and the steps become wrong.", True, "In effect old batches take part in every step."),
        ]),
        ("The validation loss is lower than the training loss. Is that possible?", [
            ("Yes: training images are augmented, and so they are harder.", True, "Also, the training loss is a mean over an epoch in which the network still improved."),
            ("No, there must be a leak.", False, "There may be one, but there is a simpler reason."),
            ("Yes: validation has fewer images.", False, "A mean does not fall because it is over fewer images."),
        ]),
    ],
    4: [
        ("Network A predicts 84.2% and network B 84.6% of the same 10,000 test images correctly. What do you do?", [
            ("Report that B is better.", False, "So small a difference may be chance."),
            ("Compare the two 95% intervals.", False, "They overlap, but overlapping intervals do not settle the question."),
            ("Count the images on which exactly one of them is right.", True, "These are the only images that tell the two apart: McNemar's test."),
        ]),
        ("A network predicts the classes of 1,000 images with a probability of 90% each, and 700 of these predictions are right. How would you describe the network?", [
            ("Calibrated.", False, "Then about 900 of them would be right."),
            ("Too sure of itself.", True, "A temperature above 1 makes it less sure, and its predicted classes stay the same."),
            ("Not sure enough.", False, "It would have to be right more often than it claims."),
        ]),
        ("You dislike the test result, change the network and test again until it is better. Is the last result honest?", [
            ("No: the test set has become a validation set.", True, "Report the accuracy on images that were not used for any choice."),
            ("Yes, if the test images were never trained on.", False, "The network was chosen on them, so its accuracy on them is too high."),
            ("Yes, if you report the number of attempts.", False, "That is better than silence, but the number is still too high."),
        ]),
    ],
    5: [
        ("A trick gains 0.1 points with one seed. What do you conclude?", [
            ("It helps.", False, "Seeds alone can change the accuracy by more than that."),
            ("Nothing yet: several seeds are needed, with and without it.", True, "Compare the means of runs that are paired by seed."),
            ("It does not help.", False, "One run can hide a gain as well as fake one."),
        ]),
        ("Progressive resizing trains on small images first. What does it save?", [
            ("Memory for the weights.", False, "The weights of a convolution do not depend on the image's size."),
            ("Images: the small ones come first.", False, "All images are used. Only their resolution changes."),
            ("Arithmetic: half the side means a quarter of the work.", True, "A convolution computes its filters at every place of the image."),
        ]),
        ("bfloat16 keeps the exponent of float32, with fewer digits. What follows?", [
            ("Large and small numbers still fit, each a little rounded.", True, "So training need not scale the loss to keep small gradients above 0, as with float16."),
            ("Numbers above 65,504 overflow.", False, "That is float16's limit."),
            ("Results are exact, only faster.", False, "Two to three decimal digits are left."),
        ]),
    ],
    6: [
        ("Augmentation helps most when ...", [
            ("there are few images and enough epochs.", True, "A small set of images is soon memorized, and variants of its images take time to learn."),
            ("there are many images and few epochs.", False, "Then each image is seen a few times only, and hardly memorized."),
            ("the network is small.", False, "A small network memorizes less, so it gains less."),
        ]),
        ("A network is trained with rotations up to 10 degrees. How well does it predict images rotated by 60?", [
            ("As well as others: it has learned what rotation is.", False, "It has learned to tolerate what it has seen."),
            ("Much worse: that is far outside its policy.", True, "Robustness reaches a little beyond what was trained, not far."),
            ("Never correctly: 60 degrees are not in its policy.", False, "It is still right more often than guessing, but far less often than on upright images."),
        ]),
        ("Strong augmentation lowers the accuracy after 8 epochs. Is it bad?", [
            ("Yes, leave it out.", False, "Perhaps it only needs more epochs."),
            ("No, accuracy does not matter.", False, "It does. But after how many epochs?"),
            ("It depends on the epochs: harder images take longer to learn.", True, "Compare the policies at the number of epochs that you can afford."),
        ]),
    ],
    7: [
        ("You show a cup of coffee to a network that knows ten other classes. What do its probabilities do?", [
            ("All are low, since it does not know cups.", False, "They always sum to 1, so at least one is 10% or more."),
            ("They sum to 1 over the ten classes.", True, "A softmax has no place for “none of them”."),
            ("The network reports an error.", False, "It computes ten numbers for any image."),
        ]),
        ("Your folder has 50 photos of each class, and each class was photographed in a different room. What is the largest risk?", [
            ("The network learns the rooms, not the objects.", True, "Validate on photos from elsewhere, or you will not notice."),
            ("Fifty photos are too many.", False, "More images help."),
            ("The photos are too large.", False, "They are cropped and resized when they are read."),
        ]),
        ("Frames of one video are split at random into training and validation. Is the accuracy honest?", [
            ("Yes, the split is random.", False, "Neighboring frames are nearly the same image."),
            ("Yes, if the split is stratified.", False, "Stratifying balances the classes. It does not separate related images."),
            ("No: nearly the same image is in both parts.", True, "Split by video, so that related images stay together."),
        ]),
    ],
    8: [
        ("Two processes train one network. How are their gradients combined?", [
            ("Not at all: each process steps by its own gradient, and the weights are averaged at the end.", False, "After one step their weights would differ, and so would all that follows."),
            ("They are exchanged and averaged before every step.", True, "So every process takes the same step, and all hold the same weights."),
            ("The process that is done first takes its step, and the other gradient is dropped.", False, "Every step waits for the slowest process."),
        ]),
        ("Which part of a step does not get shorter with more processes?", [
            ("The exchange of gradients.", True, "It grows, while each process has less to compute."),
            ("Forward and backward.", False, "That is the part which is divided."),
            ("None: twice the processes, half the time.", False, "Only if there were nothing to exchange and nothing to wait for."),
        ]),
        ("You have four computers and want to compare four policies. What do you do?", [
            ("Train them one after the other, each on all four.", False, "Every step of every run waits for an exchange."),
            ("Train four networks side by side, one on each.", True, "They exchange nothing, so all four take as long as one."),
            ("Train one network with all four policies.", False, "Then you cannot tell which policy did what."),
        ]),
    ],
}  # fmt: skip
