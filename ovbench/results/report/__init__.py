"""One offline page of everything that runs found: built from records, answers and sheets, without a tensor."""
