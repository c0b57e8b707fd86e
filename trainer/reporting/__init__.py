"""What runs came to: a summary for the console and one page of HTML."""
