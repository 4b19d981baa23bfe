"""Numbers from papers and repositories, as they were printed; never in a column with measured ones."""
