"""The command that packs published data sets, by their names, from the files that their publishers ship."""
