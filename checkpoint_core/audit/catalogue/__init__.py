"""Every finding's code and sentences."""
