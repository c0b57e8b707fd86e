"""What measurements compare with: the published loops, and GPT-2 as a user would train it."""
