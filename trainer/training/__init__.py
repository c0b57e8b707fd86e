"""What both stages share: the training loop, metrics, EMA, evaluation, early stopping."""
