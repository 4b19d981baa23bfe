"""Results of other programs as rows of their own: marked as foreign, with the file named, never beside ours."""
