"""Networks and mathematics: tensors in, tensors out. Nothing here knows files, ranks or the clock."""
