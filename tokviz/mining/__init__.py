"""Mining a data set for answers that pruning changes: a case file goes in, a folder of tables comes out."""
