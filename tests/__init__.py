"""The tests: one module for each module of the project, each beginning with one valid world."""
