"""What sd-scripts will do; pure, except for the dataset."""
