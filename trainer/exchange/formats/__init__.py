"""The formats of other projects, a file each: names, layouts, and what each can hold."""
