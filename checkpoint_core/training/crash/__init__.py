"""Why a training ended."""
