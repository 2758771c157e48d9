"""What goes in and what comes out: the columns of the manifest and of the result table, reading, and identity."""
