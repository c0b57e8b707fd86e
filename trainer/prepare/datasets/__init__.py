"""Published data sets, read from the files as their publishers ship them."""
