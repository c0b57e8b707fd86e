"""The mathematics of evaluation: distances between sets of features, similarity of images, counts of labels."""
