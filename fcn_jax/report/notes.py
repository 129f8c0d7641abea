"""Texts of the pages: how to read the numbers, and why they differ from the paper's."""

TRIVIAL = ("all-background", "majority class")
"""The names of the constant prediction; the notes on them are shown where it is the one."""

METRIC_NOTES = (
    (
        "mIoU",
        "The standard: one confusion matrix over the whole split, void left out; intersection "
        "over union of each class, averaged over the classes that occur in the truth or the "
        "prediction.",
    ),
    (
        "paper's IoU, per image",
        "Intersection / max(union, 1) for every image and class, void counted as background, "
        "averaged over all images and classes. A class that is not in an image counts as 0, so "
        "that even a perfect prediction stays far below 1. The paper's pixel accuracy also counts "
        "void as background.",
    ),
    (
        "paper's IoU, per 16 images",
        "The same over groups of 16 images. More classes occur in a group than in one image, so "
        "its ceiling is higher.",
    ),
    (
        "pixel accuracy",
        "The fraction of labelled pixels that are right. One class often fills most of the image, "
        "so that predicting nothing else already scores high: compare with that prediction.",
    ),
    (
        "all-background",
        "What a prediction of background everywhere scores, and what the true masks themselves "
        "score: the floor and the ceiling of each measure.",
    ),
    (
        "majority class",
        "What a prediction of the train split's largest class everywhere scores, and what the true "
        "masks themselves score: the floor and the ceiling of each measure. No class is named "
        "background.",
    ),
)

PAPER_DIFFERENCES = (
    "The paper prints one IoU and does not say how it averages. By its released code it is taken "
    "per image or per batch; its best number lies above what a perfect prediction can reach per "
    "image, so that row at least was taken per batch. Its number is therefore shown beside both "
    "variants here, and none is shown beside the standard mIoU.",
    "Two of the paper's rows (0.0358 and 0.0383 IoU, both at 0.751 pixel accuracy) sit at or "
    "next to what an all-background prediction scores, and its baseline accuracy of 0.704 is "
    "that of an all-background prediction with void counted wrong. Those networks had learnt "
    "next to nothing; the differences between such rows say little about the networks.",
    "The text's cosine annealing has a lower end (0.001) above its starting rate (0.0001), so the "
    "rate taken literally swings upwards. The released script uses the same value for both, which "
    "leaves the rate constant.",
    "In the released augmented and weighted scripts, an integer cast of the mask turns every class "
    "into background, and void, unless it was removed before, into aeroplane. The images are not "
    "normalised in training.",
    "For the last three networks the released scripts use a learning rate of 0.01 without weight "
    "decay; the text carries the baseline's settings over to them.",
    "The released U-Net shares one batch normalisation between the two convolutions of a stage; "
    "the text puts one after every convolution. The text's ResNet-50 is frozen; in the released "
    "script the statistics of its batch normalisations still move.",
    "The title of this page says which of the two its runs follow, the text or the scripts.",
)
"""Shown on a comparison page when a run carries numbers of the paper."""
