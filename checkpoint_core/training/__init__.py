"""A training that runs: started, watched, stopped, brought back."""
